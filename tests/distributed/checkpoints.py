"""What test_checkpoints.py runs in every process: training saved and continued elsewhere."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import nero
from distributed.cases import S0, S1, R, mesh_of, pair, random, shard, whole
from distributed.models import WAYS, Spread, distance, fresh, train

WAY = {1: "alone", 2: "FSDP2", 4: "FSDP2"}
OPTIONS: dict[str, Any] = {"lr": 0.03, "momentum": 0.5}


def built(name: str, way: str, **options: Any) -> tuple[Spread, nero.Nero]:
    spread = Spread(fresh(name)) if way == "alone" else WAYS[way](fresh(name))
    groups = nero.param_groups(spread.model)
    return spread, nero.Nero(groups, **{**OPTIONS, **options})


def snapshot(model: nn.Module, optimizer: nero.Nero) -> dict[str, torch.Tensor]:
    """All weights and state, whole."""
    found = {}
    for name, p in model.named_parameters():
        found[name] = whole(p.detach()).clone()
        found |= {f"{name} {key}": whole(x).clone() for key, x in optimizer.state[p].items()}
    return found


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert torch.equal(found[name], x), name


def save(name: str, way: str, folder: str, steps: range, before: str | None = None) -> None:
    """Train for some steps, from a checkpoint where there is one, and save."""
    spread, optimizer = built(name, way, lr=0.9) if before else built(name, way)
    if before:
        load(spread.model, optimizer, before)
    train(spread, optimizer, name, steps)
    model_state, optimizer_state = get_state_dict(spread.model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.save(state, checkpoint_id=folder, no_dist=way == "alone")


def load(model: nn.Module, optimizer: nero.Nero, folder: str) -> None:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def compare(name: str, way: str, folder: str, steps: int) -> float:
    """How far the checkpoint's weights are from those of an uninterrupted run in one process."""
    spread, optimizer = built(name, way, lr=0.9)
    load(spread.model, optimizer, folder)
    assert {group["lr"] for group in optimizer.param_groups} == {OPTIONS["lr"]}
    assert all(s["step"] == steps for s in optimizer.state.values())
    alone, reference = built(name, "alone")
    train(alone, reference, name, range(steps))
    return distance(spread.model, alone.model)


def exact(name: str, way: str, folder: str) -> None:
    """On the same mesh, what continues from a checkpoint has the bits of what never stopped."""
    spread, optimizer = built(name, way)
    train(spread, optimizer, name, range(4))
    middle = snapshot(spread.model, optimizer)
    state = dict(zip(("model", "optimizer"), get_state_dict(spread.model, optimizer), strict=True))
    dcp.save(state, checkpoint_id=folder)
    train(spread, optimizer, name, range(4, 8))
    again, resumed = built(name, way, lr=0.9)
    train(again, resumed, name, range(2))
    load(again.model, resumed, folder)
    same(snapshot(again.model, resumed), middle)
    train(again, resumed, name, range(4, 8))
    same(snapshot(again.model, resumed), snapshot(spread.model, optimizer))


def reading_changes_nothing(name: str, way: str) -> None:
    """Neither before the first step nor after it, and no gradient is left behind."""
    spread, optimizer = built(name, way)
    for steps in (range(0), range(2)):
        train(spread, optimizer, name, steps)
        optimizer.zero_grad()
        before = snapshot(spread.model, optimizer)
        state = get_optimizer_state_dict(spread.model, optimizer)
        same(snapshot(spread.model, optimizer), before)
        set_optimizer_state_dict(spread.model, optimizer, optim_state_dict=state)
        same(snapshot(spread.model, optimizer), before)
        assert all(p.grad is None for p in spread.model.parameters())


def full_state(name: str, way: str, folder: str) -> None:
    """State gathered on rank 0, through a plain file, and given to all from there."""
    spread, optimizer = built(name, way)
    train(spread, optimizer, name, range(3))
    gather = StateDictOptions(full_state_dict=True, cpu_offload=True)
    states = {
        "model": get_model_state_dict(spread.model, options=gather),
        "optimizer": get_optimizer_state_dict(spread.model, optimizer, options=gather),
    }
    file = Path(folder) / "full.pt"
    if dist.get_rank() == 0:
        torch.save(states, file)
    dist.barrier()
    again, resumed = built(name, way, lr=0.9)
    for options in (
        StateDictOptions(full_state_dict=True),
        StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    ):
        loaded = torch.load(file, weights_only=True)
        sent = options.broadcast_from_rank0 and dist.get_rank() > 0
        set_model_state_dict(again.model, {} if sent else loaded["model"], options=options)
        set_optimizer_state_dict(
            again.model, resumed, {} if sent else loaded["optimizer"], options=options
        )
        same(snapshot(again.model, resumed), snapshot(spread.model, optimizer))
        train(again, resumed, name, range(2))  # away from there again


def plain_state_dicts(folder: str) -> None:
    """`state_dict` of DTensors, through a file a process, on the same mesh."""
    weights = [random(7, 9, seed=0), random(7, 9, seed=1)]
    both = pair(weights, mesh_of(4), [(S0,), (S1,)], momentum=0.9, radius="initial")
    gradients = [[random(7, 9, seed=10 * t + i) for i in range(2)] for t in range(4)]
    for each in gradients[:2]:
        both.step([*each])
    file = Path(folder) / f"{dist.get_rank()}.pt"
    torch.save(both.spread.state_dict(), file)
    saved = torch.load(file, weights_only=True)
    kept = [q.detach().clone() for _, q in both.params]
    for each in gradients[2:]:
        both.step([*each])
    with torch.no_grad():
        for (_, q), w in zip(both.params, kept, strict=True):
            q.copy_(w)
    both.spread.load_state_dict(saved)
    whole_state = both.alone.state_dict()  # of one process, further on by two steps
    for each in gradients[2:]:
        both.give([*each])
        both.spread.step()
    both.check(1e-6)
    both.spread.load_state_dict(whole_state)  # tensors that every process has: each takes its part
    both.check(1e-6)


def refusals() -> None:
    """State that does not fit names the parameter and changes nothing."""
    mesh = mesh_of(4)
    optimizer = nero.Nero([("up", nn.Parameter(shard(random(8, 6, seed=0), mesh, [S0])))])
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = shard(random(8, 6, seed=1), mesh, [S0])
    optimizer.step()

    def refused(state: dict[str, Any], message: str) -> None:
        before = {key: whole(x).clone() for key, x in optimizer.state[p].items()}
        saved = {**optimizer.state_dict(), "state": {0: state}}
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(saved)
        for key, x in before.items():
            assert torch.equal(whole(optimizer.state[p][key]), x)

    good = dict(optimizer.state[p])
    refused({k: x for k, x in good.items() if k != "rms"}, r"'up' of shape \(8, 6\) lacks rms")
    for wrong in (torch.ones(6, 1), shard(torch.ones(1, 6), mesh, [S0])):
        refused({**good, "rms": wrong}, r"'rms' of parameter 'up' .* has shape .* want \(8, 1\)")
    other = shard(torch.ones(8, 1), mesh_of(2, 2), [R, S0])
    refused({**good, "rms": other}, r"'rms' of parameter 'up' .* load it with torch.distributed")
    plain = nero.Nero([("up", nn.Parameter(random(8, 6, seed=0)))])
    with pytest.raises(ValueError, match=r"'rms' of parameter 'up' .* is a DTensor"):
        plain.load_state_dict(optimizer.state_dict())
    for placements in itertools.product([S0, R]):  # where else on the mesh: brought to its place
        rms = shard(torch.arange(8.0)[:, None], mesh, placements)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {**good, "rms": rms}}})
        assert optimizer.state[p]["rms"].placements == (S0,)
        assert torch.equal(whole(optimizer.state[p]["rms"]), torch.arange(8.0)[:, None])
