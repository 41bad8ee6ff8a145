"""torch.compile: the step and a whole training step as one graph, without recompiling."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import nero
from helpers import network, weights_like

# A scheduler cannot see that a compiled step is a step.
ignore_unseen_steps = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(params: list[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "radius": "initial"},
    {"center": False, "radius": None, "maximize": True},
    {"neuron_axes": ((0, 2), 1), "radius": 2.0},
    {"max_turn": 1.0},
    {"center": False, "radius": None, "relative": True},
    {"orthogonal": True, "momentum": 0.9},
]


@ignore_unseen_steps
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_compiled_step_is_one_graph_with_the_same_numbers(options: dict[str, Any]):
    torch.manual_seed(0)
    shapes = (4, 6, 3), (6, 5), (7,), ()
    if "neuron_axes" in options:
        shapes = (4, 6, 3), (6, 5), (2, 4)
    params = weights_like(*shapes)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    counter = CompileCounter()
    optimizer = nero.Nero(params, lr=torch.tensor(0.05), **options)
    twin = nero.Nero(twins, lr=torch.tensor(0.05), **options)
    step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.97) for o in (optimizer, twin)]
    for seed in range(100):
        gradients(params, seed)
        gradients(twins, seed)
        if seed == 50:
            params[0].grad[0, 0] = twins[0].grad[0, 0] = torch.nan
        step()
        twin.step()
        for scheduler in schedulers:
            scheduler.step()
    assert counter.frame_count == 1
    # Without the kernel a compiled step takes its step counts as tensors, and so in float32; and
    # it cannot ask whether products are exact enough to find directions from G alone.
    same = "CPU kernel (" in optimizer.path and "orthogonal" not in options
    near = {"rtol": 0, "atol": 0 if same else 1e-5}
    for p, q in zip(params, twins, strict=True):
        assert int(optimizer.state[p]["step"]) == 100
        torch.testing.assert_close(p, q, **near)
        torch.testing.assert_close(optimizer.state[p]["rms"], twin.state[q]["rms"], **near)
    assert optimizer.skipped_neurons() == twin.skipped_neurons() > 0


@ignore_unseen_steps
def test_a_whole_training_step_compiles_without_a_graph_break():
    torch.manual_seed(0)
    model = network()
    twin_model = network()
    twin_model.load_state_dict(model.state_dict())
    x, y = torch.randn(32, 6), torch.randn(32, 2)

    def trainer(model: nn.Module):
        optimizer = nero.Nero(model.parameters(), lr=torch.tensor(0.02))
        # A scheduler wraps the method in a function that torch.compile does not trace.
        optimizer_step = optimizer.step
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)

        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer_step()
            return loss.detach()

        return step, scheduler, optimizer

    step, scheduler, optimizer = trainer(model)
    twin_step, twin_scheduler, twin = trainer(twin_model)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    # Backward passes inside of a compiled function are torch's own option.
    with torch._dynamo.config.patch(error_on_recompile=True, trace_autograd_ops=True):
        for _ in range(100):
            optimizer.zero_grad(), twin.zero_grad()  # torch.compile does not trace it
            loss, twin_loss = compiled(x, y), twin_step(x, y)
            scheduler.step(), twin_scheduler.step()
    torch.testing.assert_close(loss, twin_loss, rtol=1e-5, atol=1e-6)
    for p, q in zip(model.parameters(), twin_model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_the_operator_is_sound(rounding: str):
    torch.manual_seed(0)
    w, g, rms = torch.randn(4, 5), torch.randn(4, 5), torch.rand(4, 1)
    seeds = [torch.tensor(7)] if rounding == "stochastic" else []
    w, g = (w.bfloat16(), g.bfloat16()) if seeds else (w, g)
    arguments = (
        *([w], [g], [torch.zeros(4, 5)], [rms], [torch.zeros(())], [torch.ones(())], [], seeds),
        *(
            torch.tensor(0.1),
            [0, 0],
            0.99,
            0.9,
            True,
            "fixed",
            1.0,
            "skip",
            False,
            rounding,
            0.5,
            False,
        ),
    )
    torch.library.opcheck(torch.ops.nero.fused_step_.default, arguments)


@pytest.mark.skipif(os.environ.get("NERO_CPU") == "none", reason="Inductor needs a C++ compiler")
def test_inductor_runs_the_step():
    torch.manual_seed(0)
    params = weights_like((6, 5), (7,))
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, twin = nero.Nero(params, lr=torch.tensor(0.1)), nero.Nero(twins, lr=0.1)
    step = torch.compile(optimizer.step, fullgraph=True)
    for seed in range(3):
        gradients(params, seed)
        gradients(twins, seed)
        step()
        twin.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(os.environ.get("NERO_CPU") == "none", reason="there is no kernel")
def test_fused_holds_in_a_compiled_step():
    params = weights_like((2, 3, 2, 3, 2), (7,))
    optimizer = nero.Nero(params, fused=True)
    step = torch.compile(optimizer.step, backend="aot_eager", fullgraph=True)
    gradients(params, 0)
    step()
    before = [p.detach().clone() for p in params]
    gradients(params, 1)
    params[0].grad = torch.randn(2, 2, 2, 3, 3).permute(0, 3, 1, 4, 2)  # as no loops of the kernel
    with pytest.raises(RuntimeError, match=r"fused=True, but parameter 0 .* do not merge"):
        step()
    assert all(torch.equal(p, w) for p, w in zip(params, before, strict=True))


def test_a_compiled_step_makes_state_where_there_is_none():
    """Deleted in the middle of a run, or of a parameter that was frozen until then."""
    params = weights_like((4, 5), (6, 5), (4,), (3, 2))
    params[3].requires_grad_(False)
    optimizer = nero.Nero(params, center=False, radius="initial", rounding="stochastic")
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    gradients(params[:3], 0)
    step()
    with torch.no_grad():
        params[0].mul_(3)
        params[2].mul_(30)
    optimizer.state[params[0]] = {}
    del optimizer.state[params[2]]
    params[3].requires_grad_(True)
    kept = [p.norm(dim=1) for p in params if p.ndim > 1]
    size, before = params[2].abs().mean(), [p.detach().clone() for p in params]
    for seed in range(2):
        gradients(params, seed)
        step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 3, 2, 2]
    torch.testing.assert_close([p.norm(dim=1) for p in params if p.ndim > 1], kept)
    torch.testing.assert_close(optimizer.state[params[2]]["scale"], size)
    assert not any(torch.equal(p, w) for p, w in zip(params, before, strict=True))


def finetuned(start: dict[str, Tensor] | None, later: dict[str, Tensor] | None) -> nero.Nero:
    """Over a network that gets these weights before or after the optimiser is built."""
    model = network()
    if start:
        model.load_state_dict(start)
    optimizer = nero.Nero(model.parameters(), center=False, radius="initial", lr=0.1)
    if later:
        model.load_state_dict(later)
    return optimizer


def test_weights_loaded_after_building_are_measured_when_a_step_is_compiled():
    loaded = {name: 5 * x + 0.5 for name, x in network().state_dict().items()}
    late, also_late, early = (
        finetuned(None, loaded),
        finetuned(None, loaded),
        finetuned(loaded, None),
    )
    counter = CompileCounter()

    @torch.compile(backend=counter, fullgraph=True)
    def step(optimizer: nero.Nero) -> None:
        optimizer.step()

    for seed in range(3):
        for optimizer in (late, also_late, early):
            gradients(optimizer.param_groups[0]["params"], seed)
        step(late), step(also_late), early.step()
    assert counter.frame_count == 2, "one graph for each optimiser"
    for optimizer in (late, also_late):
        for state, expected in zip(optimizer.state.values(), early.state.values(), strict=True):
            torch.testing.assert_close(state, expected)


def test_weights_loaded_after_building_are_measured_when_a_training_step_is_compiled():
    """Where no gradient is there yet when the step is traced."""
    loaded = {name: 5 * x + 0.5 for name, x in network().state_dict().items()}
    model, x = network(), torch.randn(8, 6)
    optimizer = nero.Nero(model.parameters(), center=False, radius="initial")
    model.load_state_dict(loaded)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        step()
    for name, p in model.named_parameters():
        size = loaded[name].norm(dim=1, keepdim=True) if p.ndim > 1 else loaded[name].abs().mean()
        torch.testing.assert_close(optimizer.state[p]["radius" if p.ndim > 1 else "scale"], size)
