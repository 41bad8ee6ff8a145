"""An optimiser beside the float64 oracle, and what one may do to it in the middle of a run.

After each step weights and running averages are compared with what the oracle makes of the same
numbers; the oracle then takes over the rounded ones, so that a long run tests each of its steps as
sharply as the first. Operations that must not change a bit are held to that.

Driven by hypothesis in test_operations.py and by a clock in soak.py.
"""

import copy
import io
import math
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bits
from nero import Nero, step_in_backward
from optimizer_table import CONSTRAINTS, TENSORS, TensorRow
from oracle import OracleTensor

EMPTY = [
    TensorRow("no neurons", (0, 3), (0,), []),
    TensorRow("no fan-in", (3, 0), (0,), []),
    TensorRow("no entries", (0,), (0,), []),
]
ROWS = {row.name: row for row in [*TENSORS, *EMPTY]}
PATHS: dict[str, dict[str, Any]] = {
    "default": {"foreach": None, "fused": None},
    "single": {"foreach": False, "fused": None},
    "foreach": {"foreach": True, "fused": None},
    "not fused": {"foreach": None, "fused": False},
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
GRADIENTS = ("normal", "normal", "none", "zero", "nan", "inf", "one nan", "tiny", "huge", "strided")
MEMORY = ("contiguous", "reversed", "channels last", "gaps")
LRS = (0.0, 1e-4, 0.01, 0.2)
MAX_GROUPS = 4
# In float64 too, since a tensor may be converted to float32 later. Above HUGE the quotient of a
# running average and a learning rate leaves float32's range, and the neuron stays where it is.
TINY, HUGE = 1e-35, 1e30
MAX_SNAPSHOTS = 3

# What a step may be off by, of the length of what it adds up: the arithmetic of the state's dtype;
# and, of an entry, its rounding to the weights' own.
ARITHMETIC = {torch.float64: 1e-12, torch.float32: 2e-6}
ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-10}
SMALLEST = {torch.float64: 0.0, torch.float32: 1e-37, torch.bfloat16: 1e-37, torch.float16: 1e-7}


class Mirror(OracleTensor):
    """The oracle of one tensor, with what is documented besides the paper.

    A neuron whose gradient is not finite sits out. One that has nothing to do is not projected.
    """

    def step(self, g: Tensor, lr: float) -> None:
        flat = g.flatten().double()
        absent = {k for k, entries in enumerate(self.neurons) if not flat[entries].isfinite().all()}
        for k in absent:
            flat[self.neurons[k]] = 0
        before = list(self.w), list(self.m), list(self.v)
        self.start, self.removed, self.kept = before[0], {}, {}
        super().step(flat.view(g.shape), lr)
        moved = self.m if self.momentum else flat.tolist()
        for k, entries in enumerate(self.neurons):
            if k in absent:
                self.v[k] = before[2][k]
            for i in entries:
                if k in absent:
                    self.m[i] = before[1][i]
                if k in absent or lr == 0 or not any(moved[j] for j in entries):
                    self.w[i] = before[0][i]

    def take(self, w: Tensor, rms: Tensor, m: Tensor | None) -> None:
        """Go on from these numbers."""
        self.w = w.double().flatten().tolist()
        self.v = [x * x for x in rms.double().flatten().tolist()]
        if m is not None:
            self.m = m.double().flatten().tolist()

    def project(self) -> None:
        self.start, self.removed, self.kept = list(self.w), {}, {}
        for entries, r in zip(self.neurons, self.r, strict=True):
            if self.center:
                self._subtract_mean(entries)
            if self.radius not in (None, "initial"):
                self._set_norm(entries, r)

    def measure(self) -> None:
        """Take the norms that neurons have now for their own radii."""
        self.r = [self._norm(entries) or r for entries, r in zip(self.neurons, self.r, strict=True)]

    def slack(self, arithmetic: float) -> Tensor:
        """How far rounding may have taken each entry in what was done last: more where it nearly
        undid the neuron, or took away a mean far above what was left.
        """
        slack = [0.0] * len(self.w)
        for entries in self.neurons:
            key = entries[0]
            moved = math.dist(*([x[i] for i in entries] for x in (self.start, self.w)))
            reach = math.hypot(*(self.start[i] for i in entries)) + moved + self.removed.get(key, 0)
            if key in self.kept:
                norm, kept = self._norm(entries), self.kept[key]
                reach = (reach + kept) * norm / kept if kept else math.inf
            for i in entries:
                slack[i] = arithmetic * reach
        return torch.tensor(slack, dtype=torch.float64).reshape(self.shape)

    def _subtract_mean(self, entries: Any) -> None:
        if hasattr(self, "removed"):
            self.removed[entries[0]] = abs(sum(self.w[i] for i in entries)) / len(entries) ** 0.5
        super()._subtract_mean(entries)

    def _set_norm(self, entries: Any, r: float) -> None:
        if hasattr(self, "kept"):
            self.kept[entries[0]] = self._norm(entries)
        super()._set_norm(entries, r)


@dataclass
class Snapshot:
    """A run as it was saved."""

    file: bytes
    mirrors: list[Mirror | None]
    groups: list[int]


@dataclass
class World:
    """A run: an optimiser, the oracle of each of its parameters, and what was saved of it."""

    optimizer: Nero
    mirrors: list[Mirror | None]  # in the order of the parameters; None for those without entries
    snapshots: list[Snapshot] = field(default_factory=list)
    in_backward: bool = False
    steps: int = 0  # how often step() was called and checked

    @classmethod
    def new(cls, rows: list[str], constraint: str, momentum: float, seed: int) -> "World":
        params = [_parameter(ROWS[name], seed + k) for k, name in enumerate(rows)]
        groups = [_group(ROWS[n], [p]) for n, p in zip(rows, params, strict=True)]
        mirrors = [
            _mirror(ROWS[n], p, constraint, momentum) for n, p in zip(rows, params, strict=True)
        ]
        options = {**CONSTRAINTS[constraint], "momentum": momentum, "beta": 0.9, "lr": 0.01}
        world = cls(Nero(groups, **options), mirrors)
        world.check_started(0)
        return world

    @property
    def params(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    # What changes numbers, each time as the oracle says.

    def step(self, kinds: list[str], seed: int) -> None:
        """One step by these kinds of gradients, in turns over the parameters."""
        gradients = [
            _gradient(p, kinds[k % len(kinds)], seed + k) for k, p in enumerate(self.params)
        ]
        copies = bits(gradients)
        if self.in_backward:
            self._backward(gradients)
        else:
            for p, g in zip(self.params, gradients, strict=True):
                p.grad = g
        self.optimizer.step()
        assert bits(gradients) == copies, "a step changed the caller's gradient"
        self.optimizer.zero_grad()
        index = 0
        for group in self.optimizer.param_groups:
            for _ in group["params"]:
                self._check_step(index, group, gradients[index])
                index += 1
        self.steps += 1

    def _backward(self, gradients: list[Tensor | None]) -> None:
        """Let autograd hand out the gradients, so that hooks step the parameters."""
        pairs = [(p, g) for p, g in zip(self.params, gradients, strict=True) if g is not None]
        if not pairs:
            return
        model = nn.ParameterList(self.params)
        with step_in_backward(model, self.optimizer):
            torch.autograd.backward([p.clone() for p, _ in pairs], [g for _, g in pairs])
            self.optimizer.step()

    def _check_step(self, index: int, group: dict[str, Any], g: Tensor | None) -> None:
        p, mirror = self.params[index], self.mirrors[index]
        state = self.optimizer.state[p]
        if mirror is None:
            assert all(x.isfinite().all() for x in state.values())
            return
        if g is not None:
            if mirror.t == 0 and mirror.radius in (None, "initial"):
                # Measured once more at the first step, of weights that may be of another dtype now.
                self._check_radii(index, 2 * ROUNDING[torch.bfloat16])
            mirror.step(g, float(group["lr"]))
        assert state["step"] == mirror.t, f"{index}: {state['step']} steps, expected {mirror.t}"
        if g is None:
            return
        working = state["rms"].dtype
        mean = torch.tensor(mirror.v, dtype=torch.float64).sqrt()
        _close("rms", state["rms"].flatten(), mean, 4 * ARITHMETIC[working] * mean, p.dtype)
        if mirror.momentum:
            m = torch.tensor(mirror.m, dtype=torch.float64).view(p.shape)
            size = torch.maximum(m.abs(), g.double().abs().nan_to_num(0, 0, 0))
            _close("exp_avg", state["exp_avg"], m, 8 * ARITHMETIC[working] * size, p.dtype)
        self._check_weights(index, mirror.slack(ARITHMETIC[working]))

    def _check_weights(self, index: int, slack: Tensor) -> None:
        p, mirror = self.params[index], self.mirrors[index]
        assert mirror is not None
        expected = mirror.weights()
        _close("weights", p, expected, slack + ROUNDING[p.dtype] * expected.abs(), p.dtype)
        state = self.optimizer.state[p]
        mirror.take(p.detach(), state["rms"], state.get("exp_avg"))

    def project(self) -> None:
        """Project the weights again, as they are after a change of dtype."""
        self.optimizer.project_()
        for index, mirror in enumerate(self.mirrors):
            self._check_projected(index)
            if mirror is not None and "radius" in self.optimizer.state[self.params[index]]:
                mirror.measure()
                self._check_radii(index)

    def check_started(self, first: int) -> None:
        """Check what was made of the parameters from this one on: weights, and radii of steps."""
        for index in range(first, len(self.mirrors)):
            mirror = self.mirrors[index]
            self._check_projected(index)
            if mirror is not None and mirror.radius in (None, "initial"):
                self._check_radii(index)

    def _check_radii(self, index: int, slack: float = ARITHMETIC[torch.float32]) -> None:
        mirror, state = self.mirrors[index], self.optimizer.state[self.params[index]]
        assert mirror is not None
        used = state.get("radius", state["scale"]).flatten().expand(len(mirror.r))
        r = torch.tensor(mirror.r, dtype=torch.float64)
        _close("radius", used, r, slack * r, torch.float32)
        mirror.r = used.double().tolist()

    def _check_projected(self, index: int) -> None:
        p, mirror = self.params[index], self.mirrors[index]
        if mirror is not None:
            mirror.project()
            # A neuron that is projected to within the rounding of its dtype keeps every bit.
            working = self.optimizer.state[p]["rms"].dtype
            rounding = 4 * torch.finfo(p.dtype).eps
            self._check_weights(index, mirror.slack(ARITHMETIC[working] + rounding))

    def add_group(self, names: list[str], constraint: str, momentum: float, seed: int) -> bool:
        """Add a group of tensors of one layout, with constraints of its own, if there is room."""
        if len(self.optimizer.param_groups) >= MAX_GROUPS:
            return False
        rows = [ROWS[name] for name in names]
        rows = [row for row in rows if row.neuron_axes == rows[0].neuron_axes]
        params = [_parameter(row, seed + k) for k, row in enumerate(rows)]
        self.mirrors += [
            _mirror(row, p, constraint, momentum) for row, p in zip(rows, params, strict=True)
        ]
        options = {**CONSTRAINTS[constraint], "momentum": momentum, "lr": 0.01}
        self.optimizer.add_param_group({**_group(rows[0], params), **options})
        self.check_started(len(self.params) - len(params))
        return True

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    # What must change no bit of weights or state.

    def refused_step(self, kind: str, seed: int) -> None:
        """A step with nonfinite="raise" and a gradient that is not finite."""
        for p in self.params:
            p.grad = _gradient(p, kind, seed)
        before = self.everything()
        for group in self.optimizer.param_groups:
            group["nonfinite"] = "raise"
        if any(p.numel() for p in self.params):
            with pytest.raises(RuntimeError, match="holds NaN or infinity"):
                self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["nonfinite"] = "skip"
        self.optimizer.zero_grad()
        assert self.everything() == before

    def set_path(self, path: str, in_backward: bool) -> None:
        """Take another implementation from now on."""
        self.in_backward = in_backward
        for group in self.optimizer.param_groups:
            group.update(PATHS[path])

    def set_dtype(self, which: int, dtype: torch.dtype) -> None:
        """Convert one tensor, as nn.Module.to does; changes no state."""
        p = self.params[which % len(self.params)]
        p.data = p.data.to(dtype)
        mirror = self.mirrors[which % len(self.params)]
        if mirror is not None:
            mirror.w = p.detach().double().flatten().tolist()

    def set_memory(self, which: int, kind: str) -> None:
        """Move a tensor to other strides."""
        p = self.params[which % len(self.params)]
        before = bits(p)
        p.data = _moved(p.data, kind)
        assert bits(p) == before

    def save(self) -> None:
        """Write everything to a file."""
        file = io.BytesIO()
        torch.save({"weights": self.params, "optimizer": self.optimizer.state_dict()}, file)
        sizes = [len(group["params"]) for group in self.optimizer.param_groups]
        snapshot = Snapshot(file.getvalue(), copy.deepcopy(self.mirrors), sizes)
        self.snapshots = [*self.snapshots, snapshot][-MAX_SNAPSHOTS:]

    def load(self, which: int) -> str:
        """Go back to a file, or be refused where groups have been added since."""
        if not self.snapshots:
            return "nothing"
        snapshot = self.snapshots[which % len(self.snapshots)]
        saved = torch.load(io.BytesIO(snapshot.file), weights_only=True)
        if snapshot.groups != [len(group["params"]) for group in self.optimizer.param_groups]:
            before = self.everything()
            with pytest.raises(ValueError, match="the loaded state is for groups of"):
                self.optimizer.load_state_dict(saved["optimizer"])
            assert self.everything() == before
            return "refused"
        for p, w in zip(self.params, saved["weights"], strict=True):
            p.data = w.data
        self.optimizer.load_state_dict(saved["optimizer"])
        self.mirrors = copy.deepcopy(snapshot.mirrors)
        assert bits(self.params) == bits(saved["weights"])
        return "done"

    def duplicate(self, how: str) -> None:
        """Go on with a copy; the original stays as it was."""
        before = self.everything()
        if how == "deepcopy":
            self.optimizer = copy.deepcopy(self.optimizer)
        else:
            self.optimizer = pickle.loads(pickle.dumps(self.optimizer))
        assert self.everything() == before

    def everything(self) -> Any:
        return bits({"weights": self.params, **self.optimizer.state_dict()})

    def check_finite(self) -> None:
        """No weight and no state ever is NaN or infinite: those given never were."""
        state = (x for p in self.params for x in self.optimizer.state[p].values())
        numbers = torch.cat([x.detach().double().flatten() for x in (*self.params, *state)])
        assert numbers.isfinite().all(), [*self.params, *self.optimizer.state.values()]


def _parameter(row: TensorRow, seed: int) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(row.shape, generator=generator))


def _group(row: TensorRow, params: list[nn.Parameter]) -> dict[str, Any]:
    return {"params": params, "neuron_axes": row.neuron_axes}


def _mirror(row: TensorRow, p: Tensor, constraint: str, momentum: float) -> Mirror | None:
    if not p.numel():
        return None
    w = p.detach().double()
    return Mirror(w, row.neurons, beta=0.9, momentum=momentum, **CONSTRAINTS[constraint])


def _gradient(p: Tensor, kind: str, seed: int) -> Tensor | None:
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    limits = torch.finfo(p.dtype)
    scale = {"zero": 0.0, "tiny": max(limits.tiny, TINY), "huge": min(limits.max / 8, HUGE)}
    g = (g * scale.get(kind, 1.0)).to(p.dtype)
    if kind in ("nan", "inf"):
        g.fill_(math.nan if kind == "nan" else -math.inf)
    elif kind == "one nan" and g.numel():
        g.view(-1)[seed % g.numel()] = math.nan
    elif kind == "strided":
        g = _moved(g, "reversed")
    return g


def _moved(x: Tensor, kind: str) -> Tensor:
    if kind == "reversed":
        return x.mT.contiguous().mT if x.ndim > 1 else x.clone()
    if kind == "channels last":
        last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
        return x.contiguous(memory_format=last) if last and x.numel() else x.clone()
    if kind == "gaps":
        wide = x.new_zeros(*x.shape, 2)
        wide[..., 0] = x
        return wide[..., 0]
    return x.contiguous().clone()


def _close(what: str, x: Tensor, expected: Tensor, slack: Tensor, dtype: torch.dtype) -> None:
    off = (x.detach().double() - expected).abs() - slack - SMALLEST[dtype]
    worst = int(off.argmax())
    assert off.flatten()[worst] <= 0, (
        f"{what}: {x.flatten()[worst]:.9g}, the oracle has {expected.flatten()[worst]:.9g}, "
        f"which is off by {off.flatten()[worst]:.3g} more than rounding explains"
    )
