"""The contract of a task: presets, schedules, loaders, and where tasks are found."""

import itertools
from pathlib import Path

import pytest
import torch

from nero_lab.data.loaders import ShortEpochs, TensorLoader
from nero_lab.experiments.run import plan_run, variant_spec
from nero_lab.experiments.schedule import Schedule, warmup_factor
from nero_lab.experiments.task import Task
from nero_lab.tasks.table import PAPER_TASKS, load_task


def factors(schedule: Schedule, epochs: int, steps_per_epoch: int) -> list[float]:
    return [
        round(schedule.factor(step, steps_per_epoch, epochs), 6)
        for step in range(epochs * steps_per_epoch)
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 1, 1, 1, 1, 1, 1, 1]),
        (Schedule("exponential", gamma=0.5), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        (
            Schedule("milestones", gamma=0.1, milestones=(1, 2.5)),
            [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01],
        ),
        (Schedule("linear"), [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (
            Schedule("cosine"),
            [1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806],
        ),
        (
            Schedule("linear", warmup_epochs=2),
            [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25],
        ),
        (
            Schedule("milestones", gamma=0.1, milestones=(1,), warmup_epochs=1),
            [0.5, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Schedule) else "",
)
def test_schedule(schedule: Schedule, expected: list[float]):
    assert factors(schedule, epochs=4, steps_per_epoch=2) == expected


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="step"):
        Schedule("step")  # pyright: ignore[reportArgumentType]


def test_customary_warmup_rises_to_one_in_its_last_step():
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_factor(0, 0) == 1


def rows(batches) -> list[list[int]]:
    return [x.tolist() for x, _ in batches]


def test_epochs_have_orders_of_their_own_that_a_run_can_come_back_to():
    loader = TensorLoader((torch.arange(10), torch.arange(10)), batch_size=4)
    epochs = [rows(loader.batches(epoch, seed=3)) for epoch in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    assert all(sorted(itertools.chain(*epoch)) == list(range(10)) for epoch in epochs)
    fresh = TensorLoader(loader.tensors, batch_size=4)
    assert rows(fresh.batches(2, seed=3, first=1)) == epochs[2][1:]
    assert rows(fresh.batches(0, seed=3)) == epochs[0]
    assert rows(fresh.batches(0, seed=4)) != epochs[0]
    assert rows(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_short_epochs_are_the_whole_ones_cut_into_pieces(steps: int):
    whole = TensorLoader((torch.arange(10), torch.arange(10)), batch_size=4)
    expected = [batch for epoch in range(5) for batch in rows(whole.batches(epoch, seed=3))]
    short = ShortEpochs(whole, steps)
    assert len(short) == steps
    for epoch in range(2):
        here = expected[epoch * steps : (epoch + 1) * steps]
        assert rows(short.batches(epoch, seed=3)) == here
        assert rows(short.batches(epoch, seed=3, first=steps - 1)) == here[-1:]
    assert rows(short) == rows(whole)


def test_devices_share_each_batch_equally():
    loader = TensorLoader((torch.arange(11), torch.arange(11)), batch_size=4)
    whole = rows(loader.batches(0, seed=0))
    shares = [rows(loader.batches(0, seed=0, rank=rank, world=2)) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == len(batch) // 2
        assert set(first) | set(second) <= set(batch)
        assert not set(first) & set(second)


def test_augmentation_depends_on_seed_epoch_and_step_alone():
    def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return x + torch.rand(x.shape, generator=generator)

    x = torch.arange(6.0)
    loader = TensorLoader((x, x), batch_size=3, shuffle=False, transform=jitter)
    first, second = rows(loader.batches(0, seed=0))
    assert [value % 1 for value in first] != [value % 1 for value in second]
    torch.rand(5)
    assert rows(loader.batches(0, seed=0, first=1)) == [second]
    assert rows(loader.batches(1, seed=0))[0] != first
    assert rows(loader) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_presets_of_a_task_are_whole(name: str):
    task = load_task(name)
    assert task.name == name
    assert task.title
    assert {"paper", "cpu", "tiny"} <= set(task.presets)
    for key, preset in task.presets.items():
        assert preset.name == key
        assert (preset.deviations == "") == (key == "paper")
        names = [variant.name for variant in preset.variants]
        assert len(names) == len(set(names)) > 0
        ids = {plan_run(task, preset, variant, 1.0, 0).plan_id for variant in preset.variants}
        assert len(ids) == len(names), "two variants are the same run"
        for variant in preset.variants:
            assert variant_spec(variant).lr_grid
            for published in variant.published:
                assert published.lr in variant_spec(variant).lr_grid


def test_unknown_task_is_refused_with_the_names():
    with pytest.raises(ValueError, match="deep-mlp"):
        load_task("deep-mpl")


TASK_FILE = """
from nero_lab.experiments.task import Classification

class Mine(Classification):
    name = "mine"
    title = "mine"
"""


def test_task_from_a_file_and_from_an_import_path(tmp_path: Path, monkeypatch):
    path = tmp_path / "task_of_this_test.py"
    path.write_text(TASK_FILE)
    task = load_task(str(path))
    assert isinstance(task, Task)
    assert task.name == "mine"
    assert type(load_task(f"{path}:Mine")) is type(task)
    monkeypatch.chdir(tmp_path)
    assert load_task("task_of_this_test:Mine").name == "mine"


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "task.py", "has none"),
        (TASK_FILE + TASK_FILE.replace("Mine", "Other"), "task.py", "Mine, Other"),
        ("Mine = 1", "task.py:Mine", "no class under"),
        ("", "task.py:Mine", "no 'Mine'"),
        ("", "other.py", "no file"),
        ("", "no_such_module_at_all:Mine", "no module"),
    ],
)
def test_what_is_no_task_is_refused(tmp_path: Path, monkeypatch, source, name, message):
    (tmp_path / "task.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_task(name)
