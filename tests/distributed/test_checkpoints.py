"""Checkpoints of sharded training: saved on one number of processes, continued on another."""

from pathlib import Path

import pytest

from distributed import checkpoints
from distributed.pool import Pool

# In float64; over meshes of different sizes gradients and sums differ by rounding.
TOLERANCE = 1e-10


@pytest.mark.parametrize("model", ["convnet", "transformer"])
def test_training_goes_on_over_other_numbers_of_processes(
    two: Pool, four: Pool, tmp_path: Path, model: str
) -> None:
    """2 -> 4 -> 1 -> 2, each from the checkpoint of the one before."""
    folders = [str(tmp_path / name) for name in ("two", "four", "one")]
    two.run(checkpoints.save, model, "FSDP2", folders[0], range(4))
    four.run(checkpoints.save, model, "FSDP2 x TP", folders[1], range(4, 8), folders[0])
    checkpoints.save(model, "alone", folders[2], range(8, 12), folders[1])
    assert max(two.run(checkpoints.compare, model, "FSDP2", folders[2], 12)) < TOLERANCE
    assert max(four.run(checkpoints.compare, model, "HSDP", folders[2], 12)) < TOLERANCE


@pytest.mark.parametrize("way", ["FSDP2 x TP", "HSDP"])
def test_on_the_same_mesh_it_goes_on_to_the_bit(four: Pool, tmp_path: Path, way: str) -> None:
    four.run(checkpoints.exact, "convnet", way, str(tmp_path / "saved"))


def test_reading_and_writing_state_changes_nothing(four: Pool) -> None:
    four.run(checkpoints.reading_changes_nothing, "convnet", "FSDP2 x TP")


def test_gathered_state_goes_through_a_plain_file(two: Pool, tmp_path: Path) -> None:
    two.run(checkpoints.full_state, "convnet", "FSDP2", str(tmp_path))


def test_plain_state_dicts_of_dtensors(four: Pool, tmp_path: Path) -> None:
    four.run(checkpoints.plain_state_dicts, str(tmp_path))


def test_state_that_does_not_fit_is_refused(four: Pool) -> None:
    four.run(checkpoints.refusals)
