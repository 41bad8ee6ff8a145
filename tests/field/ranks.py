"""What test_field.py runs in two processes each: `python ranks.py CASE RANK FILE`."""

import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import nero

WORLD = 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(6, 8, generator=generator), torch.randn(6, 4, generator=generator)


def alone(preset: str, steps: int) -> nn.Module:
    """The same training in one process, on the mean of both processes' losses."""
    model = network()
    optimizer = nero.Nero(nero.param_groups(model, preset=preset), lr=0.03)
    for step in range(steps):
        optimizer.zero_grad()
        for rank in range(WORLD):
            x, y = batch(step, rank)
            (nn.functional.mse_loss(model(x), y) / WORLD).backward()
        optimizer.step()
    return model


def accelerate_fsdp2(rank: int) -> None:
    """accelerate exchanges the parameters of an optimiser that was built before wrapping."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = Accelerator(fsdp_plugin=plugin, cpu=True)
    for preset in ("paper", "finetune"):
        # accelerate offers this on accelerators alone, but its preparation runs on CPUs too.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
        model = network()
        optimizer = nero.Nero(nero.param_groups(model, preset=preset), lr=0.03)
        model, optimizer = accelerator.prepare(model, optimizer)
        for step in range(5):
            x, y = batch(step, rank)
            optimizer.zero_grad()
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            optimizer.step()
        expected = dict(alone(preset, 5).named_parameters())
        for name, p in model.named_parameters():
            assert isinstance(p, torch.distributed.tensor.DTensor), name
            torch.testing.assert_close(p.full_tensor(), expected[name].detach())


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
    expected = dict(alone("paper", 5).named_parameters())
    for name, p in model.module.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name].detach())


if __name__ == "__main__":
    case, rank, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD)
    globals()[case](rank)
    dist.destroy_process_group()
