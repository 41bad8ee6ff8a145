"""Train a small GPT over several processes with FSDP2 and Nero, and continue on any number.

    torchrun --nproc-per-node 2 examples/fsdp2_gpt.py --steps 200 --save checkpoint
    torchrun --nproc-per-node 4 examples/fsdp2_gpt.py --steps 300 --resume checkpoint
    python examples/fsdp2_gpt.py --steps 300 --resume checkpoint     # one process

The text is Python's own documentation of its modules, which is on every machine: nothing is
downloaded. Every weight of the model is sharded by rows, and rows are neurons, so the optimiser
communicates nothing. It runs on CPUs (gloo); with CUDA devices it takes one for each process.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import nero

MODULES = "argparse asyncio collections datetime functools logging pathlib pickle random tarfile"
BYTES = 256  # the vocabulary


class Block(nn.Module):
    """Causal self-attention and a perceptron, each after a norm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.before_perceptron = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        y = self.before_attention(x)
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, time, ...)
            for part in (self.query, self.key, self.value)
        )
        attended = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.down(nn.functional.gelu(self.up(self.before_perceptron(x))))


class GPT(nn.Module):
    """A language model of bytes."""

    def __init__(self, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES)

    def forward(self, rows: Tensor) -> Tensor:
        """The loss, in nats a byte, of each byte of (batch, time + 1) after the ones before it."""
        text, following = rows[:, :-1], rows[:, 1:]
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return cross_entropy(self.head(self.norm(x)).flatten(0, 1), following.flatten())


def corpus() -> Tensor:
    """The documentation of some of Python's modules, as bytes."""
    pages = []
    for name in MODULES.split():
        module = importlib.import_module(name)
        found = [module, *vars(module).values()]
        pages += [doc for each in found if (doc := inspect.getdoc(each)) and len(doc) > 80]
    return torch.tensor(list("\n\n".join(dict.fromkeys(pages)).encode()), dtype=torch.int64)


def batch(text: Tensor, step: int, size: int, context: int, processes: int, rank: int) -> Tensor:
    """This process's rows of the step's batch: the same text whatever the number of processes."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(0, len(text) - context - 1, (size,), generator=generator)
    rows = torch.stack([text[start : start + context + 1] for start in starts])
    return rows[rank * size // processes : (rank + 1) * size // processes]


def save(folder: Path, model: nn.Module, optimizer: nero.Nero, step: int) -> None:
    """Each process writes its shards; a folder that is not there yet, so that none is half new."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "step": step}
    dcp.save(state, checkpoint_id=folder / f"step-{step:06d}")


def resume(folder: Path, model: nn.Module, optimizer: nero.Nero) -> int:
    """Load the newest checkpoint, written by any number of processes; returns its step."""
    found = sorted(folder.glob("step-*/.metadata"))  # written last: whole checkpoints only
    if not found:
        raise SystemExit(f"--resume {folder}: there is no checkpoint (no step-*/.metadata)")
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state, "step": 0}
    dcp.load(state, checkpoint_id=found[-1].parent)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return state["step"]


def arguments() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="up to which step (default 200)")
    parser.add_argument("--batch", type=int, default=16, help="rows in all (default 16)")
    parser.add_argument("--context", type=int, default=64, help="bytes in a row (default 64)")
    parser.add_argument("--width", type=int, default=64, help="of the model (default 64)")
    parser.add_argument("--depth", type=int, default=2, help="blocks (default 2)")
    parser.add_argument("--heads", type=int, default=4, help="of attention (default 4)")
    parser.add_argument("--lr", type=float, default=0.01, help="radians a step (default 0.01)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights (default 0)")
    parser.add_argument("--save", type=Path, help="folder for a checkpoint after the last step")
    parser.add_argument("--resume", type=Path, help="folder of checkpoints to go on from")
    options = parser.parse_args()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if options.batch % processes:
        parser.error(f"--batch {options.batch} does not divide among {processes} processes")
    return options


@contextmanager
def process_group() -> Iterator[torch.device]:
    """The process group that torchrun asks for, or one of this process alone."""
    for name, alone in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(name, alone)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    store = None if "MASTER_ADDR" in os.environ else dist.HashStore()
    where: dict[str, Any] = {"store": store, "rank": 0, "world_size": 1} if store else {}
    dist.init_process_group("nccl" if cuda else "gloo", **where)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Train as the command line says."""
    options = arguments()
    with process_group() as device:
        train(options, device)


def train(options: argparse.Namespace, device: torch.device) -> None:
    """Train from the first step, or from a checkpoint, to the last; prints the progress."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(options.seed)  # the same first weights in every process
    model = GPT(options.width, options.depth, options.heads, options.context).to(device)
    mesh = init_device_mesh(device.type, (processes,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = nero.Nero(nero.param_groups(model, head="head"), lr=options.lr)
    first = resume(options.resume, model, optimizer) if options.resume else 0

    def report(line: str, end: str = "\n") -> None:
        if rank == 0:
            print(line, end=end, flush=True)

    text = corpus()
    entries = sum(p.numel() for p in model.parameters())
    report(f"{entries:,} parameters on {processes} processes, {len(text):,} bytes of text")
    report(optimizer.path if rank == 0 else "")
    if first:
        report(f"resumed after step {first}")
    began, loss = time.monotonic(), torch.zeros(())
    for step in range(first + 1, options.steps + 1):
        shape = (options.batch, options.context, processes, rank)
        rows = batch(text, step, *shape).to(device)
        optimizer.zero_grad()
        loss = model(rows)
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == options.steps:
            loss = loss.detach()
            dist.all_reduce(loss)
            rate = (time.monotonic() - began) / (step - first)
            left = rate * (options.steps - step)
            report(
                f"\rstep {step}/{options.steps}  loss {loss / processes:.3f} nats a byte  "
                f"{left:.0f} s left ",
                end="",
            )
    report("")
    if options.save:
        save(options.save, model, optimizer, options.steps)
        report(f"wrote {options.save / f'step-{options.steps:06d}'}")


if __name__ == "__main__":
    main()
    if not torch.cuda.is_available():
        # A thread of gloo's may still hold tensors of the last collective. Letting go of them while
        # Python shuts down, it would abort the process; so end without shutting down.
        os._exit(0)
