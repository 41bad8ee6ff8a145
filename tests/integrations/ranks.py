"""What test_accelerate.py runs in two processes each: `python ranks.py CASE RANK FILE`."""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import nero
from nero.integrations import unwrap

WORLD = 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(6, 8, generator=generator), torch.randn(6, 4, generator=generator)


Build = Callable[[nn.Module], torch.optim.Optimizer]
BUILDS: dict[str, Build] = {
    "paper": lambda model: nero.Nero(nero.param_groups(model, preset="paper"), lr=0.03),
    "finetune": lambda model: nero.Nero(nero.param_groups(model, preset="finetune"), lr=0.03),
    "for_model": lambda model: nero.for_model(model, batch=batch(0, 0)[0], fresh=True),
}


def alone(build: Build, steps: int) -> nn.Module:
    """The same training in one process, on the mean of both processes' losses."""
    model = network()
    optimizer = build(model)
    for step in range(steps):
        optimizer.zero_grad()
        for rank in range(WORLD):
            x, y = batch(step, rank)
            (nn.functional.mse_loss(model(x), y) / WORLD).backward()
        optimizer.step()
    return model


def prepared(accelerator: Any, build: Build, rank: int, steps: int) -> tuple[nn.Module, Any]:
    """A model and its optimiser after some steps in accelerate's hands."""
    model = network()
    model, optimizer = accelerator.prepare(model, build(model))
    for step in range(steps):
        x, y = batch(step, rank)
        optimizer.zero_grad()
        accelerator.backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
    return model, optimizer


def accelerate_ddp(rank: int) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    for build in BUILDS.values():
        model, optimizer = prepared(accelerator, build, rank, 5)
        assert isinstance(model, DistributedDataParallel)
        assert unwrap(optimizer).skipped_neurons() == 0
        expected = dict(alone(build, 5).named_parameters())
        for name, p in model.module.named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=0, atol=1e-6)


def accelerate_fsdp2(rank: int) -> None:
    """accelerate exchanges the parameters of an optimiser that was built before wrapping."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = Accelerator(fsdp_plugin=plugin, cpu=True)
    for build in BUILDS.values():
        # accelerate offers this on accelerators alone, but its preparation runs on CPUs too.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
        model, optimizer = prepared(accelerator, build, rank, 5)
        assert unwrap(optimizer).skipped_neurons() == 0
        expected = dict(alone(build, 5).named_parameters())
        for name, p in model.named_parameters():
            assert isinstance(p, torch.distributed.tensor.DTensor), name
            torch.testing.assert_close(p.full_tensor(), expected[name].detach(), rtol=0, atol=1e-6)
        norm = nero.integrations.clip_grad_norm_(optimizer, 1e-3)
        assert norm > 1e-3
        assert nero.integrations.clip_grad_norm_(optimizer, 1e-3).item() == pytest.approx(
            1e-3, 0.01
        )


def fsdp1(rank: int) -> None:
    """Flattened parameters are refused, whichever way they are shown."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    for use_orig_params in (False, True):
        model = FullyShardedDataParallel(
            network(), use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
        for build in (
            lambda model=model: nero.Nero(model.parameters()),
            lambda model=model: nero.param_groups(model),
        ):
            with pytest.raises((TypeError, ValueError), match="fully_shard"):
                build()


def zero_redundancy(rank: int) -> None:
    """The recipe of the guide: balance on every rank first, then plain-tensor groups."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(nero.balance_(network()))
    optimizer = ZeroRedundancyOptimizer(
        nero.param_groups(model, names=False), optimizer_class=nero.Nero, lr=0.03
    )
    for step in range(5):
        for p in model.parameters():  # alike on both ranks, from the start
            mine = p.detach().clone()
            dist.broadcast(mine, src=0)
            assert torch.equal(mine, p.detach()), f"step {step}, rank {rank}"
        x, y = batch(step, rank)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    expected = dict(alone(BUILDS["paper"], 5).named_parameters())
    for name, p in model.module.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name].detach())


if __name__ == "__main__":
    case, rank, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD)
    globals()[case](rank)
    dist.destroy_process_group()
    # A thread of gloo's that lets go of the last collective's tensors while Python shuts down ends
    # the process with "terminate called without an active exception".
    os._exit(0)
