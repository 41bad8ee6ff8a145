"""The fused CUDA path: all tensors of a group in a few launches of a Triton kernel.

A step reads the gradient and the weights once and writes the weights once; rows longer than
`plan.ONE_PASS`, and long neurons that do not lie in rows, are read twice. A launch takes all
tensors of a pair of dtypes (of the weights and of the gradients) whose tiles want one number of
warps. The kernel is given a table of addresses, which is new at every step, and tables of where
neurons lie and of which program updates which, which stay on the device for as long as the shapes
stay the same. No table holds on to a tensor. Nothing waits for the device: step counts and a
learning rate that are on it are read there.

The numbers are those of `nero.rule` up to the order of sums.

Importing this module does not import Triton.
"""

from __future__ import annotations

import ctypes
import functools
import math
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.kernels.facts import CPU, Column
from nero.kernels.triton import plan
from nero.kernels.triton.fits import Placed
from nero.rule import one_minus_power
from nero.state import Hyper

# Registers for a thread: with its 32 entries of w and of g in them, 16 warps share a
# multiprocessor, and next to nothing is spilled.
REGISTERS = 128
# Steps of tensors of the same shapes that one CUDA graph may capture.
SPARES = 32


class Launch(NamedTuple):
    """Tensors that one launch takes.

    Attributes:
        w: the dtype of their weights.
        g: that of their gradients.
        warps: how many warps a program has.
        aligned: whether their rows may be read 16 bytes at a time.
        kinds: bit k says that there are tiles of kind k.
        owner: int32 on the device, the tensor of each program.
        pick: takes those of a column that are theirs.
    """

    w: torch.dtype
    g: torch.dtype
    warps: int
    aligned: bool
    kinds: int
    owner: Tensor
    pick: itemgetter[Any]


class Tables(NamedTuple):
    """What a step needs that depends on shapes alone.

    Attributes:
        geometry: int64 on the device, (tensors, GEOMETRY).
        launches: the launches.
        spares: pinned memory of earlier steps, for those that are captured in a CUDA graph: then
            none can be had.
    """

    geometry: Tensor
    launches: tuple[Launch, ...]
    spares: deque[Tensor]


# What the copies to the device read and wrote while a CUDA graph was captured: it is replayed from
# these addresses, for as long as the process lives.
_captured: list[tuple[Tensor, Tensor]] = []


class Batch:
    """Tensors of one group and one device that fit, ready to be stepped.

    Args:
        hyper: hyperparameters of the group.
    """

    def __init__(self, hyper: Hyper) -> None:
        self._hyper = hyper
        self._placed: list[Placed] = []
        self._tensors: dict[str, list[Tensor]] = {}
        self._addresses: dict[str, list[int]] = {}
        self._device = CPU
        self._counted_there = False

    def add(self, placed: Sequence[Placed], columns: Mapping[str, Column]) -> None:
        """Add tensors.

        Args:
            placed: one for each tensor.
            columns: by name, the tensors ("w"), their gradients ("g") and their state; none that
                `why_not_together` speaks against, and as those added before on one device and
                with step counts on one.
        """
        assert columns["w"].device is not None
        self._device = columns["w"].device
        self._counted_there = columns["step"].device != CPU or (
            self._hyper.capturable and self._device == CPU
        )
        self._placed += placed
        for name, column in columns.items():
            self._tensors.setdefault(name, []).extend(column.tensors)
            self._addresses.setdefault(name, []).extend(column.addresses)

    def run(self) -> Tensor:
        """Update them and count their steps; returns how many neurons were skipped, 0-d int64."""
        times: list[float] = []
        if self._tensors["step"][0].device == CPU:
            times = _count_up(self._addresses["step"])
        else:
            torch._foreach_add_(self._tensors["step"], 1)
        skipped = torch.zeros((), dtype=torch.int64, device=self._device)
        tables = _tables(tuple(self._placed), self._device)
        if tables.launches:
            table = _to_device(self._table(times), self._device, tables.spares)
            cuda = self._device.type == "cuda"
            with torch.cuda.device(self._device) if cuda else nullcontext():
                for launch in tables.launches:
                    self._launch(launch, table, tables.geometry, skipped)
        return skipped

    def _launch(self, launch: Launch, table: Tensor, geometry: Tensor, skipped: Tensor) -> None:
        from nero.kernels.triton import rows

        kernel: Any = rows.nero_kernel
        lr = self._hyper.lr
        lr_there = isinstance(lr, Tensor) and lr.device == self._device
        own = [launch.pick(self._addresses[name]) for name in "wg"]
        if "exp_avg" in self._addresses:
            own.append(launch.pick(self._addresses["exp_avg"]))
        aligned = launch.aligned and not any(
            address % plan.ALIGNED_BYTES for column in own for address in column
        )
        options = kernel_options(
            launch.w,
            launch.g,
            self._hyper,
            launch.kinds,
            lr_tensor=lr_there,
            counted_there=self._counted_there,
            aligned=aligned,
        )
        kernel[(len(launch.owner),)](
            *(table, geometry, launch.owner, skipped, lr if lr_there else table),
            **options,
            num_warps=launch.warps,
            maxnreg=REGISTERS,
        )

    def _table(self, times: list[float]) -> Tensor:
        """The table that is new at each step: numbers, and for each tensor where its things are."""
        hyper, count = self._hyper, len(self._placed)
        lr = hyper.lr
        lr_there = isinstance(lr, Tensor) and lr.device == self._device
        numbers = {
            "lr": 0.0 if lr_there else float(lr),
            "root_beta": hyper.beta**0.5,
            "root_rest": (1 - hyper.beta) ** 0.5,
            "log_beta": _log(hyper.beta),
            "momentum": hyper.momentum,
            "log_momentum": _log(hyper.momentum),
            "least_rms": 0.0 if hyper.max_turn is None else 1 / hyper.max_turn,
            "sign": -1.0 if hyper.maximize else 1.0,
            "radius": hyper.radius if isinstance(hyper.radius, (int, float)) else 1.0,
        }
        columns = dict(self._addresses)
        if not self._counted_there:
            by_time = {t: (_root_debias(hyper, t), _debias_m(hyper, t)) for t in {*times}}
            corrections = [by_time[t] for t in times]
            columns["root_debias"] = _bits([root for root, _ in corrections])
            columns["debias_m"] = _bits([momentum for _, momentum in corrections])
        width = len(plan.ADDRESSES)
        values = array("q", bytes(8 * count * width))
        for index, name in enumerate(plan.ADDRESSES):
            if name in columns:
                values[index::width] = array("q", columns[name])
        first = array("q", _bits([numbers[name] for name in plan.NUMBERS]))
        return torch.frombuffer(first + values, dtype=torch.int64)


def kernel_options(
    w: torch.dtype,
    g: torch.dtype,
    hyper: Hyper,
    kinds: int,
    *,
    lr_tensor: bool,
    counted_there: bool,
    aligned: bool,
) -> dict[str, Any]:
    """The kernel's compile-time arguments."""
    import triton.language as tl

    radius = hyper.radius if hyper.radius in (None, "initial") else "number"
    return {
        "W": getattr(tl, str(w).removeprefix("torch.")),
        "G": getattr(tl, str(g).removeprefix("torch.")),
        "CENTER": hyper.center,
        "RADIUS": radius,
        "MOMENTUM": hyper.momentum > 0,
        "CAP": hyper.max_turn is not None,
        "PROPAGATE": hyper.nonfinite == "propagate",
        "LR_TENSOR": lr_tensor,
        "COUNTED_THERE": counted_there,
        "ALIGNED": aligned,
        "KINDS": kinds,
    }


def _to_device(x: Tensor, device: torch.device, spares: deque[Tensor]) -> Tensor:
    """A copy on the device; nothing waits for it."""
    if device.type != "cuda":
        return x.clone()
    if not torch.cuda.is_current_stream_capturing():
        spares.append(x.pin_memory())
        return spares[-1].to(device, non_blocking=True)
    if not spares:
        raise RuntimeError(
            "nero: a step cannot be captured in a CUDA graph before it has run: run a few steps "
            "first, as torch.cuda.graph asks of all that it captures"
        )
    pinned = spares.popleft().copy_(x)
    there = pinned.to(device, non_blocking=True)
    _captured.append((pinned, there))
    return there


@functools.lru_cache(maxsize=2**9)
def _tables(tensors: tuple[Placed, ...], device: torch.device) -> Tables:
    together: dict[tuple[Any, ...], list[int]] = {}
    for index, tensor in enumerate(tensors):
        shape = tensor.geometry
        if shape.neurons * shape.fan_in:
            key = (tensor.w, tensor.g, plan.warps(shape.kind), shape.aligned)
            together.setdefault(key, []).append(index)
    rows = [[0] * len(plan.GEOMETRY)] * len(tensors)
    launches = []
    for (w, g, warps, aligned), indices in together.items():
        shapes = [tensors[index].geometry for index in indices]
        ours, programs = plan.table(tuple(shapes))
        for index, row in zip(indices, ours, strict=True):
            rows[index] = row
        owner = torch.tensor(indices, dtype=torch.int32)
        owner = owner.repeat_interleave(torch.tensor(programs)).to(device)
        kinds = sum(1 << kind for kind in {shape.kind for shape in shapes})
        pick = itemgetter(slice(None)) if len(indices) == len(tensors) else _picking(indices)
        launches.append(Launch(w, g, warps, aligned, kinds, owner, pick))
    geometry = torch.tensor(rows, dtype=torch.int64).to(device)
    return Tables(geometry, tuple(launches), deque(maxlen=SPARES))


def _picking(indices: list[int]) -> itemgetter[Any]:
    """Takes the entries of these indices, always as a sequence."""
    return (
        itemgetter(*indices) if len(indices) > 1 else itemgetter(slice(indices[0], indices[0] + 1))
    )


def _count_up(addresses: Sequence[int]) -> list[float]:
    """Add 1 to step counts on the host, float32; returns them.

    By their addresses: PyTorch's operators take several microseconds for each.
    """
    counts = list(map(ctypes.c_float.from_address, addresses))
    for count in counts:
        count.value += 1
    return [count.value for count in counts]


def _root_debias(hyper: Hyper, t: float) -> float:
    return float(one_minus_power(hyper.beta, t)) ** 0.5


def _debias_m(hyper: Hyper, t: float) -> float:
    return float(one_minus_power(hyper.momentum, t))


def _bits(numbers: list[float]) -> list[int]:
    """The bits of float64 as integers."""
    return array("q", array("d", numbers).tobytes()).tolist()


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
