"""Weights and state after 100 steps are those that were stored, on every path.

The compiled CPU kernel gives the same bits on every processor, so of its results a digest is
stored. torch's sums differ in the last places from one processor to another: for the paths that it
computes, numbers are stored. `python tests/step/test_golden.py` writes both files anew, which only
a change of the algorithm justifies.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from optimizer_table import (
    CONSTRAINTS,
    FLOAT32_TOLERANCE,
    FLOAT64_TOLERANCE,
    PATHS,
    PathRow,
    names,
)

GOLDEN = Path(__file__).parents[1] / "golden"
DIGESTS, NUMBERS = GOLDEN / "kernel_digests.json", GOLDEN / "numbers.json"
STEPS = 100

# Rows shorter than a block of lanes, longer than one with a rest, and longer than is summed before
# it goes into a double; columns; blocks; convolutions; entries.
SHAPES: list[tuple[tuple[int, ...], Any]] = [
    ((5, 3), (0,)),
    ((4, 16), (0,)),
    ((9, 77), (0,)),
    ((2, 2500), (0,)),
    ((13, 37), (1,)),
    ((7, 3, 40), (2,)),
    ((2, 33, 20), (0, 2)),
    ((3, 5, 3, 3), (1,)),
    ((4, 6, 3, 5), ((0, 2), 1)),
    ((50,), (0,)),
    ((), (0,)),
]
DTYPES = {str(x).removeprefix("torch."): x for x in (torch.float32, torch.float64)}
HALVES = {str(x).removeprefix("torch."): x for x in (torch.bfloat16, torch.float16)}

KERNEL_CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    f"{dtype}, {constraint}, momentum {momentum}": (
        (DTYPES | HALVES)[dtype],
        {**CONSTRAINTS[constraint], "momentum": momentum},
    )
    for dtype in DTYPES | HALVES
    for constraint in CONSTRAINTS
    for momentum in (0.0, 0.9)
}
KERNEL_CASES |= {
    f"{dtype}, stochastic, momentum {momentum}": (
        HALVES[dtype],
        {"rounding": "stochastic", "seed": 7, "momentum": momentum},
    )
    for dtype in HALVES
    for momentum in (0.0, 0.9)
}
KERNEL_CASES["float32, maximize, propagate"] = (
    torch.float32,
    {"maximize": True, "nonfinite": "propagate"},
)


class Numbers:
    """Numbers that are alike everywhere: integers from torch's generator, scaled by powers of 2."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._dtype = dtype

    def draw(self, shape: tuple[int, ...], power: int = 0) -> Tensor:
        whole = torch.randint(-127, 128, shape, generator=self._generator)
        return torch.ldexp(whole.to(torch.float64), torch.tensor(power - 6)).to(self._dtype)

    def power(self) -> int:
        return int(torch.randint(-12, 13, (), generator=self._generator))


def trained(dtype: torch.dtype, shapes: Any, channels_last: bool, **options: Any) -> list[Tensor]:
    """Weights and state after 100 steps, some of which hold rows of NaN."""
    numbers = Numbers(dtype)
    params = [nn.Parameter(numbers.draw(shape)) for shape, _ in shapes]
    start = [p.detach().clone() for p in params]
    if channels_last:
        for p in params:
            if p.ndim == 4:
                p.data = p.data.contiguous(memory_format=torch.channels_last)
    groups = [{"params": [p], "neuron_axes": axes} for p, (_, axes) in zip(params, shapes)]  # noqa: B905
    optimizer = nero.Nero(groups, **options)
    for p, w in zip(params, start, strict=True):  # what construction computes, torch sums up
        p.data.copy_(w)
        state = optimizer.state[p]
        state["scale"].fill_(0.75)
        state["step"].fill_(1)  # as of a run that goes on: nothing is measured before its step
        state["rms"].fill_(0.5)
        if "radius" in state:
            ramp = torch.arange(state["radius"].numel()) % 5
            state["radius"].copy_((1 + ramp / 4).view(state["radius"].shape))
    optimizer.load_state_dict(optimizer.state_dict())
    for step in range(STEPS):
        for p in params:
            g = numbers.draw(tuple(p.shape), numbers.power() if dtype != torch.float16 else -4)
            if step % 10 == 3 and g.ndim > 1:
                g[-1] = math.nan
            p.grad = torch.empty_like(p).copy_(g)
        optimizer.step()
    state = [optimizer.state[p][key] for p in params for key in sorted(optimizer.state[p])]
    return [*(p.detach() for p in params), *state]


def digest(tensors: list[Tensor]) -> str:
    sha = hashlib.sha256()
    for x in tensors:
        sha.update(f"{x.dtype} {tuple(x.shape)} ".encode())
        sha.update(bytes(x.contiguous().view(-1).view(torch.uint8).tolist()))
    return sha.hexdigest()


def kernel_digest(name: str) -> str:
    dtype, options = KERNEL_CASES[name]
    ours = [trained(dtype, SHAPES, last, lr=0.02, fused=True, **options) for last in (False, True)]
    return digest([x for tensors in ours for x in tensors])


# Small ones, two of a shape that the foreach path stacks.
SMALL = [((4, 6), (0,)), ((4, 6), (0,)), ((5, 3), (1,)), ((2, 3, 4), (0, 1)), ((6,), (0,))]
NUMBER_CASES = {
    f"{dtype}, {constraint}, momentum {momentum}": (
        DTYPES[dtype],
        {**CONSTRAINTS[constraint], "momentum": momentum},
    )
    for dtype in DTYPES
    for constraint in CONSTRAINTS
    for momentum in (0.0, 0.9)
}


def numbers_of(name: str, path: PathRow) -> list[list[float]]:
    dtype, options = NUMBER_CASES[name]
    lr = torch.tensor(0.02, dtype=torch.float64) if path.tensor_lr else 0.02
    tensors = trained(dtype, SMALL, False, lr=lr, **path.options, **options)
    return [x.double().flatten().tolist() for x in tensors]


@pytest.mark.skipif(os.environ.get("NERO_CPU") == "none", reason="there is no kernel")
@pytest.mark.parametrize("name", KERNEL_CASES)
def test_the_kernel_gives_the_stored_bits(name: str):
    assert kernel_digest(name) == json.loads(DIGESTS.read_text())[name]


@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_every_path_gives_the_stored_numbers(path: PathRow):
    stored = json.loads(NUMBERS.read_text())
    for name, (dtype, options) in NUMBER_CASES.items():
        if path.tensor_lr and not options["momentum"]:
            continue  # where the learning rate and the counts are matters to no constraint
        tolerance = FLOAT64_TOLERANCE if dtype == torch.float64 else FLOAT32_TOLERANCE
        for ours, expected in zip(numbers_of(name, path), stored[name], strict=True):
            size = max(map(abs, expected))
            assert ours == pytest.approx(expected, rel=0, abs=10 * tolerance * size), name


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    single = next(path for path in PATHS if path.name == "single")
    DIGESTS.write_text(
        json.dumps({name: kernel_digest(name) for name in KERNEL_CASES}, indent=1) + "\n"
    )
    NUMBERS.write_text(json.dumps({name: numbers_of(name, single) for name in NUMBER_CASES}) + "\n")
