"""Even against odd classes: runs that stop, and examples with wrong labels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab.tiny_data import write_fashion_mnist
from nero_lab.data.parts import Split
from nero_lab.experiments.run import plan_run
from nero_lab.tasks.controlled_margin import attacked
from nero_lab.tasks.even_odd import TINY, EvenOdd
from nero_lab.training.context import Context, Stopped


def test_a_run_stops_when_asked_and_refuses_other_data(tmp_path: Path) -> None:
    folder, task = write_fashion_mnist(tmp_path), EvenOdd()
    run = plan_run(task, TINY, TINY.variants[0], 0.01, seed=0).on(task.find_data(folder))
    context = Context(data_folder=folder)
    context.stop.set()
    with pytest.raises(Stopped, match="was stopped after 1 epochs"):
        task.run(run, context)
    with pytest.raises(ValueError, match="asks for"):
        task.run(replace(run, data_digest="other"), Context(data_folder=folder))


def test_an_attack_set_has_all_labels_wrong_and_leaves_the_training_part() -> None:
    part = Split(torch.arange(10.0)[:, None], torch.tensor([1, -1] * 5))
    train, everything = attacked(part, 6, seed=0)
    rows = train.x.flatten().long()
    assert len(rows) == 6
    assert torch.equal(train.y, part.y[rows])
    others = torch.tensor([row for row in range(10) if row not in rows])
    assert torch.equal(everything.x, part.x)
    assert torch.equal(everything.y[rows], part.y[rows])
    assert torch.equal(everything.y[others], -part.y[others])
