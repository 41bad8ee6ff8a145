"""The step on a GPU against the oracle in float64, and every path against the CPU's reference."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

import nero
from gpu.on_device import (
    DEVICE,
    PATHS,
    assert_near,
    every_path,
    give_gradients,
    network,
    only_on_cuda,
    train,
    twins,
)
from nero.directions import directions
from nero.rounding import Place, noise_bits, noise_keys, round_stochastically
from nero.step.orthogonal import products_dtype
from optimizer_table import CONSTRAINTS, FLOAT64_TOLERANCE, TENSORS
from oracle import OracleTensor

OPTIONS: dict[str, dict[str, Any]] = {
    "both": {},
    "momentum": {"momentum": 0.9},
    "centred initial, capped": {"radius": "initial", "max_turn": 1.0},
    "free, maximize": {"center": False, "radius": None, "maximize": True},
    "propagate": {"nonfinite": "propagate"},
    "raise": {"nonfinite": "raise", "beta": 0.9},
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
@pytest.mark.parametrize("foreach", [True, False], ids=["foreach", "single"])
def test_float64_follows_the_oracle(
    foreach: bool, constraint: dict[str, Any], momentum: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    start = [(row, normal(row.shape)) for row in TENSORS for _ in range(2)]  # a pair to stack
    params = [nn.Parameter(w.to(DEVICE)) for _, w in start]
    groups = [
        {"params": [p], "neuron_axes": row.neuron_axes}
        for (row, _), p in zip(start, params, strict=True)
    ]
    optimizer = nero.Nero(groups, foreach=foreach, momentum=momentum, **constraint)
    oracles = [
        OracleTensor(w, row.neurons, beta=0.999, momentum=momentum, **constraint)
        for row, w in start
    ]
    for t in range(15):
        give_gradients(params, t)
        optimizer.step()
        for p, oracle in zip(params, oracles, strict=True):
            assert p.grad is not None
            oracle.step(p.grad.cpu(), 0.01)
    for p, oracle in zip(params, oracles, strict=True):
        far = (p.detach().cpu() - oracle.weights()).norm() / oracle.weights().norm()
        assert far <= FLOAT64_TOLERANCE


@every_path
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_path_trains_as_the_reference_does_on_a_cpu(
    path: dict[str, Any], options: dict[str, Any]
) -> None:
    model, optimizer, other, reference = twins(path, **options)
    for seed in range(30):
        give_gradients(model.parameters(), seed)
        give_gradients(other.parameters(), seed)
        optimizer.step()
        reference.step()
    assert_near(model, other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        ours, theirs = optimizer.state[p]["rms"].cpu(), reference.state[q]["rms"]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@every_path
def test_a_neuron_without_a_finite_gradient_sits_out(path: dict[str, Any]) -> None:
    model, optimizer, other, reference = twins(path)
    before = model[5].weight.detach().clone()
    for net, each in ((model, optimizer), (other, reference)):
        give_gradients(net.parameters(), 0)
        net[5].weight.grad[3, 2] = torch.nan
        net[5].weight.grad[4, 0] = -torch.inf
        net[5].bias.grad[1] = torch.inf
        each.step()
    assert optimizer.skipped_neurons() == reference.skipped_neurons() == 3
    assert torch.equal(model[5].weight[3:5], before[3:5])
    assert_near(model, other)
    for group in optimizer.param_groups:
        group["nonfinite"] = "raise"
    with pytest.raises(RuntimeError, match="no weight was changed"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_path
def test_weights_in_sixteen_bits(path: dict[str, Any], dtype: torch.dtype) -> None:
    model, other = network().to(dtype), network().cpu().to(dtype)
    optimizer = nero.Nero(nero.param_groups(model), lr=0.03, **path)
    reference = nero.Nero(nero.param_groups(other), lr=0.03, foreach=False)
    for seed in range(10):
        give_gradients(model.parameters(), seed)
        give_gradients(other.parameters(), seed)
        optimizer.step()
        reference.step()
    # A weight may be rounded to the other neighbour; that has to stay rare.
    ulp = torch.finfo(dtype).eps
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        ours, theirs = p.detach().cpu().float(), q.detach().float()
        torch.testing.assert_close(ours, theirs, rtol=4 * ulp, atol=4 * ulp * theirs.std().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_noise_of_stochastic_rounding_is_that_of_a_cpu(dtype: torch.dtype) -> None:
    x = torch.randn(9, 31, generator=torch.Generator().manual_seed(3))
    place, keys = Place.of((9, 31)), noise_keys(7, 5)
    there, here = (noise_bits((9, 31), place, keys, torch.device(d)) for d in (DEVICE, "cpu"))
    assert torch.equal(there.cpu(), here)
    found = round_stochastically(x.to(DEVICE), dtype, there).cpu()
    assert torch.equal(found, round_stochastically(x, dtype, here))


@pytest.mark.parametrize("path", ["default", "foreach", "single", "foreach capturable"])
def test_stochastic_rounding_keeps_the_mean(path: str) -> None:
    p = nn.Parameter(torch.full((64, 1024), 1.0, device=DEVICE, dtype=torch.bfloat16))
    with torch.no_grad():
        p[:, ::2] *= -1
    # Far shorter than half the distance of two neighbours: to nearest, nothing would move.
    optimizer = nero.Nero(
        [p], lr=1e-4, rounding="stochastic", center=False, radius=None, **PATHS[path]
    )
    assert optimizer.state[p]["scale"].item() == pytest.approx(32)
    for _ in range(20):
        p.grad = torch.ones_like(p)
        optimizer.step()
    moved = (p.detach().float().mean() / (1e-4 * 32 / 32)).item()
    assert moved == pytest.approx(-20, rel=0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.95])
@pytest.mark.parametrize("path", ["default", "fused", "foreach", "single"])
def test_orthogonal_directions(path: str, momentum: float) -> None:
    options = {"orthogonal": True, "momentum": momentum, "max_turn": 1.0}
    model, optimizer, other, reference = twins(PATHS[path], **options)
    for seed in range(10):
        give_gradients(model.parameters(), seed)
        give_gradients(other.parameters(), seed)
        optimizer.step()
        reference.step()
    assert_near(model, other, atol=1e-4)  # small singular values are made 1: rounding with them


def test_large_layers_multiply_in_bfloat16_and_stay_orthogonal() -> None:
    g = torch.randn(1, 512, 768, generator=torch.Generator().manual_seed(0))
    u = directions(g.to(DEVICE), center=True, dtype=torch.bfloat16).double().cpu()
    exact = directions(g.double(), center=True)
    assert (u - exact).norm() / exact.norm() < 0.02
    if DEVICE == "cuda":
        assert products_dtype(g.to(DEVICE)) == torch.bfloat16


@only_on_cuda
@pytest.mark.parametrize("path", ["default", "fused capturable", "foreach", "foreach capturable"])
def test_a_step_does_not_wait_for_the_device(path: str) -> None:
    model = network()
    options = {"momentum": 0.9, "max_turn": 1.0}
    optimizers = [nero.Nero(nero.param_groups(model), **PATHS[path], **options)]
    if path == "default":
        optimizers.append(nero.for_model(network(), fresh=True))
    for optimizer in optimizers:
        for seed in range(3):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            give_gradients(params, seed)
            if seed:  # the first step measures what it starts from
                torch.cuda.set_sync_debug_mode("error")
            try:
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")


@only_on_cuda
@pytest.mark.parametrize("place", [0, 130], ids=["among the first", "among the last"])
def test_step_counts_may_be_on_the_host_and_on_the_device(place: int) -> None:
    """As where `capturable` was set in the middle of a run, or a parameter added since."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(3, 8, device=DEVICE)) for _ in range(132)]
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, reference = nero.Nero(params), nero.Nero(twins)
    state = optimizer.state[params[place]]
    state["step"] = state["step"].to(DEVICE)
    for seed in range(3):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        optimizer.step()
        reference.step()
    for p, q in zip(params, twins, strict=True):
        assert int(optimizer.state[p]["step"]) == 3
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@only_on_cuda
@pytest.mark.parametrize("path", ["default", "fused", "foreach", "single"])
def test_a_step_takes_little_memory_besides(path: str) -> None:
    params = [nn.Parameter(torch.randn(1024, 1024, device=DEVICE)) for _ in range(8)]
    optimizer = nero.Nero(params, **PATHS[path])
    for seed in range(2):
        give_gradients(params, seed)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        optimizer.step()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
    assert peak < (2**20 if path == "fused" else 4 * params[0].numel() * 4)


@every_path
def test_a_training_follows_that_of_a_cpu(path: dict[str, Any]) -> None:
    model, optimizer, other, reference = twins(path, lr=0.02)
    ours, theirs = (train(n, o, range(40)) for n, o in ((model, optimizer), (other, reference)))
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert ours[-1] < ours[0]
