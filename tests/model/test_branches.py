"""Residual branches start small beside what they are added to, whatever the size of that."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nero import for_model
from nero.model.trace import trace
from nero.optimizer import Nero

TOKENS = torch.randint(0, 12, (4, 6), generator=torch.Generator().manual_seed(0))
BLOCKS = 3


class Block(nn.Module):
    def __init__(self, post: bool) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.post = post

    def forward(self, x: Tensor) -> Tensor:
        branch = self.last(torch.relu(self.first(x if self.post else self.norm(x))))
        return self.norm(x + branch) if self.post else x + branch


class Residual(nn.Module):
    def __init__(self, size: float = 1.0, post: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.size = size
        self.blocks = nn.ModuleList(Block(post) for _ in range(BLOCKS))
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.size * self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def radii(optimizer: Nero) -> dict[str, Any]:
    groups = optimizer.param_groups
    return {name: group["radius"] for group in groups for name in group["param_names"]}


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_each_branch_is_its_share_of_the_signal(size: float) -> None:
    model = Residual(size)
    for k in range(BLOCKS):  # what is added is of the weights alone
        nn.init.zeros_(model.get_parameter(f"blocks.{k}.last.bias"))
    optimizer = for_model(model, batch=TOKENS, fresh=True)
    found = {name: layer.share for name, layer in trace(model, TOKENS).items()}
    shares = [found[f"blocks.{k}.last.weight"] for k in range(BLOCKS)]
    largest = max(share for share in shares if share is not None)
    norm = radii(optimizer)["blocks.0.last.weight"]
    if norm < 1:
        # Where the signal grew from branch to branch before, the first has the largest share.
        assert 0.9 / math.sqrt(BLOCKS) < largest < 1.6 / math.sqrt(BLOCKS)
    else:
        assert largest <= 1 / math.sqrt(BLOCKS)
    for name, radius in radii(optimizer).items():
        if name.endswith("last.weight"):
            assert radius == norm
            norms = model.get_parameter(name).norm(dim=1)
            torch.testing.assert_close(norms, torch.full((8,), norm))
        elif name.endswith("first.weight"):
            assert radius == "unit"
    assert f"residual branches: their last layers have norm {norm:g}" in repr(optimizer)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": None},
        {"fresh": False},
        {"radius": "initial"},
        {"overrides": {"*last.weight": {"radius": 2.0}}},
    ],
    ids=str,
)
def test_not_without_a_batch_nor_where_the_caller_decides(options: dict[str, Any]) -> None:
    plain = for_model(Residual(), **{"batch": TOKENS, "fresh": True})
    optimizer = for_model(Residual(), **{"batch": TOKENS, "fresh": True, **options})
    name = "blocks.1.last.weight"
    assert radii(plain)[name] not in {"unit", 1.0}
    assert radii(optimizer)[name] in {"unit", "initial", 2.0}
    assert "residual branches" not in repr(optimizer)


@pytest.mark.parametrize(
    "add",
    [lambda x, y: x + y, lambda x, y: y + x, lambda x, y: x.add_(y), torch.add],
    ids=["stream first", "branch first", "in place", "function"],
)
def test_the_share_of_a_branch(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = 2 * x
            return add(x, self.layer(x))

    model, x = Branch(), torch.randn(5, 8)
    expected = float((model.layer(x).norm() / x.norm()).detach())
    assert trace(model, x)["layer.weight"].share == pytest.approx(expected, rel=1e-5)
    on_meta = trace(Branch().to("meta"), x.to("meta"))
    assert on_meta["layer.weight"].share is None
    assert on_meta["layer.weight"].ends == {"skip"}


def test_sums_that_are_normalised_one_by_one_are_left() -> None:
    layers = trace(Residual(post=True), TOKENS)
    ends = [layer for layer in layers.values() if layer.ends == {"skip"}]
    assert len(ends) == BLOCKS
    assert not any(layer.accumulates for layer in ends)
    optimizer = for_model(Residual(post=True), batch=TOKENS, fresh=True)
    assert radii(optimizer)["blocks.1.last.weight"] == "unit"


def test_a_chain_ends_no_branch() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    layers = trace(model, torch.randn(3, 8))
    assert {layer.share for layer in layers.values()} == {None}
