"""Runs whose layers are watched: the same runs, and columns that survive whatever happens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nero
from lab.dying_task import DEATH, Dying
from lab.tiny_task import Blobs
from nero_lab.experiments.run import Run, find_variant, plan_run
from nero_lab.experiments.task import Task
from nero_lab.tasks.table import load_task
from nero_lab.training.context import Context
from nero_lab.training.layers import Layers
from nero_lab.training.loop import train_run

CPU = Context(accelerator="cpu")
WATCHED = replace(CPU, watch=4)
LAYERS = ("0.weight", "4.weight")


def planned(task: Task, optimizer: str = "nero", **changes: Any) -> Run:
    preset = replace(task.presets["tiny"], **changes)
    return plan_run(task, preset, find_variant(preset, optimizer), 0.02, 0).on(task.find_data(None))


class Crash(Exception):
    """What ends a run in these tests."""


class Crashing(Blobs):
    """Blobs, but for a step that fails."""

    def __init__(self, step: int) -> None:
        self.step = step

    def training_step(self, *args: Any, **options: Any) -> Any:
        if self.step == 0:
            raise Crash
        self.step -= 1
        return super().training_step(*args, **options)


def test_a_watched_run_is_the_same_run_with_columns():
    plain = train_run(Blobs(), planned(Blobs()), CPU)
    watched = train_run(Blobs(), planned(Blobs()), WATCHED)
    assert plain.layers == {}
    assert replace(watched, seconds=0, layers={}) == replace(plain, seconds=0)
    assert watched.layers["step"] == list(range(4, 61, 4))
    assert {len(column) for column in watched.layers.values()} == {15}
    quantities = {key.removesuffix(f"/{LAYERS[0]}") for key in watched.layers if LAYERS[0] in key}
    assert {"angle/mean", "angle_in_lr/max", "angle_from_start/mean", "lr"} < quantities
    assert {key.rpartition("/")[2] for key in watched.layers} == {"step", *LAYERS}
    # The schedule ends at a learning rate near 0.
    rates = watched.layers["lr/0.weight"]
    assert rates[0] == pytest.approx(0.02, rel=0.02)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("step", [2, 7, 30])
def test_a_watched_run_that_crashed_ends_with_the_same_columns(tmp_path: Path, step: int):
    run = planned(Blobs())
    whole = train_run(Blobs(), run, WATCHED)
    context = replace(WATCHED, checkpoints=tmp_path, save_steps=3)
    with pytest.raises(Crash):
        train_run(Crashing(step), run, context)
    resumed = train_run(Blobs(), run, context)
    assert replace(resumed, seconds=0) == replace(whole, seconds=0)


def test_a_run_may_be_watched_from_the_middle_on_or_no_longer(tmp_path: Path):
    run, folder = planned(Blobs()), {"save_steps": 4}
    whole = train_run(Blobs(), run, CPU)
    for before, after in ((CPU, WATCHED), (WATCHED, CPU)):
        folder["checkpoints"] = tmp_path / str(after.watch)
        with pytest.raises(Crash):
            train_run(Crashing(30), run, replace(before, **folder))
        resumed = train_run(Blobs(), run, replace(after, **folder))
        assert resumed.weights == whole.weights
        assert bool(resumed.layers) == (after is WATCHED)


def test_a_layer_that_dies_stands_still_from_then_on():
    task = Dying()
    layers = train_run(task, planned(task), replace(CPU, watch=3)).layers
    steps = layers["step"]
    for key in ("angle/mean", "angle_in_lr/max", "effective_rank"):
        dying, live = layers[f"{key}/dying.weight"], layers[f"{key}/live.weight"]
        for step, angle, other in zip(steps, dying, live, strict=True):
            assert (angle == 0) == (step >= DEATH), (key, step)
            assert other > 0


def test_other_optimizers_and_loops_of_their_own_are_refused():
    with pytest.raises(ValueError, match="only Nero's layers can be watched, and this run has"):
        train_run(Blobs(), planned(Blobs(), "adam"), WATCHED)
    task = load_task("pong")
    preset = task.presets["tiny"]
    run = plan_run(task, preset, preset.variants[0], 0.01, 0)
    with pytest.raises(ValueError, match="pong trains in a loop of its own"):
        train_run(task, run, WATCHED)


def test_columns_of_two_optimizers_and_of_layers_that_come_and_go():
    models = {"one": nn.Linear(4, 3), "two": nn.Linear(4, 3)}
    optimizers = {name: nero.Nero(each.named_parameters()) for name, each in models.items()}
    layers = Layers(optimizers, 1)
    for step, name in enumerate(("one", "one", "two"), start=1):
        models[name](torch.randn(2, 4)).sum().backward()
        optimizers[name].step()
        layers.collect(step)
    layers.collect(4)
    assert layers.columns["step"] == [1, 2, 3]
    assert [x is None for x in layers.columns["angle/mean/one.weight"]] == [False, False, True]
    assert [x is None for x in layers.columns["angle/mean/two.weight"]] == [True, True, False]
