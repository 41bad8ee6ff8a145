"""All tensors of a group in one call of the compiled CPU kernel.

The kernel reads each gradient once and each weight once, and writes each weight once. What it needs
to know of a tensor is described once, as a record of addresses and strides, and used at every
step while nothing about the tensor changes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.geometry import split_view, working_dtype
from nero.kernels.cpu.library import GroupFields, Library, Missing, load
from nero.kernels.cpu.seen import Addresses, Seen, addresses_of, are_plain
from nero.neurons import AxisSpec, NeuronLayout
from nero.rounding import Place, is_stochastic
from nero.state import Hyper, check_state, constraints, match_dtype

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_DIMS = 3
CENTER, NORMALIZE, INITIAL, STOCHASTIC = 1, 2, 4, 8
NONFINITE = {"skip": 0, "raise": 0, "propagate": 1}  # "raise" has looked before
STATE = ("step", "rms", "scale", "radius", "exp_avg", "seed")

# Addresses of m, rms, step, scale, radius; dtype, flags, address of the seed,
# offset, neurons, fan-in; two nests of loops.
RECORD = struct.Struct(f"@5Q6q{2 * (1 + 5 * MAX_DIMS)}q")

WHOLE: Mapping[Tensor, Place] = {}

# (size, strides in w, g, m and the index by which noise is made, or 0)
Loop = tuple[int, int, int, int, int]


class Described(NamedTuple):
    """A parameter as the kernel knows it, and what that holds for."""

    record: bytes
    reason: str  # why the kernel cannot take it; empty where it can
    kinds: tuple[Any, ...]


class CpuGroup:
    """The kernel's view of one parameter group, remembered from step to step.

    Args:
        library: the kernel.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._known: dict[Tensor, Described] = {}
        self._settings: Any = None
        self._joined = b""
        # Where the kernel took all of them.
        self._seen = Seen(library.look)
        self._params: list[Tensor] = []

    def unchanged(
        self,
        params: list[Tensor],
        states: Mapping[Tensor, dict[str, Any]],
        hyper: Hyper,
        neuron_axes: tuple[AxisSpec, ...],
    ) -> list[Tensor] | None:
        """The gradients of a step that is the last one again but for numbers; None for another.

        The last one must have been a `step` of all of these parameters that have a gradient, in
        which the kernel could take each, or a `repeat` of it. Nothing is updated; `repeat` does it,
        and the gradients must live as long as that takes.
        """
        if _settings(hyper, neuron_axes) != self._settings:
            return None
        return self._seen.gradients(params, states)

    def repeat(self, hyper: Hyper) -> int:
        """Update what `unchanged` has just looked at; returns how many neurons were skipped."""
        return self._update(self._params, self._seen.addresses, hyper)

    def step(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        states: Mapping[Tensor, dict[str, Any]],
        hyper: Hyper,
        neuron_axes: tuple[AxisSpec, ...],
        *,
        all_or_none: bool = False,
        places: Mapping[Tensor, Place] = WHOLE,
    ) -> tuple[dict[Tensor, str], int]:
        """Update the parameters that the kernel can take, counting their steps.

        Args:
            pairs: parameters and their gradients.
            states: their state.
            hyper: the group's hyperparameters.
            neuron_axes: the group's, for `NeuronLayout`.
            all_or_none: update nothing if one does not fit.
            places: where parameters that are parts of larger ones lie in those, for their noise.

        Returns:
            The parameters that it cannot take, untouched, each with the reason; and the number of
            neurons that were skipped.
        """
        settings = _settings(hyper, neuron_axes)
        if settings != self._settings or len(self._known) > 2 * len(pairs):
            self._known.clear()
            self._settings = settings
            self._seen.forget()
        params, gradients = [p for p, _ in pairs], [g for _, g in pairs]
        if self._seen.same(params, gradients, states):
            return {}, self._update(params, self._seen.addresses, hyper)
        left = self._describe_all(pairs, states, hyper, neuron_axes, places)
        if len(left) == len(pairs) or (left and all_or_none):
            return left, 0
        if left:
            params, gradients = zip(*(pair for pair in pairs if pair[0] not in left), strict=True)
        else:
            self._seen.know(params, gradients, states)
            self._params = params
        return left, self._update(params, addresses_of(params, gradients), hyper)

    def _update(self, params: Sequence[Tensor], addresses: Addresses, hyper: Hyper) -> int:
        # Autograd must know that what it may have saved for a backward pass changes. Told before,
        # since the kernel drives the tensors' headers out of the cache.
        torch.autograd.graph.increment_version(params)
        return self._library.step(self._joined, len(params), addresses, group_fields(hyper))

    def _describe_all(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        states: Mapping[Tensor, dict[str, Any]],
        hyper: Hyper,
        neuron_axes: tuple[AxisSpec, ...],
        places: Mapping[Tensor, Place],
    ) -> dict[Tensor, str]:
        """Describe what the kernel can take; returns the others, and why it cannot."""
        all_known = [
            (p, self._describe(p, g, states[p], hyper, neuron_axes, places.get(p)))
            for p, g in pairs
        ]
        self._joined = b"".join(known.record for _, known in all_known if not known.reason)
        return {p: known.reason for p, known in all_known if known.reason}

    def _describe(
        self,
        p: Tensor,
        g: Tensor,
        state: dict[str, Any],
        hyper: Hyper,
        neuron_axes: tuple[AxisSpec, ...],
        place: Place | None,
    ) -> Described:
        match_dtype(p, state)
        known = self._known.get(p)
        kinds = (
            *(x if x is None else _place(x) for x in map(state.get, STATE)),
            p.dtype,
            g.dtype,
            p.stride(),
            g.stride(),
            p.device,
            p.shape,
            type(p),
            type(g),
            place,
        )
        if known and known.kinds == kinds:
            return known
        record, reason = b"", why_not(p, g, state)
        if not reason:
            layout = NeuronLayout(tuple(p.shape), neuron_axes)
            check_state(p, state, layout, hyper)
            average = state["exp_avg"] if hyper.momentum > 0 else None
            if not is_stochastic(hyper.rounding, p.dtype):
                place = None
            elif place is None:
                place = Place.of(layout.split_shape)
            loops = _loops(layout, [p, g, average], place)
            if loops is None:
                reason = f"its axes do not merge into {MAX_DIMS} loops"
            else:
                record = _record(p, average, state, layout, loops, hyper, place)
        known = self._known[p] = Described(record, reason, kinds)
        return known


def why_not(p: Tensor, g: Tensor, state: Mapping[str, Any]) -> str:
    """Why the kernel cannot update a parameter from this gradient; empty where it can."""
    kernel = load()
    if isinstance(kernel, Missing):
        return f"there is no CPU kernel: {kernel.reason}"
    if p.device.type != "cpu":
        return f"it is on {p.device}"
    if not are_plain([p], [g]):
        kind = type(g if type(p) is torch.nn.Parameter else p).__name__
        return f"it or its gradient is a {kind}"
    if p.dtype not in DTYPES or g.dtype != p.dtype:
        return f"it is {p.dtype} with a gradient of {g.dtype}"
    if any(x.is_neg() or x._is_zerotensor() for x in (p, g)):
        return "it or its gradient is negated or zeroed by a mark, not in memory"
    if any(size > 1 and stride == 0 for size, stride in zip(p.shape, p.stride(), strict=True)):
        return "its entries share memory"
    special = {"step": torch.float32, "seed": torch.int64}
    wanted = {name: working_dtype(p.dtype) for name in STATE} | special
    for name, dtype in wanted.items():
        x = state.get(name)
        if x is None:
            continue
        if x.device.type != "cpu" or x.dtype != dtype:
            return f"its state {name!r} is {x.dtype} on {x.device}"
        if name != "exp_avg" and not x.is_contiguous():
            return f"its state {name!r} is not contiguous"
    return ""


def _settings(hyper: Hyper, neuron_axes: tuple[AxisSpec, ...]) -> tuple[object, ...]:
    """What descriptions depend on besides tensors."""
    return hyper.center, hyper.radius, hyper.momentum > 0, neuron_axes, hyper.rounding


def _place(x: Tensor) -> tuple[object, ...]:
    """Where a tensor of the state lies and how."""
    return x.data_ptr(), x.dtype, x.device, x.shape, x.stride()


def group_fields(hyper: Hyper) -> GroupFields:
    """A group's hyperparameters as the kernel takes them; waits for a learning rate on a device."""
    lr = float(hyper.lr)
    radius = hyper.radius if isinstance(hyper.radius, (int, float)) else 1.0
    return GroupFields(
        -lr if hyper.maximize else lr,
        hyper.beta,
        hyper.momentum,
        radius,
        NONFINITE[hyper.nonfinite],
    )


def _record(
    p: Tensor,
    average: Tensor | None,
    state: Mapping[str, Any],
    layout: NeuronLayout,
    loops: tuple[list[Loop], list[Loop]],
    hyper: Hyper,
    place: Place | None,  # where its noise comes from, if it is rounded by one
) -> bytes:
    center, normalize = constraints(layout, hyper.center, hyper.radius)
    flags = CENTER * center + NORMALIZE * normalize
    flags += INITIAL * (normalize and hyper.radius == "initial")
    flags += STOCHASTIC * (place is not None)
    addresses = [
        0 if x is None else x.data_ptr()
        for x in (average, state["rms"], state["step"], state["scale"], state.get("radius"))
    ]
    # An empty tensor has a step count and nothing else.
    neurons = layout.neurons if p.numel() else 0
    seed, offset = (state["seed"].data_ptr(), place.offset) if place else (0, 0)
    numbers = [DTYPES.index(p.dtype), flags, seed, offset, neurons, layout.fan_in]
    return RECORD.pack(*addresses, *numbers, *_packed(loops[0]), *_packed(loops[1]))


def _loops(
    layout: NeuronLayout, tensors: list[Tensor | None], place: Place | None
) -> tuple[list[Loop], list[Loop]] | None:
    """The loops over neurons and over a neuron's entries, merged; None if they are too many."""
    nests: tuple[list[Loop], list[Loop]] = ([], [])
    w, g, m = (
        (0,) * len(layout.split_shape) if x is None else split_view(x, layout).stride()
        for x in tensors
    )
    i = place.strides if place else (0,) * len(w)
    for axis, size in enumerate(layout.split_shape):
        if size != 1:
            loop = (size, w[axis], g[axis], m[axis], i[axis])
            nests[axis in layout.fan_in_axes].append(loop)
    # Neurons stay in order, which is that of their state; their entries go as memory goes.
    nests[1].sort(key=lambda loop: loop[1], reverse=True)
    merged = _merge(nests[0]), _merge(nests[1])
    return merged if max(map(len, merged)) <= MAX_DIMS else None


def _merge(loops: list[Loop]) -> list[Loop]:
    merged: list[Loop] = []
    for loop in loops:
        size, *strides = loop
        if merged and [size * stride for stride in strides] == list(merged[-1][1:]):
            merged[-1] = (merged[-1][0] * size, *loop[1:])
        else:
            merged.append(loop)
    return merged


def _packed(loops: list[Loop]) -> list[int]:
    """A nest of loops in the fields of kernel.h: how many, then all sizes, all strides in w, ..."""
    padding = [0] * (MAX_DIMS - len(loops))
    return [len(loops), *(n for field in range(5) for n in [*(x[field] for x in loops), *padding])]
