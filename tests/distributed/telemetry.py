"""What test_telemetry.py runs in every process: a watch over DTensors beside one in one process."""

from typing import Any

import pytest
import torch

import nero
from distributed.cases import S0, S1, R, mesh_of, pair, random
from nero import Nero


def reports(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """By rows, which do not share out evenly, by columns and replicated."""
    weights = [random(*shape, seed=seed) for seed in range(3)]
    both = pair(weights, mesh_of(4), [(S0,), (S1,), (R,)], lr=0.05, **options)
    watches = [nero.watch(each, every=2, start=True) for each in (both.alone, both.spread)]
    for t in range(4):
        gradients = [random(*shape, seed=10 * t + seed) for seed in range(3)]
        gradients[1].flatten()[t] = torch.nan
        both.step(gradients)
        alone, spread = (watch.report() for watch in watches)
        if t % 2 == 0:
            assert alone is spread is None
            continue
        assert alone is not None
        assert spread is not None
        assert len(alone) > 20
        # Weights differ by float32's rounding, of which norm errors are made.
        for key, value in alone.items():
            close = 1e-6 if key.startswith("norm_error") else 1e-4 * abs(value)
            assert spread[key] == pytest.approx(value, abs=close), key


def fully_sharded() -> None:
    """A model under FSDP2, whose parameters are all DTensors; one process reads the reports."""
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 3))
    fully_shard(model, mesh=mesh_of(torch.distributed.get_world_size()))
    optimizer = Nero(nero.param_groups(model), lr=0.05)
    watch = nero.watch(optimizer, every=1)
    model(torch.randn(8, 6)).square().mean().backward()
    optimizer.step()
    if torch.distributed.get_rank() == 0:
        report = watch.report()
        assert report is not None
        assert 0 < report["angle/mean/0.weight"] < 0.2
    torch.distributed.barrier()
