"""Processes that take part in a process group and run the tests' functions, started once.

Starting a process that imports torch takes seconds, so each world size is started once a session
and given one function after another.
"""

import datetime
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 600  # seconds; far more than any function takes, so that a deadlock is an error


class Pool:
    """`size` processes of one gloo group."""

    def __init__(self, size: int) -> None:
        self.size = size
        context = mp.get_context("spawn")
        store = Path(tempfile.mkdtemp(prefix="nero-pool-")) / "store"
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, size, str(store), theirs), daemon=True
            )
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(*args)` in every process; what each returned, by rank.

        The function is pickled by name: it must be in a module that both can import (not a test
        file, which pytest imports in its own way).
        """
        for pipe in self._pipes:
            pipe.send((function, args))
        answers, errors = [], []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(TIMEOUT):
                errors.append(f"rank {rank} gave no answer in {TIMEOUT} s")
                continue
            answer, error = pipe.recv()
            answers.append(answer)
            if error:
                errors.append(f"rank {rank}:\n{error}")
        if errors:
            pytest.fail("\n".join(errors), pytrace=False)
        return answers

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


def _serve(rank: int, size: int, store: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=TIMEOUT // 2),
    )
    while (task := pipe.recv()) is not None:
        function, args = task
        torch.manual_seed(0)
        try:
            answer = function(*args), None
        except Exception:  # reported to the test
            answer = None, traceback.format_exc()
        pipe.send(answer)
    # Leaving in order takes seconds, of threads that wait for one another, and may abort (see
    # examples/fsdp2_gpt.py).
    os._exit(0)
