"""The problem that nero.optax and nero.Nero are both run on, from numpy alone.

`torch_side.py` and `with_jax/jax_side.py` run it and write what came out under `golden/`, so that
each side is tested against the other without both being installed.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
FROM_TORCH, FROM_JAX = GOLDEN / "from_torch.npz", GOLDEN / "from_jax.npz"
TORCH_SEED, JAX_SEED = 1, 2
STEPS = 100

# Name -> shape and neuron axes: how torch and flax store linear layers, convolutions, transposed
# and grouped ones, experts and biases; fan-ins that are too small; weights of zero; a neuron for
# the whole array.
TENSORS: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "linear": ((5, 7), (0,)),
    "kernel": ((6, 4), (1,)),
    "conv": ((4, 3, 2, 3), (0,)),
    "conv_kernel": ((2, 3, 3, 4), (-1,)),
    "transposed": ((3, 4, 2, 2), (1,)),
    "grouped_transposed": ((4, 3, 2, 2), ((0, 2), 1)),
    "experts": ((2, 3, 5), (0, 1)),
    "attention": ((6, 2, 3), (1, 2)),
    "tall": ((7, 4), (0,)),
    "narrow": ((5, 2), (0,)),
    "from_zero": ((4, 6), (0,)),
    "whole": ((3, 4), ()),
    "bias": ((6,), (0,)),
    "scalar": ((), (0,)),
}

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "none": {"center": False, "radius": None},
    "mean": {"center": True, "radius": None},
    "norm": {"center": False, "radius": "unit"},
    "both": {"center": True, "radius": "unit"},
    "initial": {"center": False, "radius": "initial"},
    "centred initial": {"center": True, "radius": "initial"},
    "radius 2.5": {"center": True, "radius": 2.5},
}

# Name -> options of nero.Nero and of nero.optax.nero alike.
CASES: dict[str, dict[str, Any]] = {
    f"{name}, momentum {momentum}": {**options, "momentum": momentum}
    for name, options in CONSTRAINTS.items()
    for momentum in (0.0, 0.9)
} | {
    "beta 0": {"beta": 0.0},
    "beta 0.9": {"beta": 0.9},
    "max_turn 1": {"max_turn": 1.0},
    "max_turn 0.5, momentum 0.9": {"max_turn": 0.5, "momentum": 0.9},
    "orthogonal": {"orthogonal": True},
    "orthogonal, momentum 0.9, max_turn 1": {"orthogonal": True, "momentum": 0.9, "max_turn": 1.0},
    "orthogonal, free": {"orthogonal": True, "center": False, "radius": None},
    "relative, free": {"relative": True, "center": False, "radius": None},
    "relative, momentum 0.9, max_turn 1": {"relative": True, "momentum": 0.9, "max_turn": 1.0},
    "relative, initial": {"relative": True, "radius": "initial"},
}

# Matrices that orthogonal directions treat one by one; 1 where a tensor is not named.
BLOCKS = {"conv": 2, "experts": 3}
# Tensors whose first directions are stored.
DIRECTIONS = ("linear", "conv", "transposed", "grouped_transposed", "experts", "tall")
# In bfloat16 the two differ where a weight lies at the middle between two numbers.
LOW_PRECISION = ("both, momentum 0.0", "norm, momentum 0.9")


def initial_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights before projection, float64. The legacy generator, whose streams never change."""
    random = np.random.RandomState(seed)
    found = {name: random.standard_normal(shape) for name, (shape, _) in TENSORS.items()}
    return {name: np.asarray(w * (name != "from_zero")) for name, w in found.items()}


def gradients(seed: int) -> list[dict[str, np.ndarray]]:
    """Gradients of each step, float64, of sizes from 1e-2 to 1e2.

    In one step of ten the first neuron of each array sees a NaN or an infinity; the last one sees
    no gradient in the first twenty steps.
    """
    random = np.random.RandomState(seed + 1000)
    every = []
    for t in range(1, STEPS + 1):
        size = 10.0 ** ((t * 7) % 5 - 2)
        step = {}
        for name, (shape, axes) in TENSORS.items():
            g = np.asarray(size * random.standard_normal(shape))
            if axes and shape:
                axis = axes[-1] if isinstance(axes[-1], int) else axes[-1][0]
                if t % 10 == 3:
                    np.moveaxis(g, axis, 0)[(0,) * g.ndim] = np.nan if t % 20 == 3 else np.inf
                if t <= 20:
                    np.moveaxis(g, axis, 0)[-1] = 0
            step[name] = g
        every.append(step)
    return every


def learning_rate(t: int) -> float:
    """Warm-up and cosine, with a step of 0 now and then."""
    return 0.0 if t % 7 == 5 else 0.03 * min(1, t / 10) * (1 + math.cos(math.pi * t / STEPS)) / 2


def flat(tree: dict[str, np.ndarray]) -> np.ndarray:
    """All arrays of a tree one behind the other."""
    return np.concatenate([np.ravel(tree[name]) for name in TENSORS])
