"""`relative=True`: steps in proportion to present norms, on every path but the kernels."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from helpers import build
from optimizer_table import PATHS, TENSORS, PathRow, TensorRow, names
from oracle import OracleTensor

STEPS = 24
LR = 2.0**-2  # so that norms grow well beyond those at construction, and shrink below them
FREE: dict[str, Any] = {"beta": 0.9, "radius": None, "relative": True}

every_path = pytest.mark.parametrize(
    "path", [path for path in PATHS if path.name != "fused"], ids=lambda path: path.name
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@every_path
@pytest.mark.parametrize(("center", "momentum"), [(False, 0.0), (True, 0.9)])
@pytest.mark.parametrize("row", TENSORS, ids=names(TENSORS))
def test_every_path_follows_the_oracle(
    row: TensorRow, center: bool, momentum: float, path: PathRow
) -> None:
    w = normal(*row.shape)
    options = {**FREE, "center": center, "momentum": momentum}
    oracle = OracleTensor(w, row.neurons, **options)
    params = [nn.Parameter(w.clone()) for _ in range(2)]  # so that there is something to stack
    optimizer = build(params, path, lr=LR, neuron_axes=row.neuron_axes, **options)
    sizes = []
    for t in range(STEPS):
        # One direction for a while, then back: neurons grow, and shrink.
        g = normal(*row.shape, seed=t + 1) / 3 + (1 if t < STEPS / 2 else -1)
        for p in params:
            p.grad = g.clone()
        optimizer.step()
        oracle.step(g, LR)
        sizes.append(float(params[0].detach().norm()))
    for p in params:
        torch.testing.assert_close(p.detach(), oracle.weights(), rtol=1e-11, atol=1e-11)
    if len(row.neurons) > 1 and not center:  # one entry may pass through 0 instead
        assert max(sizes) > 2 * float(w.norm())


def test_a_step_is_the_same_share_of_a_large_neuron_and_of_a_small_one() -> None:
    p = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0], [200.0, 0.0, 0.0]]))
    optimizer = nero.Nero([p], lr=0.01, center=False, radius=None, relative=True)
    optimizer.state[p]["scale"].fill_(0.5)  # as of a tensor that was small once
    p.grad = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    optimizer.step()
    expected = torch.tensor([[1.0, -0.01, 0.0], [200.0, 0.0, -2.0]])
    torch.testing.assert_close(p.detach(), expected)


def test_outputs_of_size_100_are_learnt_at_an_ordinary_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = 100 + 100 * torch.tanh(x[:, :1] + x[:, 1:2])

    def error(**head: Any) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
        nero.balance_(model)
        first, _, last = model
        groups = [
            {"params": list(first.parameters()), "center": False},
            {"params": list(last.parameters()), "center": False, **head},
        ]
        optimizer = nero.Nero(groups, lr=0.03, momentum=0.9, max_turn=1.0)
        for t in range(400):
            for group in optimizer.param_groups:
                group["lr"] = 0.03 * (1 - t / 400)
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach() / y.var())

    assert error(radius=None, relative=True) < 0.2
    assert error(radius=None) > 0.5


@pytest.mark.parametrize("shape", [(3, 4), (3,)], ids=str)
def test_a_kernel_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"fused=True, but parameter 0.*relative"):
        nero.Nero([nn.Parameter(torch.ones(shape))], relative=True, fused=True)


def test_the_path_says_why_there_is_no_kernel() -> None:
    optimizer = nero.Nero([nn.Parameter(torch.randn(3, 4))], radius=None, relative=True)
    assert "relative" in optimizer.path


def test_an_optimizer_that_was_pickled_before_has_no_such_steps() -> None:
    optimizer = nero.Nero([nn.Parameter(torch.randn(3, 4))])
    del optimizer.param_groups[0]["relative"], optimizer.defaults["relative"]
    assert pickle.loads(pickle.dumps(optimizer)).param_groups[0]["relative"] is False


def test_it_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="relative must be True or False"):
        nero.Nero([nn.Parameter(torch.randn(3, 4))], relative=1)  # type: ignore[arg-type]
