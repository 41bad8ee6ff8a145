"""Automatic mixed precision: GradScaler, autocast, and gradients at the bottom of float16."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import (
    balanced,
    build,
    every_path,
    network,
    snapshot,
    tangent,
    turned,
    weights_like,
)
from nero import Nero
from optimizer_table import PathRow

SMALLEST_SUBNORMAL = 2.0**-24  # of float16
# The scaler for CUDA is the same class, and switches itself off where there is no device.
every_scaler = pytest.mark.parametrize("device", ["cpu", "cuda"])


def scaler_for(device: str, **options: Any) -> torch.amp.GradScaler:
    enabled = device == "cpu" or torch.cuda.is_available()
    return torch.amp.GradScaler(device, enabled=enabled, **options)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 6, generator=generator)
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)


def loss_of(model: nn.Module, seed: int, autocast: torch.dtype | None = None) -> Tensor:
    x, y = batch(seed)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        return nn.functional.mse_loss(model(x).float(), y)


def plain_steps(model: nn.Module, optimizer: Nero, seeds: Iterable[int], clip: float) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


@every_path
@every_scaler
@pytest.mark.parametrize("clip", [math.inf, 0.1], ids=["", "clipped"])
def test_a_scaler_changes_no_bit(path: PathRow, device: str, clip: float):
    model = network()
    twin = copy.deepcopy(model)
    optimizer, reference = build(model.parameters(), path), build(twin.parameters(), path)
    scaler = scaler_for(device, init_scale=2.0**10, growth_interval=2)
    for seed in range(5):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, seed)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
    plain_steps(twin, reference, range(5), clip)
    assert snapshot(optimizer) == snapshot(reference)
    if device == "cpu":
        assert scaler.get_scale() == 2.0**12  # it grew on the way


@every_path
def test_a_scaler_that_finds_infinities_skips_the_step_whole(path: PathRow):
    model = network()
    optimizer = build(model.parameters(), path, momentum=0.9)
    scaler = scaler_for("cpu", init_scale=2.0**10)

    def step(seed: int, *, overflow: bool) -> None:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, seed)).backward()
        if overflow:
            model[0].weight.grad[1, 2] = torch.inf
        scaler.step(optimizer)
        scaler.update()

    step(0, overflow=False)
    before = snapshot(optimizer)
    step(1, overflow=True)
    assert snapshot(optimizer) == before
    assert scaler.get_scale() == 2.0**9
    # The scaler saw it before Nero did: no neuron was passed over, all were.
    assert optimizer.skipped_neurons() == 0
    step(2, overflow=False)
    assert snapshot(optimizer) != before


@every_path
def test_a_scale_that_changes_must_be_taken_out(path: PathRow):
    (w,) = weights_like((4, 9))
    optimizer = build([w], path, lr=0.01)
    angles = []
    for scale in (1024.0, 1.0):
        before = w.detach().clone()
        w.grad = scale * tangent(before)
        optimizer.step()
        angles.append(turned(before, w).mean().item())
    assert angles[0] == pytest.approx(0.01, rel=1e-3)
    # The average remembers gradients 1024 times larger: the square root of 2 over that.
    assert angles[1] == pytest.approx(0.01 * 2**0.5 / 1024, rel=0.01)


@every_path
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_trains_float32_weights_about_as_float32_does(path: PathRow, dtype: torch.dtype):
    model = network()
    twin = copy.deepcopy(model)
    optimizer, reference = build(model.parameters(), path), build(twin.parameters(), path)
    scaler = scaler_for("cpu") if dtype == torch.float16 else None
    start = loss_of(model, 0).item()
    for seed in range(60):
        optimizer.zero_grad()
        loss = loss_of(model, seed, dtype)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    plain_steps(twin, reference, range(60), math.inf)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert balanced(model[0].weight)
    end = loss_of(model, 0).item()
    assert end < 0.8 * start
    assert end == pytest.approx(loss_of(twin, 0).item(), rel=0.02)


GRADIENTS = {
    "all entries": torch.full((4, 16), SMALLEST_SUBNORMAL),
    "alternating": torch.tensor([1.0, -1.0]).repeat(4, 8) * SMALLEST_SUBNORMAL,
    "one entry": torch.eye(16)[:4] * SMALLEST_SUBNORMAL,
}


@every_path
@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_float16_gradients_of_the_smallest_subnormal_number_count_in_full(
    path: PathRow, gradient: Tensor, momentum: float
):
    # Free neurons, so that the way each entry went is the step itself.
    params = [nn.Parameter(torch.randn(4, 16).half()) for _ in range(2)]
    before = [p.detach().double() for p in params]
    optimizer = build(params, path, lr=0.25, center=False, radius=None, beta=0.5, momentum=momentum)
    for p in params:
        p.grad = gradient.half()
    optimizer.step()
    norm = gradient.double().norm(dim=1, keepdim=True)
    for p, w in zip(params, before, strict=True):
        state = optimizer.state[p]
        torch.testing.assert_close(state["rms"].double(), norm * 0.5**0.5, rtol=1e-6, atol=0)
        step = 0.25 * state["scale"].double() * gradient.double() / norm
        eps = torch.finfo(torch.float16).eps
        torch.testing.assert_close(p.detach().double(), w - step, rtol=eps, atol=eps / 100)


@pytest.mark.parametrize("foreach", [None, False, True])
def test_float32_weights_take_such_float16_gradients_too(foreach: bool | None):
    params = weights_like((4, 16), (4, 16))
    optimizer = Nero(params, foreach=foreach)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad_dtype = torch.float16
        p.grad = GRADIENTS["alternating"].half()
    optimizer.step()
    for p, w in zip(params, before, strict=True):
        gradient = GRADIENTS["alternating"].double()
        target = w.double() - 0.01 * gradient / gradient.norm(dim=1, keepdim=True)
        torch.testing.assert_close(turned(w, p), turned(w, target), rtol=1e-4, atol=0)


@every_path
def test_bfloat16_gradients_down_to_its_smallest_normal_number_count_in_full(path: PathRow):
    (w,) = weights_like((4, 16), dtype=torch.bfloat16)
    optimizer = build([w], path, lr=0.25)
    before = w.detach().float()
    smallest = torch.finfo(torch.bfloat16).tiny
    direction = tangent(before)
    w.grad = (direction / direction.abs().min() * smallest).bfloat16()
    optimizer.step()
    angle = torch.full((4,), math.atan(0.25), dtype=torch.float64)
    torch.testing.assert_close(turned(before, w), angle, rtol=0.02, atol=0)


@every_path
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_pure_float16_trains_under_a_constant_scale(path: PathRow, rounding: str):
    """What GradScaler does not do: it refuses gradients in float16."""
    model = network(torch.float16)
    optimizer = build(model.parameters(), path, rounding=rounding)

    def loss(seed: int) -> Tensor:
        x, y = batch(seed)
        return nn.functional.mse_loss(model(x.half()).float(), y)

    scaler = scaler_for("cpu")
    scaler.scale(loss(0)).backward()
    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        scaler.step(optimizer)
    start = loss(0).item()
    for seed in range(60):
        optimizer.zero_grad()
        (2.0**8 * loss(seed)).backward()
        if seed == 5:
            model[0].weight.grad[2, 3] = torch.inf  # as an overflow leaves it
        optimizer.step()
    assert optimizer.skipped_neurons() == 1
    assert all(p.isfinite().all() for p in model.parameters())
    assert loss(0).item() < 0.8 * start
