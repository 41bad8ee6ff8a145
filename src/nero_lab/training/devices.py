"""The devices of a run: Lightning Fabric, and what goes between processes and devices."""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nero_lab.experiments.run import Run
from nero_lab.experiments.task import Loader, Task
from nero_lab.training.context import Context


@contextmanager
def _as_if_not_installed(module: str) -> Iterator[None]:
    """Let imports of a module fail, unless it is imported already."""
    absent = module not in sys.modules
    if absent:
        sys.modules[module] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if absent:
            del sys.modules[module]


# Fabric imports torchmetrics to ask for its version, and that imports torchvision, scipy and
# transformers: more time than all else that a process of the lab does before it trains.
with _as_if_not_installed("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy


class OnDevice:
    """Batches of a loader for evaluation, moved to the device."""

    def __init__(self, loader: Loader, fabric: Fabric) -> None:
        self.loader, self.fabric = loader, fabric

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return map(self.fabric.to_device, self.loader)

    def __getattr__(self, name: str) -> Any:
        # What a task's own loader has besides, for its own `evaluate`.
        return getattr(self.loader, name)

    def batches(
        self, epoch: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Any]:
        """Yield the batches of an epoch, see `Loader`."""
        batches = self.loader.batches(epoch, seed=seed, first=first, rank=rank, world=world)
        return map(self.fabric.to_device, batches)


def launch_fabric(task: Task, run: Run, context: Context) -> Fabric:
    """Return Fabric for a run; with several devices there are several processes from here on."""
    several = context.devices * context.nodes > 1
    # Where modules have an optimiser each, a loss gives gradients to some of the modules only.
    partial = type(task).trained_modules is not Task.trained_modules
    try:
        fabric = Fabric(
            accelerator=context.accelerator,
            devices=context.devices,
            num_nodes=context.nodes,
            strategy=DDPStrategy(find_unused_parameters=partial) if several else "auto",
            precision=run.precision,  # pyright: ignore[reportArgumentType]
        )
    except RuntimeError as error:  # such as an accelerator that this machine does not have
        raise ValueError(" ".join(str(error).split())) from error
    if several and "TORCHELASTIC_RUN_ID" in os.environ:
        _join_attempt("nccl" if fabric.device.type == "cuda" else "gloo")
    fabric.launch()
    return fabric


def _join_attempt(backend: str) -> None:
    """Join the processes that torchrun started, those of this attempt alone.

    torchrun keeps one store over its restarts unless it is given --standalone or --rdzv-backend
    c10d; without a prefix of its own, a second attempt finds the addresses of the first one's dead.
    """
    if torch.distributed.is_initialized():
        return
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        int(os.environ["WORLD_SIZE"]),
        is_master=False,
    )
    torch.distributed.init_process_group(
        backend,
        store=torch.distributed.PrefixStore(
            f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store
        ),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Return whether any of the processes says so; all have to ask."""
    total = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return bool(total > 0)


def gather_states(fabric: Fabric, state: Any) -> list[Any]:
    """Return the states of all processes, by their rank; all have to ask."""
    if fabric.world_size == 1:
        return [state]
    # As bytes: torch.distributed's own pickling cannot carry a generator's state.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, buffer.getvalue())
    return [
        torch.load(io.BytesIO(each), map_location="cpu", weights_only=True) for each in gathered
    ]


def rows_of(batch: Any) -> int:
    """Return the rows of a batch, by its first tensor."""
    while isinstance(batch, (tuple, list)):
        batch = batch[0]
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()))
    return len(batch)


def limit_to_one_thread() -> None:
    """Prepare this process for runs; every process that trains calls it once."""
    torch.set_num_threads(1)
    # A plain deep network from default weights lives among denormal numbers, which are up to five
    # times slower on CPUs than zero.
    torch.set_flush_denormal(True)
