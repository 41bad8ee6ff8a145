"""Nero on `optax_problem`: `python tests/torch_side.py` writes golden/from_torch.npz."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import nero
import nero.directions
from nero.geometry import split_view
from optax_problem import (
    BLOCKS,
    CASES,
    DIRECTIONS,
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
    groups = [
        {"params": [params[name]], "neuron_axes": axes, "blocks": BLOCKS.get(name, 1)}
        for name, (_, axes) in TENSORS.items()
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*the weights start at", UserWarning)
        # In 16 bits the paths may round a weight to other neighbours.
        single = {} if dtype == torch.float64 else {"foreach": False}
        optimizer = nero.Nero(groups, **single, **options)
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


def directions(seed: int) -> dict[str, np.ndarray]:
    """Orthogonal directions of the first gradients."""
    found = {}
    for name in DIRECTIONS:
        g = torch.from_numpy(gradients(seed)[0][name])
        layout = nero.NeuronLayout(tuple(g.shape), TENSORS[name][1])
        split = split_view(g, layout)
        stack = nero.directions.layers(split, layout, BLOCKS.get(name, 1))
        u = nero.directions.directions(stack, center=True)
        u = nero.directions.from_layers(u, layout, split.stride())
        found[name] = u.reshape(g.shape).numpy()
    return found


def results(seed: int) -> dict[str, np.ndarray]:
    """All cases: "case/weights" and so on."""
    found = {}
    for case, options in CASES.items():
        found |= {f"{case}/{k}": x for k, x in run(seed, torch.float64, options).items()}
    found |= {f"directions/{name}": u for name, u in directions(seed).items()}
    for case in LOW_PRECISION:
        made = run(seed, torch.bfloat16, CASES[case])
        found |= {f"bfloat16, {case}/{k}": x for k, x in made.items()}
    return found


if __name__ == "__main__":
    np.savez_compressed(FROM_TORCH, **results(TORCH_SEED))
