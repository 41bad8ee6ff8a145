"""What the tests on a GPU share: the device, the paths, and optimisers beside twins on the CPU.

CI has no GPU: they are skipped there. `pytest tests/gpu -n 8` runs them where there is one, and
NERO_TEST_DEVICE=cpu runs on the CPU those that are not about CUDA alone, to see whether the tests
themselves are sound.
"""

import copy
import os
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from nero import Nero

DEVICE = os.environ.get("NERO_TEST_DEVICE", "cuda")

PATHS: dict[str, dict[str, Any]] = {
    "default": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "single": {"foreach": False},
    "foreach capturable": {"foreach": True, "capturable": True},
    "fused capturable": {"fused": True, "capturable": True},
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
only_on_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="there is no such thing on the CPU")

# The order of sums on a GPU is another one, and steps follow on each other.
NEAR = {"rtol": 0.0, "atol": 5e-6}


def network(seed: int = 0) -> nn.Sequential:
    """A convolution, layers of one shape for the foreach path to stack, and a head."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(3, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 24),
        nn.Tanh(),
        nn.LayerNorm(24),
        nn.Linear(24, 24),
        nn.Tanh(),
        nn.Linear(24, 24),
        nn.Tanh(),
        nn.Linear(24, 5),
    ).to(DEVICE)


def batch(seed: int, device: str = DEVICE) -> tuple[Tensor, Tensor]:
    """Inputs and classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 3, 6, generator=generator)
    return x.to(device), torch.randint(5, (16,), generator=generator).to(device)


def loss_of(model: nn.Module, seed: int) -> Tensor:
    x, y = batch(seed, next(model.parameters()).device.type)
    return nn.functional.cross_entropy(model(x), y)


def give_gradients(params: Iterable[Tensor], seed: int) -> None:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = g.to(p.device, p.dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: Iterable[int]) -> list[float]:
    """Train a step for each seed; returns the losses."""
    found = []
    for seed in seeds:
        optimizer.zero_grad()
        loss = loss_of(model, seed)
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return [float(loss) for loss in found]


def twins(path: dict[str, Any], **options: Any) -> tuple[nn.Module, Nero, nn.Module, Nero]:
    """A network on the device with an optimiser on a path; the same on the CPU by the reference."""
    model = network()
    other = copy.deepcopy(model).cpu()
    optimizer = Nero(nero.param_groups(model), **path, **options)
    return model, optimizer, other, Nero(nero.param_groups(other), foreach=False, **options)


def assert_near(model: nn.Module, other: nn.Module, **near: Any) -> None:
    """Whether all parameters agree, wherever they are."""
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            p.detach().cpu(),
            q.detach().cpu(),
            msg=lambda text, name=name: f"{name}: {text}",
            **{**NEAR, **near},
        )
