from pathlib import Path

import pytest

from nero_lab.plan import Preset, Schedule
from nero_lab.records.old import RecordStore, RunConfig, RunResult


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records.jsonl")


@pytest.fixture
def preset() -> Preset:
    return Preset(
        name="test", schedules={3: Schedule(20, 0.9)}, seeds=(0, 1, 2), batch_size=64, width=8
    )


@pytest.fixture
def config() -> RunConfig:
    """Return a run that takes a fraction of a second."""
    return RunConfig(
        task="digits-mlp",
        optimizer="adam",
        lr=1e-3,
        seed=0,
        epochs=2,
        batch_size=128,
        lr_decay=0.9,
        warmup_epochs=2,
        model={"depth": 3, "width": 16, "init": "default"},
        data={"split_seed": 0},
        optimizer_options={"fused": True},
    )


@pytest.fixture
def result() -> RunResult:
    return RunResult(
        status="finished",
        steps=40,
        seconds=0.5,
        train_metric=0.5,
        val_metric=0.4,
        test_metric=0.3,
        curves={
            "train_loss": [2.0, None],
            "train_metric": [0.1, 0.5],
            "val_metric": [0.1, 0.4],
        },
    )
