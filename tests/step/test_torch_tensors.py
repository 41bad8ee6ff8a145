"""No gradient, state or parameter that torch can hold ends the process, or is read as another one.

Cases are drawn at random: a few small tensors, to each of which, between two steps, something is
done that torch allows. A step then either has the numbers of the step by torch's operators on
tensors that are written out, or raises an error of torch's or Nero's and leaves what it had.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import nero
from helpers import bits

CASES = 5000
PARTS = 10


class Odd(Tensor):
    """A subclass that changes nothing."""


# ---- what torch can make of the numbers of a tensor ----------------------------------------------


def negated(x: Tensor) -> Tensor:
    return torch._neg_view(-x)


def imaginary(x: Tensor) -> Tensor:
    """A view of another tensor's memory that is marked as negated, by public names."""
    return torch.complex(torch.zeros_like(x).float(), -x.float()).conj().imag.to(x.dtype)


def gaps(x: Tensor) -> Tensor:
    wide = x.new_zeros(*x.shape, 3)
    wide[..., 1] = x
    return wide[..., 1]


def reversed_memory(x: Tensor) -> Tensor:
    return x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])


def inside(x: Tensor) -> Tensor:
    flat = torch.cat([x.new_ones(3), x.flatten(), x.new_ones(2)])
    return flat[3 : 3 + x.numel()].view(x.shape)


def lazy(x: Tensor) -> Tensor:
    return torch._lazy_clone(x)


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def expanded(x: Tensor) -> Tensor:
    return x[..., :1].expand(x.shape) if x.ndim and x.numel() else x


SAME: list[Callable[[Tensor], Tensor]] = [
    torch.clone,
    negated,
    imaginary,
    gaps,
    reversed_memory,
    inside,
    lazy,
    inference,
    expanded,
    lambda x: x.as_subclass(Odd),
    lambda x: nn.Parameter(x),
    lambda x: nn.Buffer(x),
]


# ---- and what it can hold besides ----------------------------------------------------------------


def zero(x: Tensor) -> Tensor:
    return torch._efficientzerotensor(x.shape, dtype=x.dtype)


def freed(x: Tensor) -> Tensor:
    x = inside(x) if random.random() < 0.5 else x.clone()
    x.untyped_storage().resize_(0)
    return x


def shrunk(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(x.untyped_storage().nbytes() // 2)
    return x


def grown(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(4096)
    return x


def other_shape(x: Tensor) -> Tensor:
    return random.choice([x.new_ones(1, 1), x.new_ones(()), x.new_ones(0), x[:1], x.flatten()])


def other_dtype(x: Tensor) -> Tensor:
    return x.to(random.choice([torch.float64, torch.float16, torch.bfloat16, torch.complex64]))


def fake(x: Tensor) -> Tensor:
    with FakeTensorMode():
        return torch.empty(x.shape, dtype=x.dtype)


def functional(x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    torch.func.functionalize(lambda t: (kept.append(t), t)[1])(x)
    return kept[0]


def wrapped(x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    torch.func.grad(lambda t: (kept.append(t), t.sum())[1])(x)
    return kept[0]


def meta(x: Tensor) -> Tensor:
    return x.to("meta")


def sparse(x: Tensor) -> Tensor:
    return x.to_sparse() if x.ndim else x


def strange_numbers(x: Tensor) -> Tensor:
    x = x.clone()
    x.view(-1)[: 1 + x.numel() // 3] = random.choice([torch.nan, torch.inf, -torch.inf, 0.0, 3e38])
    return x


def with_graph(x: Tensor) -> Tensor:
    return x.clone().requires_grad_() * 1


OTHERS: list[Callable[[Tensor], Tensor]] = [
    zero,
    freed,
    shrunk,
    grown,
    other_shape,
    other_dtype,
    fake,
    functional,
    wrapped,
    meta,
    sparse,
    strange_numbers,
    with_graph,
]


# ---- the cases -----------------------------------------------------------------------------------


def shapes() -> list[tuple[int, ...]]:
    return random.choices([(3, 4), (5, 3), (2, 3, 4), (6,), (), (0, 3), (4, 3, 2, 2)], k=3)


def options() -> dict[str, Any]:
    return {
        "momentum": random.choice([0.0, 0.9]),
        "radius": random.choice(["unit", "initial", None]),
        "rounding": random.choice(["nearest", "nearest", "stochastic"]),
        "nonfinite": random.choice(["skip", "skip", "raise", "propagate"]),
        **random.choice([{}, {}, {"fused": True}, {"foreach": True}, {"foreach": False}]),
    }


# What torch, or Nero, may say of a tensor.
ERRORS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AssertionError)


def change(optimizer: nero.Nero, p: Tensor, make: Callable[[Tensor], Tensor]) -> None:
    """Do something to a parameter, or to its gradient or state, for the next step."""
    state = optimizer.state[p]
    name = random.choice(list(state))
    match random.choice(["gradient", "gradient", "in place", "state", "state in place", "weight"]):
        case "gradient":
            p.grad = make(p.grad)
        case "in place":
            p.grad.data = make(p.grad.data)
        case "state":
            state[name] = make(state[name])
        case "state in place":
            state[name].data = make(state[name].data)
        case _:
            p.data = make(p.data)


def run(seed: int) -> str:
    """One case; returns what came of it."""
    random.seed(seed)
    torch.manual_seed(seed)
    dtype = random.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16])
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes()]
    optimizer = nero.Nero([{"params": params[:2]}, {"params": params[2:]}], lr=0.1, **options())
    untouched = list(params)
    for step in range(4):
        for p in untouched:
            p.grad = torch.randn(p.shape).to(p.dtype)
        if step:
            p = untouched.pop(random.randrange(len(untouched)))
            make = random.choice(SAME if random.random() < 0.4 else OTHERS)
            try:
                change(optimizer, p, make)
            except ERRORS:  # torch does not hold such a tensor there
                continue
        before = [(bits(p), bits(optimizer.state[p])) for p in untouched]
        error = None
        try:
            optimizer.step()
        except ERRORS as said:
            error = said
        if error is not None:
            assert str(error)
            assert [(bits(p), bits(optimizer.state[p])) for p in untouched] == before, error
            return "refused"
    return "stepped"


@pytest.mark.parametrize("part", range(PARTS))
def test_no_tensor_of_torch_ends_the_process(part: int):
    counts = Counter(run(part * (CASES // PARTS) + case) for case in range(CASES // PARTS))
    assert counts["stepped"] > CASES // PARTS / 5, counts
    assert counts["refused"] > CASES // PARTS / 20, counts


if __name__ == "__main__":
    import sys

    for case in range(int(sys.argv[1]), int(sys.argv[2])):
        print(case, end=" ", flush=True)
        print(run(case), flush=True)
