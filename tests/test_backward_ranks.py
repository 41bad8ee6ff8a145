"""Steps in the backward pass over two processes."""

from pathlib import Path

import pytest
import torch.multiprocessing as mp

import backward_ranks


@pytest.mark.slow
def test_fsdp2_steps_in_backward_on_two_processes(tmp_path: Path):
    context = mp.spawn(
        backward_ranks.run, args=(str(tmp_path / "rendezvous"),), nprocs=backward_ranks.RANKS
    )
    assert context is None  # both have ended well
