"""What test_in_backward.py runs in every process: FSDP2 and DDP that step in the backward pass."""

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from nero import Nero, step_in_backward
from nero.backward import GradientUsedInBackward

STEPS = 8
SIZES = (6, 9, 7, 5)  # odd numbers of rows: the shards are uneven


def sharded(**options: Any) -> tuple[nn.Module, Nero]:
    """A model sharded layer by layer, the same on every rank before, and its optimiser."""
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(SIZES)]
    model = nn.Sequential(*layers)
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)
    return model, Nero(model.named_parameters(), lr=0.05, **options)


def loss(model: nn.Module, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * seed + dist.get_rank())
    return model(torch.randn(3, SIZES[0], generator=generator)).square().mean()


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor().detach().clone() for p in model.parameters()]


def same_numbers(options: dict[str, Any], clip_neurons: float | None = None) -> None:
    """FSDP2 calls the hooks after the reduce-scatter: the numbers are the ordinary ones."""
    ends = []
    for in_backward in (False, True):
        model, optimizer = sharded(**options)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        if in_backward:
            step_in_backward(model, optimizer, clip_neurons=clip_neurons)
        for seed in range(STEPS):
            optimizer.zero_grad()
            loss(model, seed).backward()
            kinds = {type(p.grad) for p in model.parameters()}
            assert kinds == {GradientUsedInBackward if in_backward else DTensor}, kinds
            if clip_neurons and not in_backward:
                for p in model.parameters():
                    norm = (
                        p.grad.square().sum(1, keepdim=True).sqrt() if p.ndim > 1 else p.grad.abs()
                    )
                    p.grad.mul_((clip_neurons / norm).clamp(max=1))
            optimizer.step()
            schedule.step()
        ends.append(whole(model))
        assert all(optimizer.state[p]["step"] == STEPS for p in model.parameters())
    for plain, stepped in zip(*ends, strict=True):
        if clip_neurons:  # whose norms are taken in another order
            torch.testing.assert_close(stepped, plain, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(plain, stepped)


def gradients_are_accumulated() -> None:
    """Both ways to accumulate step once by the sum: the handle's, and FSDP2's own."""
    ends = []
    for way in ("ordinary", "handle", "fsdp2"):
        model, optimizer = sharded()
        stepping = None if way == "ordinary" else step_in_backward(model, optimizer)
        for seed in range(STEPS):
            last = seed % 2 == 1
            if way == "fsdp2":
                model.set_requires_gradient_sync(last)
            if way == "handle" and not last:
                with stepping.accumulate():
                    loss(model, seed).backward()
                continue
            loss(model, seed).backward()
            if last:
                optimizer.step()
                optimizer.zero_grad()
        ends.append(whole(model))
        assert optimizer.state[model[0].weight]["step"] == STEPS // 2
    for plain, by_handle, by_fsdp2 in zip(*ends, strict=True):
        assert torch.equal(plain, by_handle)
        # It adds before it averages over the ranks.
        torch.testing.assert_close(by_fsdp2, plain, rtol=1e-5, atol=1e-6)


def refusals() -> None:
    model, optimizer = sharded()
    step_in_backward(model, optimizer)
    loss(model, 0).backward()
    assert "is gone" in message(lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    # FSDP2's own check comes first; it names what it found.
    assert "GradientUsedInBackward" in message(lambda: loss(model, 1).backward())

    plain = nn.Linear(3, 2)
    stale = Nero(plain.parameters())
    fully_shard(plain)
    assert "no trainable parameter" in message(lambda: step_in_backward(plain, stale))

    wrapped = nn.Sequential(DistributedDataParallel(nn.Linear(3, 2)))
    later = Nero(wrapped.parameters())
    assert "DistributedDataParallel (0) averages" in message(
        lambda: step_in_backward(wrapped, later)
    )


def message(action: Any) -> str:
    try:
        action()
    except (AssertionError, RuntimeError, ValueError) as error:
        return str(error)
    raise AssertionError("nothing was raised")
