"""What else of torch a step on a GPU has to go with: scalers, graphs, compiling, saving, FSDP2."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import nero
from gpu.on_device import (
    DEVICE,
    PATHS,
    assert_near,
    batch,
    every_path,
    give_gradients,
    loss_of,
    network,
    only_on_cuda,
    train,
)
from helpers import snapshot
from nero import Nero

CAPTURED = {
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "orthogonal": {"orthogonal": True, "momentum": 0.9},
}


@every_path
def test_a_gradient_scaler(path: dict[str, Any]) -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer = Nero(nero.param_groups(model), **path)
    reference = Nero(nero.param_groups(other), **path)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, growth_interval=2)
    for seed in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, seed)).backward()
        scaler.step(optimizer)
        scaler.update()
    train(other, reference, range(4))
    assert snapshot(optimizer) == snapshot(reference)
    before = snapshot(optimizer)
    scaler.scale(loss_of(model, 4)).backward()
    model[2].weight.grad[1, 2] = torch.inf
    scaler.step(optimizer)
    assert snapshot(optimizer) == before


@every_path
def test_autocast_trains(path: dict[str, Any]) -> None:
    model = network()
    optimizer = Nero(nero.param_groups(model), lr=0.02, **path)
    scaler = torch.amp.GradScaler(DEVICE)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.float16):
            loss = loss_of(model, 0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@only_on_cuda
@pytest.mark.parametrize("path", CAPTURED.values(), ids=CAPTURED)
def test_a_captured_step_is_the_step(path: dict[str, Any]) -> None:
    model = network()
    other = copy.deepcopy(model)
    lr = torch.tensor(0.01, device=DEVICE)
    options = {**path, "capturable": True, "lr": lr}
    optimizer = Nero(nero.param_groups(model), **options)
    reference = Nero(nero.param_groups(other), **{**options, "lr": lr.clone()})
    params, others = list(model.parameters()), list(other.parameters())

    def step_both(seed: int, step: Any, rate: float) -> None:
        for ps in (params, others):
            held = [p.grad for p in ps]
            give_gradients(ps, seed)
            for p, g in zip(ps, held, strict=True):
                if g is not None:  # where the graph reads it
                    p.grad = g.copy_(p.grad)
        for each in (optimizer, reference):
            for group in each.param_groups:
                group["lr"].fill_(rate)
        step()
        reference.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for seed in range(3):
            step_both(seed, optimizer.step, 0.01)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    saved = [p.detach().clone() for p in params]
    with torch.cuda.graph(graph):
        optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(params, saved, strict=True)), "capturing runs"
    for seed in range(3, 23):
        step_both(seed, graph.replay, 0.01 * 0.95**seed)
    assert_near(model, other, atol=0.0 if "fused" in path else 5e-6)
    params[0].grad[0, 0] = torch.nan
    graph.replay(), graph.replay()
    assert optimizer.skipped_neurons() == 2
    counts = [int(s["step"]) - 2 for s in optimizer.state.values()]
    assert counts == [23] * len(counts) == [int(s["step"]) for s in reference.state.values()]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


COMPILED = {**{name: PATHS[name] for name in ("default", "fused", "foreach capturable")}}
COMPILED["orthogonal"] = {"orthogonal": True, "momentum": 0.9}


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("path", COMPILED.values(), ids=COMPILED)
def test_a_compiled_step_is_the_step(path: dict[str, Any]) -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer = Nero(nero.param_groups(model), lr=torch.tensor(0.01), **path)
    reference = Nero(nero.param_groups(other), lr=torch.tensor(0.01), **path)
    step = torch.compile(optimizer.step, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(10):
            give_gradients(model.parameters(), seed)
            give_gradients(other.parameters(), seed)
            if seed == 5:
                model[5].weight.grad[1, 1] = other[5].weight.grad[1, 1] = torch.nan
            step()
            reference.step()
    assert_near(model, other, atol=1e-4 if "orthogonal" in path else 2e-5)
    assert optimizer.skipped_neurons() == reference.skipped_neurons() == 1


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("path", [{}, {"fused": True}], ids=["default", "fused"])
def test_a_compiled_training_step(path: dict[str, Any]) -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer = Nero(nero.param_groups(model), lr=torch.tensor(0.01), **path)
    reference = Nero(nero.param_groups(other), lr=torch.tensor(0.01), **path)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    compiled = torch.compile(step, fullgraph=True)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for seed in range(10):
            optimizer.zero_grad()
            compiled(*batch(seed))
    train(other, reference, range(10))
    assert_near(model, other, atol=1e-3)  # the passes are compiled too, and round otherwise


@every_path
def test_a_checkpoint_goes_from_device_to_device(path: dict[str, Any]) -> None:
    model = network()
    optimizer = Nero(nero.param_groups(model), momentum=0.9, **path)
    train(model, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True, map_location="cpu")
    other = network(seed=9).cpu()
    reference = Nero(nero.param_groups(other), momentum=0.9, foreach=False)
    other.load_state_dict(loaded["model"])
    reference.load_state_dict(loaded["optimizer"])
    for group in reference.param_groups:
        group.update(foreach=False, fused=None, capturable=False)
    for state in reference.state.values():
        assert {x.device.type for x in state.values()} == {"cpu"}
    train(model, optimizer, range(5, 10))
    train(other, reference, range(5, 10))
    assert_near(model, other, atol=2e-5)
    back = network(seed=8)
    again = Nero(nero.param_groups(back), momentum=0.9, **path)
    back.load_state_dict(other.state_dict())
    saved = reference.state_dict()
    for ours, theirs in zip(saved["param_groups"], again.param_groups, strict=True):
        ours.update({name: theirs[name] for name in ("foreach", "fused", "capturable")})
    again.load_state_dict(saved)
    for p in back.parameters():
        assert again.state[p]["rms"].device.type == DEVICE
    train(back, again, range(10, 15))
    train(other, reference, range(10, 15))
    assert_near(back, other, atol=2e-5)


@every_path
def test_a_step_in_the_backward_pass(path: dict[str, Any]) -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer = Nero(nero.param_groups(model), **path)
    reference = Nero(nero.param_groups(other), **path)
    stepping = nero.step_in_backward(model, optimizer)
    train(model, optimizer, range(8))
    stepping.remove()
    train(other, reference, range(8))
    if path.get("foreach"):  # stacks are summed in another order
        return assert_near(model, other, atol=1e-5)
    assert snapshot(optimizer) == snapshot(reference)


@pytest.mark.parametrize("momentum", [True, False])
def test_for_model_trains(momentum: bool) -> None:
    model = network()
    other = copy.deepcopy(model).cpu()
    x, _ = batch(0)
    options = {} if momentum else {"momentum": 0.0}
    optimizer = nero.for_model(model, batch=x, fresh=True, **options)
    reference = nero.for_model(other, batch=x.cpu(), fresh=True, **options)
    assert_near(model, other, atol=1e-4)
    ours, theirs = (train(n, o, [0] * 60) for n, o in ((model, optimizer), (other, reference)))
    assert ours[-1] < ours[0] / 2
    assert ours[:5] == pytest.approx(theirs[:5], abs=0.02)


@pytest.fixture
def alone(tmp_path: Any) -> Iterator[Any]:
    """A mesh of this process alone, over NCCL."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    yield dist.init_device_mesh(DEVICE, (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"fused": True}, {"orthogonal": True}])
def test_fsdp2_on_one_device(alone: Any, options: dict[str, Any]) -> None:
    model = network()
    other = copy.deepcopy(model)
    for module in [*model]:
        if list(module.parameters()):
            dist.fsdp.fully_shard(module, mesh=alone)
    dist.fsdp.fully_shard(model, mesh=alone)
    optimizer = Nero(nero.param_groups(model), **options)
    reference = Nero(nero.param_groups(other), **options)
    losses = train(model, optimizer, range(8)), train(other, reference, range(8))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.detach().full_tensor(), q.detach(), rtol=0, atol=1e-5)
