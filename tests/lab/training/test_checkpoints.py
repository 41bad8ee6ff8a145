"""A checkpoint is whole or not there."""

import errno
import hashlib
import io
import os
import random
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nero_lab.training import checkpoints as module
from nero_lab.training.checkpoints import (
    BusyRun,
    CheckpointError,
    Checkpoints,
    only_process,
    rng_state,
    save_weights,
    set_rng_state,
    weights_digest,
)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "run")


def state(step: int) -> dict:
    return {"step": step, "weights": torch.full((100,), float(step))}


def names(kept: Checkpoints) -> list[str]:
    return sorted(path.name for path in kept.folder.iterdir())


def test_the_newest_of_the_last_two_is_loaded(kept: Checkpoints):
    assert kept.load() is None
    for step in (9, 10, 11):
        kept.save(state(step), step)
    assert names(kept) == ["step-10.pt", "step-11.pt"]
    loaded = kept.load()
    assert loaded is not None
    assert loaded["step"] == 11
    assert torch.equal(loaded["weights"], state(11)["weights"])


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_a_damaged_one_is_passed_over(kept: Checkpoints, damage: str):
    kept.save(state(1), 1)
    path = kept.save(state(2), 2)
    contents = bytearray(path.read_bytes())
    if damage == "flip":
        contents[len(contents) // 2] ^= 1
    elif damage == "header":
        contents[0] ^= 1
    path.write_bytes({"cut": contents[:-7], "empty": b""}.get(damage, contents))
    with pytest.warns(UserWarning, match=r"step-2\.pt is damaged"):
        loaded = kept.load()
    assert loaded is not None
    assert loaded["step"] == 1


def test_a_full_disk_leaves_the_last_good_one(kept: Checkpoints, monkeypatch):
    good = kept.save(state(1), 1)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=rf"No space left.*last good one is {good}.*--out"):
        kept.save(state(2), 2)
    assert names(kept) == ["step-1.pt"]


def test_a_folder_that_went_is_not_a_full_disk(kept: Checkpoints):
    kept.folder.rmdir()
    with pytest.raises(CheckpointError, match=r"No such file.*none from before\. Choose another"):
        kept.save(state(1), 1)


def test_a_limit_on_file_size_is_met_as_a_full_disk_is(kept: Checkpoints):
    kept.save(state(1), 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with it, so that writing fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            kept.save(state(2), 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(kept) == ["step-1.pt"]
    assert kept.load() is not None


def test_weights_are_whole_or_not_there(tmp_path: Path):
    path = tmp_path / "weights" / "a.pt"
    model = nn.Linear(20, 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write the weights .*File too large"):
            save_weights(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(path.parent.iterdir())
    save_weights(model, path)
    assert torch.equal(torch.load(path, weights_only=True)["weight"], model.weight)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot keep checkpoints in .*file/run.*--out"):
        Checkpoints(tmp_path / "file" / "run")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "contents",
    [Evil(), [1, 2], {"a": Evil()}, b"no pickle"],
    ids=["code", "list", "inside", "bytes"],
)
def test_one_that_somebody_else_made_is_passed_over(
    kept: Checkpoints, tmp_path: Path, monkeypatch, contents
):
    monkeypatch.chdir(tmp_path)
    kept.save(state(1), 1)
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    payload = contents if isinstance(contents, bytes) else buffer.getvalue()
    digest = hashlib.sha256(payload).digest()
    (kept.folder / "step-2.pt").write_bytes(module._MAGIC + digest + payload)
    with pytest.warns(UserWarning, match=r"step-2\.pt is damaged") as caught:
        loaded = kept.load()
    assert loaded is not None
    assert loaded["step"] == 1
    assert "weights_only" not in str(caught[0].message)
    assert not Path("ran").exists()


def test_what_is_no_file_is_no_checkpoint(kept: Checkpoints):
    kept.save(state(1), 1)
    os.mkfifo(kept.folder / "step-2.pt")
    (kept.folder / "step-3.pt").mkdir()
    loaded = kept.load()
    assert loaded is not None
    assert loaded["step"] == 1


def test_a_file_that_is_being_written_has_a_name_of_its_own(kept: Checkpoints, monkeypatch):
    """What another process writes meanwhile stays whole: none opens the file of another."""
    opened: list[Path] = []

    def open_seen(path: Path, mode: str) -> io.BufferedWriter:
        opened.append(path)
        return open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_seen)
        kept.save(state(2), 2)
        kept.save(state(2), 2)
    assert len({*opened, kept.folder / "step-2.pt"}) == 3
    assert names(kept) == ["step-2.pt"]
    assert kept.load() is not None


def test_what_killed_processes_left_goes_with_the_next_one(kept: Checkpoints, tmp_path: Path):
    (kept.folder / "step-1.pt.01234567.tmp").write_text("half")
    kept.save(state(2), 2)
    assert names(kept) == ["step-2.pt"]
    weights = tmp_path / "a.pt"
    for left in ("a.pt.01234567.tmp", "b.pt.01234567.tmp"):
        (tmp_path / left).write_text("half")
    save_weights(nn.Linear(2, 2), weights)
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["b.pt.01234567.tmp"]


def test_a_run_belongs_to_one_process_at_a_time(tmp_path: Path):
    folder = tmp_path / "checkpoints" / "run"
    with only_process(folder):
        with pytest.raises(BusyRun, match="another process trains this run"), only_process(folder):
            pass
        with only_process(folder.with_name("other")):
            pass
    with only_process(folder):
        pass
    assert not list(folder.parent.iterdir())
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"cannot keep checkpoints in .*file/in/run.*--out"),
        only_process(tmp_path / "file" / "in" / "run"),
    ):
        pass


def test_who_waited_for_a_run_has_it_alone(tmp_path: Path):
    folder, has_it, end = tmp_path / "run", threading.Event(), threading.Event()

    def wait_for_it() -> None:
        with only_process(folder, wait=600):
            has_it.set()
            end.wait()

    waiting = threading.Thread(target=wait_for_it)
    with only_process(folder):
        waiting.start()
        assert not has_it.wait(0.2)
    has_it.wait()
    try:
        with pytest.raises(BusyRun), only_process(folder):
            pass
    finally:
        end.set()
        waiting.join()
    with only_process(folder):
        pass


def test_clear_leaves_nothing(kept: Checkpoints):
    kept.save(state(1), 1)
    (kept.folder / "step-2.tmp").write_text("")
    kept.clear()
    assert not kept.folder.exists()


def draw() -> tuple:
    return torch.rand(3).tolist(), random.random(), np.random.rand(), np.random.randn()  # noqa: NPY002


def test_generators_go_on_where_they_were(kept: Checkpoints):
    draw()
    kept.save({"rng": rng_state()}, 1)
    first = draw()
    draw()
    loaded = kept.load()
    assert loaded is not None
    set_rng_state(loaded["rng"])
    assert draw() == first


def test_digest_of_weights_sees_every_bit_and_name():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    before = weights_digest(model)
    assert weights_digest(model) == before
    with torch.no_grad():
        model.bias[1] = model.bias[1].nextafter(torch.tensor(9.0, dtype=torch.bfloat16))
    assert weights_digest(model) != before
