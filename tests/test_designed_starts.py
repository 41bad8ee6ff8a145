"""Networks whose initial sizes are part of their design, against AdamW at the best of three rates.

Each by what docs/how-to/groups.md recommends for its kind, at one rate.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nero import Nero, param_groups

pytestmark = pytest.mark.filterwarnings("ignore:.*start at .nearly. zero:UserWarning")
WIDTH = 32
Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]
Task = tuple[nn.Module, Batch, Callable[[Tensor, Tensor], Tensor]]


class Adapter(nn.Module):
    """A trained layer, frozen, and beside it B A with B = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a, self.b = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, WIDTH, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


def adapter() -> Task:
    """What the layer should do differs from what it does by a matrix of rank 4."""
    model = Adapter()
    target = model.base.weight + 0.04 * torch.randn(WIDTH, 4) @ torch.randn(4, WIDTH)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, noise = torch.randn(2, 64, WIDTH, generator=generator)
        return x, F.linear(x, target, model.base.bias) + 0.1 * noise

    return model, batch, F.mse_loss


class Block(nn.Module):
    """A residual branch that starts closed, by its last weights or by a gain."""

    def __init__(self, closed_by: str) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.gamma = nn.Parameter(torch.full((WIDTH,), 1e-5)) if closed_by == "gain" else None
        if self.gamma is None:
            nn.init.normal_(self.down.weight, std=1e-5)
            nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.relu(self.up(self.norm(x))))
        return x + (y if self.gamma is None else self.gamma * y)


def residual(closed_by: str) -> Task:
    """The largest output of another network, of eight."""
    model = nn.Sequential(nn.Linear(16, WIDTH), *[Block(closed_by) for _ in range(4)])
    model.extend([nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8)])
    teacher = nn.Sequential(nn.Linear(16, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 8))

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(64, 16, generator=generator)
        return x, teacher(x).argmax(1)

    return model, batch, F.cross_entropy


class Tokens(nn.Module):
    """A small vision transformer by hand, with raw (1, N, D) parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, WIDTH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 17, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.project(x)], 1) + self.pos_embed
        return self.head(self.norm(self.encoder(x)[:, 0]))


def tokens() -> Task:
    """Of what lies in 16 places, which half-space it is in and whether two places agree."""
    model, plane = Tokens(), torch.randn(16, 8)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(64, 16, 8, generator=generator)
        side, agree = (x * plane).sum((1, 2)) > 0, (x[:, 3] * x[:, 7]).sum(-1) > 0
        return x, 2 * side.long() + agree.long()

    return model, batch, F.cross_entropy


def last_loss(build: Callable[[], Task], optimize: Callable[[nn.Module], Any], steps: int) -> float:
    """The mean loss of the last 50 steps, with a rate that falls to zero."""
    torch.manual_seed(0)
    model, batch, loss_of = build()
    optimizer = optimize(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        x, y = batch(generator)
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return math.fsum(losses[-50:]) / 50


KEPT = {"preset": "finetune"}
CASES: dict[str, tuple[Callable[[], Task], dict[str, Any], float, int]] = {
    "adapter": (adapter, KEPT, 0.01, 500),
    "residual ends of 1e-5": (lambda: residual("weights"), KEPT | {"head": "6"}, 0.03, 400),
    "residual gains of 1e-5": (lambda: residual("gain"), KEPT | {"head": "6"}, 0.03, 400),
    "raw parameters": (tokens, {"unknown": "vectors", "head": "head"}, 0.01, 400),
}


@pytest.mark.parametrize(("build", "groups", "lr", "steps"), CASES.values(), ids=CASES)
def test_level_with_adamw_at_the_best_of_three_rates(
    build: Callable[[], Task], groups: dict[str, Any], lr: float, steps: int
) -> None:
    def adamw(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
        return lambda model: torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=rate
        )

    peers = [last_loss(build, adamw(rate), steps) for rate in (1e-3, 3e-3, 1e-2)]
    ours = last_loss(build, lambda model: Nero(param_groups(model, **groups), lr=lr), steps)
    print(f"{ours:.4f}; AdamW {', '.join(f'{peer:.4f}' for peer in peers)}")
    assert ours < 1.1 * min(peers)
