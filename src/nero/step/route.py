"""Which path a parameter takes, and why: the compiled kernels, or PyTorch's operators.

By default parameters on the CPU and on CUDA devices take the compiled kernel of these where it
fits, and all others the foreach path. `foreach` and `fused` override that per group.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.distributed.shards import is_dtensor, local, shards_of
from nero.groups import hyper_of, index_of, layout_of, parameter_name
from nero.kernels.cpu.library import INSTRUCTION_SET, Missing, load
from nero.kernels.cpu.step import Shape, shape_of
from nero.kernels.facts import CPU as CPU_DEVICE
from nero.kernels.facts import Column, ColumnFacts, Facts, of_each
from nero.kernels.settings import Settings
from nero.kernels.triton import fits as triton
from nero.kernels.triton import plan as triton_plan
from nero.rounding import Place
from nero.state import in_working_dtype
from nero.step.exchanged import is_exchanged
from nero.step.gradients import readable
from nero.step.orthogonal import after_directions, is_directed

CPU = "fused CPU kernel"
TRITON = "fused Triton kernel"
FOREACH = "foreach"
SINGLE = "one tensor after another"
SHARDED = "all-reduced sums"

NO_RELATIVE = "the kernel has no steps in proportion to present norms (relative)"

States = Mapping[Tensor, dict[str, Any]]


class Route(NamedTuple):
    """The path that a parameter takes.

    Attributes:
        path: one of the names above.
        reason: why it is not a compiled kernel; empty where it is one.
        shape: as that kernel takes it.
    """

    path: str
    reason: str
    shape: Shape | triton.Placed | None = None


def route(
    p: Tensor,
    g: Tensor,
    state: Mapping[str, Any],
    group: Mapping[str, Any],
    place: Place | None = None,
) -> Route:
    """The path of one parameter.

    Args:
        p: the parameter, which may be a DTensor.
        g: its gradient.
        state: its state; what is missing is taken to fit.
        group: its group.
        place: where a shard lies in the whole parameter.
    """
    axes = group["neuron_axes"]
    if is_dtensor(p):
        shards = shards_of(p, layout_of(p, group))
        if shards.sharded:
            return Route(SHARDED, "its neurons are sharded over processes")
        axes, state = shards.local_axes, {name: local(x) for name, x in state.items()}
        p, g = local(p), local(g)
    if group["relative"] and group["foreach"] is not False:
        return Route(FOREACH, NO_RELATIVE)
    if wants_kernel(group):
        there = on_cuda(p)
        if reason := no_kernel(on_cuda=there):
            return Route(FOREACH, reason)
        hyper = hyper_of(group)
        settings = Settings.of(hyper, axes)
        tensors = {"w": p, "g": g, **{n: state[n] for n in settings.state() if n in state}}
        columns = {name: Column([x]) for name, x in tensors.items()}
        if there:
            return cuda_routes(columns, settings, hyper.lr)[0]
        return cpu_routes(columns, settings, (place,))[0]
    if group["foreach"] is False:
        return Route(SINGLE, "foreach=False")
    return Route(FOREACH, "foreach=True" if group["foreach"] else "fused=False")


def cpu_routes(
    columns: Mapping[str, Column], settings: Settings, places: tuple[Place | None, ...]
) -> Sequence[Route]:
    """The paths of parameters of a group that takes the CPU kernel where it fits.

    Args:
        columns: by name, the parameters ("w"), their gradients ("g") and their state.
        settings: of the group.
        places: of each parameter.
    """
    for column in columns.values():
        reason = column.reason or ("" if column.device == CPU_DEVICE else f"is on {column.device}")
        if reason:
            return [Route(FOREACH, f"it, its gradient or its state {reason}")] * len(places)
    return _routes(settings, places, tuple((name, x.facts) for name, x in columns.items()))


@functools.lru_cache(maxsize=2**8)
def _routes(
    settings: Settings, places: tuple[Place | None, ...], asked: tuple[tuple[str, ColumnFacts], ...]
) -> Sequence[Route]:
    names = [name for name, _ in asked]
    rows = zip(places, *(of_each(facts) for _, facts in asked), strict=True)
    return [
        _cpu_route(settings, place, tuple(zip(names, row, strict=True))) for place, *row in rows
    ]


@functools.lru_cache(maxsize=2**13)
def _cpu_route(
    settings: Settings, place: Place | None, asked: tuple[tuple[str, Facts], ...]
) -> Route:
    state = dict(asked)
    found = shape_of(settings, place, state.pop("w"), state.pop("g"), state)
    return Route(FOREACH, found) if isinstance(found, str) else Route(CPU, "", found)


def cuda_routes(
    columns: Mapping[str, Column], settings: Settings, lr: float | Tensor
) -> Sequence[Route]:
    """The paths of parameters of a group that takes the Triton kernel where it fits.

    Args:
        columns: as for `cpu_routes`.
        settings: of the group.
        lr: its learning rate.
    """
    if reason := triton.why_not_together(columns, lr):
        return [Route(FOREACH, reason)] * len(columns["w"].tensors)
    asked = tuple((name, column.facts) for name, column in columns.items())
    return _cuda_routes(settings, asked, triton_plan.ONE_PASS)


@functools.lru_cache(maxsize=2**8)
def _cuda_routes(
    settings: Settings, asked: tuple[tuple[str, ColumnFacts], ...], one_pass: int
) -> Sequence[Route]:
    names = [name for name, _ in asked]
    rows = zip(*(of_each(facts) for _, facts in asked), strict=True)
    return [_cuda_route(settings, tuple(zip(names, row, strict=True)), one_pass) for row in rows]


@functools.lru_cache(maxsize=2**13)
def _cuda_route(settings: Settings, asked: tuple[tuple[str, Facts], ...], one_pass: int) -> Route:
    state = dict(asked)
    found = triton.placed(settings, state.pop("w"), state.pop("g"), state, one_pass)
    return Route(FOREACH, found) if isinstance(found, str) else Route(TRITON, "", found)


def on_cuda(p: Tensor) -> bool:
    """Whether a tensor is on a CUDA device."""
    return p.device.type == "cuda"


def no_kernel(*, on_cuda: bool) -> str:
    """Why no tensor of a kind of device takes its kernel; empty where some may."""
    library = None if on_cuda else load()
    if isinstance(library, Missing):
        return f"there is no CPU kernel: {library.reason}"
    # FakeTensorMode and its like take effect in torch's operators alone.
    if type(torch.empty(0, device="cpu")) is not Tensor:
        return "a mode of torch replaces tensors"
    return ""


def wants_kernel(group: Mapping[str, Any]) -> bool:
    """Whether a group takes the compiled kernel where it fits: unless another path is chosen."""
    if group["relative"]:
        return False
    return bool(group["fused"]) or (group["fused"] is None and group["foreach"] is None)


def refuse(p: Tensor, group: Mapping[str, Any], reason: str) -> RuntimeError:
    """The error for a parameter of a group with `fused=True` that takes no kernel."""
    return RuntimeError(f"fused=True, but {parameter_name(group, index_of(p, group))}: {reason}")


def check_fused(group: Mapping[str, Any]) -> None:
    """Raise where `fused=True` cannot be had.

    Raises:
        RuntimeError: a parameter that the kernel cannot take, with its name and the reason.
    """
    for p in group["params"] if group["fused"] else ():
        found = route(p, p.detach(), {}, group)
        if found.reason and p.requires_grad:
            raise refuse(p, group, found.reason)


def describe(groups: Sequence[Mapping[str, Any]], states: States) -> str:
    """The paths in use and how many parameters take each, with the reason where it is slow."""
    paths: Counter[str] = Counter()
    for group in groups:
        for p in group["params"]:
            g = p.detach() if p.grad is None else readable(p.grad)
            state = states.get(p, {})
            state = {**state, **in_working_dtype(p, state)}
            stage = ""
            if group["orthogonal"] and is_directed(p, layout_of(p, group)):
                where = " from whole layers, exchanged" if is_exchanged(p, group) else ""
                stage, g = f"orthogonal directions{where}, then ", p.detach()
            found = route(p, g, state, after_directions(group) if stage else group)
            library = load()
            note = found.reason
            if found.path == CPU and not isinstance(library, Missing):
                note = library.instruction_set
            paths[stage + (f"{found.path} ({note})" if note else found.path)] += 1
    return "; ".join(f"{path}: {count} parameters" for path, count in paths.items())


def warn_without_kernel(groups: Sequence[Mapping[str, Any]]) -> None:
    """Warn that steps on CPU are slow because the kernel was not compiled."""
    library = load()
    if not isinstance(library, Missing) or library.reason == f"{INSTRUCTION_SET}=none":
        return
    if any(p.device.type == "cpu" for g in groups if wants_kernel(g) for p in g["params"]):
        warnings.warn(
            "nero: steps on CPU take PyTorch's operators, several times slower than the compiled "
            f"kernel, of which there is none: {library.reason}",
            RuntimeWarning,
            stacklevel=3,
        )
