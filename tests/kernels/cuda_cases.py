"""Run the CUDA kernel and print how far it is from rule.py, as JSON.

A script of its own, `python cuda_cases.py GROUP...`: with TRITON_INTERPRET=1 it runs in Triton's
interpreter on the CPU, else on the GPU. Triton decides that when it is imported, and the other
tests have imported it by then. Each case is named in its output, with
figures that `test_triton.py` holds to limits.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from nero import Nero
from nero.groups import hyper_of, layout_of
from nero.kernels.facts import Column
from nero.kernels.settings import Settings
from nero.kernels.triton import plan as cuda_plan
from nero.kernels.triton.launch import Batch
from nero.state import tensor_step
from nero.step.reference import _single_tensor_nero
from nero.step.route import cuda_routes
from optimizer_table import CONSTRAINTS, SCHEDULES, TENSORS

Figures = dict[str, float | bool | str]
Gradient = Callable[[Tensor, int], Tensor]
BOTH_PATHS = {"one pass": 8192, "two passes": 2}


def _convert_float(x: np.ndarray, given: Any, wanted: Any, rounding: Any) -> np.ndarray:
    """Conversions from and to bfloat16 as a GPU makes them: to nearest.

    The interpreter's own cuts off, or loses the carry where rounding reaches the next power of 2.
    """
    if str(wanted) == "bf16":
        return torch.from_numpy(x).bfloat16().view(torch.uint16).numpy()
    assert (str(given), str(wanted)) == ("bf16", "fp32")
    return torch.from_numpy(x).view(torch.bfloat16).float().numpy()


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if INTERPRETED:
    interpreter._convert_float = _convert_float


class Pair:
    """Two optimisers over equal weights, one to step with the kernel and one with the rule."""

    def __init__(self, weights: Iterable[Tensor], **options: Any) -> None:
        weights = list(weights)
        self.sides = [self._optimizer(weights, options) for _ in range(2)]
        self.same_counts = True

    @staticmethod
    def _optimizer(weights: list[Tensor], options: dict[str, Any]) -> Nero:
        copies = (torch.empty_like(w, device=DEVICE).copy_(w) for w in weights)
        return Nero([torch.nn.Parameter(w) for w in copies], **options)

    def weights(self, side: int) -> list[Tensor]:
        return [p.detach() for p in self.sides[side].param_groups[0]["params"]]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: Any = None) -> None:
        skipped = []
        for optimizer, update in zip(self.sides, (by_kernel, by_rule), strict=True):
            group = optimizer.param_groups[0]
            group["lr"] = group["lr"] if lr is None else lr
            for p, g in zip(group["params"], gradients, strict=True):
                p.grad = g.clone(memory_format=torch.preserve_format)
            skipped.append(update(optimizer, group))
            for p, g in zip(group["params"], gradients, strict=True):
                assert p.grad.equal(g) or g.isnan().any(), "the gradient was modified"
        self.same_counts &= skipped[0] == skipped[1]

    def figures(self) -> Figures:
        kernel, rule = self.sides
        pairs = list(zip(self.weights(0), self.weights(1), strict=True))
        states = [
            (kernel.state[p], rule.state[q])
            for p, q in zip(*(x.param_groups[0]["params"] for x in self.sides), strict=True)
        ]
        return {
            "w": max(distance(a, b) for a, b in pairs),
            "rms": max(  # of each neuron by itself: their gradients may be of any size
                distance(x, y)
                for a, b in states
                for x, y in zip(a["rms"].cpu().flatten(), b["rms"].cpu().flatten(), strict=True)
            ),
            "m": max(
                distance(a["exp_avg"], b["exp_avg"]) if "exp_avg" in a else 0 for a, b in states
            ),
            "same counts": self.same_counts,
        }


def by_kernel(optimizer: Nero, group: dict[str, Any]) -> int:
    """Step with the kernel; returns how many neurons were skipped."""
    hyper, params = hyper_of(group), group["params"]
    settings = Settings.of(hyper, group["neuron_axes"])
    tensors = {"w": params, "g": [p.grad for p in params]}
    for name in settings.state():
        states = [optimizer.state[p] for p in params]
        tensors[name] = [state.get(name, state["scale"]) for state in states]
    columns = {name: Column(column) for name, column in tensors.items()}
    routes = cuda_routes(columns, settings, hyper.lr)
    assert not any(found.reason for found in routes), routes
    batch = Batch(hyper)
    batch.add([found.shape for found in routes], columns)
    return int(batch.run())


def by_rule(optimizer: Nero, group: dict[str, Any]) -> int:
    """Step with the rule, likewise."""
    hyper, state = hyper_of(group), optimizer.state
    steps = [tensor_step(p, p.grad, state[p], layout_of(p, group), hyper) for p in group["params"]]
    torch._foreach_add_([step.state["step"] for step in steps], 1)
    return sum(int((~finite).sum()) for finite in _single_tensor_nero(steps, hyper))


def distance(a: Tensor, b: Tensor) -> float:
    """The distance of two tensors relative to the second; NaN has to stand where NaN stands."""
    if a.isnan().ne(b.isnan()).any():
        return float("inf")
    a, b = a.cpu().double().nan_to_num(), b.cpu().double().nan_to_num()
    return float((a - b).norm() / b.norm()) if b.norm() else float(a.norm())


def train(weights: Iterable[Tensor], steps: int, gradient: Gradient, **options: Any) -> Figures:
    schedule = options.pop("schedule", None)
    pair = Pair(weights, **options)
    for t in range(steps):
        lr = None if schedule is None else schedule(t)
        pair.step([gradient(w, t) for w in pair.weights(1)], lr)
    return pair.figures()


def noise(w: Tensor, t: int) -> Tensor:
    """A gradient of unit size, in the memory order of the weight, that is the same for a step."""
    return torch.randn(w.shape, generator=torch.Generator().manual_seed(1000 + t)).to(w)


def normal(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def constraints() -> Iterator[tuple[str, Figures]]:
    """100 steps under those of the paper, a few under each of the others."""
    for path, limit in BOTH_PATHS.items():
        cuda_plan.ONE_PASS = limit
        for name, options in CONSTRAINTS.items():
            steps = 100 if (name, path) == ("both", "one pass") else 2
            yield f"{name}, {path}", train(normal((5, 7), (6,)), steps, noise, lr=0.03, **options)


def options() -> Iterator[tuple[str, Figures]]:
    tensor_lr = {"lr": torch.tensor(0.03), "capturable": True}
    cases: dict[str, dict[str, Any]] = {
        "momentum 0.9": {"momentum": 0.9},
        "momentum 0.2": {"momentum": 0.2, "radius": "initial"},
        "maximize": {"maximize": True},
        "beta 0": {"beta": 0.0},
        "capped": {"max_turn": 0.7},
        "capped, momentum": {"max_turn": 0.2, "momentum": 0.9, "radius": "initial"},
        "capturable": {**tensor_lr, "momentum": 0.5},
        "raise": {"nonfinite": "raise"},
        "schedule": {"schedule": SCHEDULES["with steps of 0"]},
        "lr as a tensor": {"schedule": lambda t: torch.tensor(0.01 * t)},
    }
    for path, limit in BOTH_PATHS.items():
        cuda_plan.ONE_PASS = limit
        for name, case in cases.items():
            yield f"{name}, {path}", train(normal((5, 7), (6,)), 5, noise, **{"lr": 0.03, **case})


def dtypes() -> Iterator[tuple[str, Figures]]:
    low = (torch.bfloat16, torch.float16)
    pairs = [(x, x) for x in low] + [(torch.float32, torch.bfloat16), (low[1], torch.float32)]
    for path, limit in BOTH_PATHS.items():
        cuda_plan.ONE_PASS = limit
        for w_dtype, g_dtype in pairs:
            pair = Pair(normal((5, 7), (6,), dtype=w_dtype), momentum=0.9)
            for t in range(3):
                gradients = [noise(w, t).to(g_dtype) for w in pair.weights(1)]
                for optimizer in pair.sides:  # torch wants a gradient in its parameter's dtype
                    for p in optimizer.param_groups[0]["params"]:
                        p.grad_dtype = None
                pair.step(gradients)
            yield f"{w_dtype}, {g_dtype}, {path}", pair.figures()


def layouts() -> Iterator[tuple[str, Figures]]:
    for path, limit in BOTH_PATHS.items():
        cuda_plan.ONE_PASS = limit
        for row in TENSORS[: None if limit > 2 else -2]:  # a bias has but one path
            case = {"neuron_axes": row.neuron_axes, "momentum": 0.9}
            yield f"{row.name}, {path}", train(normal(row.shape), 3, noise, **case)
    cuda_plan.ONE_PASS = 8192
    last = [w.to(memory_format=torch.channels_last) for w in normal((6, 5, 3, 3))]
    yield "channels last", train(last, 3, noise)
    yield "channels last, transposed", train(last, 3, noise, neuron_axes=(1,))
    yield "long columns", train(normal((150, 40)), 3, noise, neuron_axes=(1,), momentum=0.9)
    yield "long rows", train(normal((2, 2500), (2, 8193)), 3, noise)
    yield "full rows", train(normal((1, 8192), (2, 4096), (2, 2048), (3, 1025)), 3, noise)

    def transposed(w: Tensor, t: int) -> Tensor:
        return noise(w, t).T.contiguous().T

    yield "another order", train(normal((40, 5)), 3, transposed)

    def expanded(w: Tensor, t: int) -> Tensor:
        return torch.tensor([1.0, 2, -1, 0, t]).to(w)[None].expand(40, 5)

    yield "expanded gradient", train(normal((40, 5)), 3, expanded)
    yield (
        "transposed experts",
        train(
            [normal((4, 3, 9))[0].transpose(0, 1)], 3, noise, neuron_axes=(0, 1), radius="initial"
        ),
    )


def edges() -> Iterator[tuple[str, Figures]]:
    """Rows that a kernel would get wrong if it only knew the formula."""

    def gradient(w: Tensor, t: int) -> Tensor:
        g = noise(w, t)
        if w.ndim < 2:
            g[0], g[1], g[2] = 0, torch.nan, 1e-30
            return g
        g[0] = 0
        g[1, 2], g[2, 0] = torch.nan, torch.inf
        g[3] *= 1e-30
        g[4] *= 1e30
        g[9] = 3e38  # finite, unlike its norm
        if t == 1:
            g[6] = -torch.inf
        return g

    for path, limit in BOTH_PATHS.items():
        cuda_plan.ONE_PASS = limit
        for name, cap in (("both", None), ("centred initial", None), ("both", 1.0)):
            for nonfinite in ("skip", "propagate"):
                weights = normal((10, 7), (6,))
                weights[0][7], weights[0][8] = 0.5, 0.0  # constant; zero
                case = {**CONSTRAINTS[name], "nonfinite": nonfinite, "lr": 0.05, "max_turn": cap}
                pair = Pair(weights, **case)
                before = [w.clone() for w in pair.weights(0)]
                for t in range(3):
                    pair.step([gradient(w, t) for w in pair.weights(1)])
                figures = pair.figures()
                skip = nonfinite == "skip"
                matrix, bias = pair.weights(0)
                still = [0, 1, 2, 9] if skip else [0]
                figures["kept"] = bool(
                    matrix[still].equal(before[0][still]) and bias[0] == before[1][0]
                )
                yield f"{name}, {nonfinite}, {path}, cap {cap}", figures


def still() -> Iterator[tuple[str, Figures]]:
    """What must not move by a bit, and rows that constant gradients keep constant."""
    for path, limit in BOTH_PATHS.items():
        cuda_plan.ONE_PASS = limit
        weights = [w + 3 for w in normal((5, 7), (6,))]  # off their constraint sets from here on
        for name, lr in (("lr 0", 0.0), ("lr a tensor of 0", torch.tensor(0.0))):
            pair = Pair(normal((5, 7), (6,)), lr=lr)
            for side in range(2):
                for w, x in zip(pair.weights(side), weights, strict=True):
                    w.copy_(x)
            pair.step([noise(w, 0) for w in pair.weights(1)])
            moved = any(not a.equal(b.to(a)) for a, b in zip(pair.weights(0), weights, strict=True))
            yield f"{name}, {path}", {**pair.figures(), "kept": not moved}
        constant = [torch.full((4, 7), 5.0)]
        yield (
            f"constant, {path}",
            train(constant, 3, lambda w, t: torch.full_like(w, 1 + t), lr=0.03),
        )
        tilted = [1e4 + normal((4, 7))[0]]  # a mean far above the spread around it
        yield f"far mean, {path}", train(tilted, 3, noise, lr=1e-6, radius=None)
        tiny = train(normal((4, 7)), 2, lambda w, t: 1e-41 * noise(w, t), lr=1e-3)
        # The running average of a subnormal gradient has three digits, whoever rounds it.
        yield f"subnormal gradient, {path}", {**tiny, "rms": 0.0}


def launches() -> Iterator[tuple[str, Figures]]:
    """Many tensors of mixed sizes: how many launches they take."""
    from nero.kernels.triton import rows as cuda_rows

    cuda_plan.ONE_PASS = 8192
    count, kernel = [0], cuda_rows.nero_kernel

    class Counting:
        def __getitem__(self, grid: tuple[int]) -> Any:
            count[0] += 1
            return kernel[grid]

    cuda_rows.nero_kernel = Counting()
    shapes = [(3, 40), (7,), (2, 9000), (0, 4), (70, 3), (), (3000,), (1, 1, 3, 3), (4, 2), (2, 1)]
    for name, case in {"both": {}, "initial": {"radius": "initial", "momentum": 0.9}}.items():
        count[0] = 0
        figures = train(normal(*shapes, *[(4, 5)] * 10), 2, noise, **case)
        yield name, {**figures, "launches": count[0] / 2}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = [each for group in sys.argv[1:] for each in globals()[group]()]
    assert len(dict(found)) == len(found), "two cases have one name"
    json.dump(dict(found), sys.stdout)
