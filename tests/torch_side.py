"""Nero on `optax_problem`: `python tests/torch_side.py` writes golden/from_torch.npz."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import nero
from optax_problem import (
    CASES,
    FROM_TORCH,
    LOW_PRECISION,
    STEPS,
    TENSORS,
    TORCH_SEED,
    flat,
    gradients,
    initial_weights,
    learning_rate,
)


def run(seed: int, dtype: torch.dtype, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights, running averages and skipped neurons after all steps."""
    params = {
        name: torch.nn.Parameter(torch.from_numpy(w).to(dtype))
        for name, w in initial_weights(seed).items()
    }
    groups = [{"params": [params[name]], "neuron_axes": TENSORS[name][1]} for name in TENSORS]
    optimizer = nero.Nero(groups, foreach=False, **options)
    every = gradients(seed)
    for t in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(t)
        for name, p in params.items():
            p.grad = torch.from_numpy(every[t - 1][name]).to(dtype)
        optimizer.step()
    rms = {name: optimizer.state[p]["rms"].numpy() for name, p in params.items()}
    weights = {name: p.detach().double().numpy() for name, p in params.items()}
    return {
        "weights": flat(weights),
        "rms": flat(rms),
        "skipped": np.asarray(optimizer.skipped_neurons()),
    }


def results(seed: int) -> dict[str, np.ndarray]:
    """All cases: "case/weights" and so on."""
    found = {}
    for case, options in CASES.items():
        found |= {f"{case}/{k}": x for k, x in run(seed, torch.float64, options).items()}
    for case in LOW_PRECISION:
        made = run(seed, torch.bfloat16, CASES[case])
        found |= {f"bfloat16, {case}/{k}": x for k, x in made.items()}
    return found


if __name__ == "__main__":
    np.savez_compressed(FROM_TORCH, **results(TORCH_SEED))
