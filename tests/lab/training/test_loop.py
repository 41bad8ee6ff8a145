"""The loop of a run: the same result whatever happens in between."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from lab.fake_runs import train_and_report
from lab.tiny_task import Blobs
from nero_lab.experiments.run import Result, Run, find_variant, plan_run
from nero_lab.experiments.task import Task
from nero_lab.optimizers import OptimizerSpec
from nero_lab.training.checkpoints import CheckpointError
from nero_lab.training.context import Context, Progress, Stopped
from nero_lab.training.loop import train_run

CPU = Context(accelerator="cpu")
STEPS = 4 * 15


def planned(task: Task, optimizer: str = "nero", lr: float = 0.01, **changes: Any) -> Run:
    preset = replace(task.presets["tiny"], **changes)
    return plan_run(task, preset, find_variant(preset, optimizer), lr, 0).on(task.find_data(None))


def same(one: Result, other: Result) -> bool:
    return replace(one, seconds=0) == replace(other, seconds=0)


class Crash(Exception):
    """What ends a run in these tests."""


class Crashing(Blobs):
    """Blobs, but for a step in which something happens."""

    def __init__(self, step: int, what: Callable[[], None]) -> None:
        self.step, self.what = step, what

    def training_step(self, *args: Any, **options: Any) -> Any:
        if self.step == 0:
            self.what()
        self.step -= 1
        return super().training_step(*args, **options)


def crash() -> None:
    raise Crash


def test_an_optimizer_that_looks_at_the_model_resumes_too(tmp_path: Path):
    run = planned(Blobs(), "nero-for-model", lr=0.03)
    whole = train_run(Blobs(), run, CPU)
    context = replace(CPU, checkpoints=tmp_path, save_steps=4)
    with pytest.raises(Crash):
        train_run(Crashing(30, crash), run, context)
    assert same(train_run(Blobs(), run, context), whole)


@pytest.mark.parametrize("optimizer", ["nero", "sgd", "adam", "lamb", "muon", "schedule-free"])
@pytest.mark.parametrize("step", [0, 7, 30, STEPS - 1])
def test_a_run_that_crashed_goes_on_to_the_same_end(tmp_path: Path, optimizer: str, step: int):
    run = planned(Blobs(), optimizer)
    whole = train_run(Blobs(), run, CPU)
    assert whole.steps == STEPS
    context = replace(CPU, checkpoints=tmp_path, save_steps=4)
    with pytest.raises(Crash):
        train_run(Crashing(step, crash), run, context)
    torch.rand(3)
    rest = Crashing(STEPS, crash)
    resumed = train_run(rest, run, context)
    assert same(resumed, whole)
    assert rest.step == step // 4 * 4
    # And once more, from the checkpoint of the end, without a step.
    assert same(train_run(Crashing(0, crash), run, context), whole)


def test_same_seed_same_result_and_other_seed_other_result():
    run = planned(Blobs())
    first = train_run(Blobs(), run, CPU)
    torch.rand(7)
    assert same(train_run(Blobs(), run, CPU), first)
    assert train_run(Blobs(), replace(run, seed=1), CPU).weights != first.weights


def test_what_is_measured():
    result = train_run(Blobs(), planned(Blobs(), lr=0.1, eval_every=3), CPU)
    assert result.status == "finished"
    assert result.curves["epoch"] == [3, 4]
    assert result.curves["step"] == [45, 60]
    assert set(result.curves) == {
        *("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    }
    assert set(result.metrics) == {"val", "test"}
    assert result.metric("val", "accuracy") == result.curves["val_accuracy"][-1]
    accuracy = result.metric("test", "accuracy")
    assert accuracy is not None
    assert accuracy > 0.8
    assert accuracy * 60 == pytest.approx(round(accuracy * 60))


class Counting(Blobs):
    """Its "loss" is the number of the step, whatever the weights are."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def training_step(self, model, batch, update, **options: Any) -> Any:
        self.rows.append(len(batch[0]))
        update(self.loss(model, batch))
        return {"loss": torch.tensor(float(len(self.rows)))}


def test_training_numbers_are_means_over_rows_since_the_row_before():
    task = Counting()
    result = train_run(task, planned(task), CPU)
    assert task.rows[:15] == [20] * 14 + [10]
    first = sum((step + 1) * rows for step, rows in enumerate(task.rows[:15])) / 290
    assert result.curves["train_loss"][0] == pytest.approx(first)
    assert result.curves["train_loss"][1] == pytest.approx(first + 15)


class Recording(Blobs):
    """Keeps the learning rate of every step."""

    def __init__(self) -> None:
        self.updates: list[torch.optim.Optimizer] = []
        self.norms: list[float] = []

    def training_step(self, model, batch, update, **options: Any) -> Any:
        numbers = super().training_step(model, batch, update, **options)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return numbers


def test_gradients_are_clipped_where_the_preset_says_so():
    free, clipped = Recording(), Recording()
    train_run(free, planned(free, "sgd"), CPU)
    train_run(clipped, planned(clipped, "sgd", clip_norm=0.01), CPU)
    assert max(free.norms) > 0.02
    assert max(clipped.norms) < 0.0101


@pytest.mark.parametrize(("limit", "lr"), [(float("inf"), 1e30), (1e-6, 0.01)])
def test_divergence_ends_a_run_early_and_is_recorded(tmp_path: Path, limit: float, lr: float):
    class Limited(Blobs):
        loss_limit = limit

    run = planned(Limited(), "sgd", lr=lr)
    context = replace(CPU, checkpoints=tmp_path)
    result = train_run(Limited(), run, context)
    assert result.status == "diverged"
    assert result.steps == 15
    assert result.curves["step"] == [15]
    assert same(train_run(Limited(), run, context), result)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path: Path):
    run = planned(Blobs())
    context = replace(CPU, checkpoints=tmp_path, save_seconds=1e9)
    with pytest.raises(Stopped, match="step 23"):
        train_run(Crashing(22, context.stop.set), run, context)
    context.stop.clear()
    rest = Crashing(STEPS, crash)
    assert same(train_run(rest, run, context), train_run(Blobs(), run, CPU))
    assert rest.step == 23


def test_checkpoints_of_another_run_are_refused(tmp_path: Path):
    context = replace(CPU, checkpoints=tmp_path)
    train_run(Blobs(), planned(Blobs()), context)
    with pytest.raises(CheckpointError, match="another run"):
        train_run(Blobs(), planned(Blobs(), lr=0.02), context)


def test_other_data_than_the_run_asks_for_are_refused():
    run = replace(planned(Blobs()), data_digest="2")
    with pytest.raises(ValueError, match=r"asks for blobs \(2\).*blobs \(1\)"):
        train_run(Blobs(), run, CPU)


def test_a_full_disk_ends_the_run_and_it_goes_on_when_there_is_room(tmp_path: Path, monkeypatch):
    run = planned(Blobs())
    context = replace(CPU, checkpoints=tmp_path, save_steps=10)
    synchronised, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        synchronised.append(descriptor)
        if len(synchronised) == 5:  # the third file; each is followed by its folder
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*last good one is .*step-20"):
        train_run(Blobs(), run, context)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10.pt", "step-20.pt"]
    monkeypatch.undo()
    rest = Crashing(STEPS, crash)
    assert same(train_run(rest, run, context), train_run(Blobs(), run, CPU))
    assert rest.step == 20


def test_progress_is_reported_with_the_newest_metrics():
    seen: list[Progress] = []
    train_run(Blobs(), planned(Blobs()), replace(CPU, on_progress=seen.append))
    assert seen[-1].step == seen[-1].steps == STEPS
    assert seen[-1].epoch == 3
    assert {"train_loss", "val_accuracy"} <= set(seen[-1].metrics)


def test_mixed_precision_trains():
    run = planned(Blobs(), lr=0.1, precision="bf16-mixed")
    result = train_run(Blobs(), run, CPU)
    assert result.weights != train_run(Blobs(), planned(Blobs(), lr=0.1), CPU).weights
    accuracy = result.metric("test", "accuracy")
    assert accuracy is not None
    assert accuracy > 0.8


def test_the_model_is_on_its_device_before_the_optimizer_is_built(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    to_device, build_for = Fabric.to_device, OptimizerSpec.build_for

    def moved(self: Fabric, x: Any) -> Any:
        seen.append("model" if isinstance(x, nn.Module) else "batch")
        return to_device(self, x)

    def built(self: OptimizerSpec, *arguments: Any, **options: Any) -> Any:
        seen.append("optimizer")
        return build_for(self, *arguments, **options)

    monkeypatch.setattr(Fabric, "to_device", moved)
    monkeypatch.setattr(OptimizerSpec, "build_for", built)
    train_run(Blobs(), planned(Blobs(), "nero-for-model"), CPU)
    assert seen[:3] == ["model", "batch", "optimizer"]


def test_an_epoch_without_batches_is_an_error_rather_than_a_run_that_never_ends():
    class Empty(Blobs):
        def load_data(self, found, batch_size, **options):
            return replace(super().load_data(found, batch_size, **options), train=_Dry())

    with pytest.raises(ValueError, match="no batches"):
        train_run(Empty(), planned(Empty()), CPU)


class _Dry:
    def __len__(self) -> int:
        return 1

    def __iter__(self):
        return iter(())

    def batches(self, *args: Any, **options: Any):
        return iter(())


# ---------------------------------------------------------------- SIGKILL


def run_until(folder: Path, steps: int) -> Result | None:
    """Kill a process in the middle of something after so many steps; return its result if any."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nero_lab.training.loop"])
    ours, theirs = context.Pipe()
    process = context.Process(target=train_and_report, args=(planned(Blobs()), folder, theirs))
    process.start()
    theirs.close()
    seen = None
    try:
        for _ in range(steps):
            seen = ours.recv()
            if seen is not None:
                break
            ours.send(None)
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return seen


def test_ten_random_kills_and_the_final_weights_are_the_same_bit_for_bit(tmp_path: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train_run(Blobs(), planned(Blobs()), CPU)
    finally:
        torch.set_num_threads(threads)
    chance = random.Random(int.from_bytes(os.urandom(4)))
    result, kills = None, 0
    while result is None:
        # 5 steps on average, so that ten kills come before the end.
        steps = chance.randint(2, 7) if kills < 10 else 10**6
        result = run_until(tmp_path, steps)
        kills += result is None
    assert kills == 10
    assert same(result, whole)
