"""Data and initial weights for the networks of examples/flax_gpt.py and equinox_mlp.py, from numpy.

With these both frameworks train the same network; torch keeps each tensor in the layout that JAX
has it in. `torch_training.py` writes its losses, which the JAX side is tested against.
"""

from pathlib import Path
from typing import Any

import numpy as np

FROM_TORCH = Path(__file__).parent / "golden" / "training_from_torch.npz"
LETTERS, LENGTH, WIDTH, HEADS, BLOCKS = 12, 16, 32, 2, 2
INPUTS, HIDDEN = 8, 32

GPT_STEPS, GPT_RATE = 60, 0.03
MLP_STEPS, MLP_RATE = 150, 0.01

Shapes = dict[str, tuple[tuple[int, ...], tuple[Any, ...]]]


def _norm(name: str) -> Shapes:
    return {f"{name}/scale": ((WIDTH,), (0,)), f"{name}/bias": ((WIDTH,), (0,))}


def _block(name: str) -> Shapes:
    head = WIDTH // HEADS
    found: Shapes = {**_norm(f"{name}/norm_1"), **_norm(f"{name}/norm_2")}
    for part in ("query", "key", "value"):
        found[f"{name}/attention/{part}/kernel"] = ((WIDTH, HEADS, head), (1, 2))
        found[f"{name}/attention/{part}/bias"] = ((HEADS, head), (0, 1))
    found[f"{name}/attention/out/kernel"] = ((HEADS, head, WIDTH), (2,))
    found[f"{name}/attention/out/bias"] = ((WIDTH,), (0,))
    found[f"{name}/up/kernel"] = ((WIDTH, 4 * WIDTH), (1,))
    found[f"{name}/up/bias"] = ((4 * WIDTH,), (0,))
    found[f"{name}/down/kernel"] = ((4 * WIDTH, WIDTH), (1,))
    found[f"{name}/down/bias"] = ((WIDTH,), (0,))
    return found


# Name -> shape and neuron axes.
GPT: Shapes = {
    "letters/embedding": ((LETTERS, WIDTH), (0,)),
    "places/embedding": ((LENGTH, WIDTH), (0,)),
    **_block("block_0"),
    **_block("block_1"),
    **_norm("norm"),
    "head/kernel": ((WIDTH, LETTERS), (1,)),
    "head/bias": ((LETTERS,), (0,)),
}
MLP: Shapes = {
    f"layers/{index}/{name}": (shape, (0,))
    for index, (rows, columns) in enumerate([(HIDDEN, INPUTS), (HIDDEN, HIDDEN), (1, HIDDEN)])
    for name, shape in (("weight", (rows, columns)), ("bias", (rows,)))
}


def initial(shapes: Shapes) -> dict[str, np.ndarray]:
    """Normal weights, gains of 1 and biases of 0, float32."""
    random = np.random.RandomState(3)
    found = {}
    for name, (shape, _) in shapes.items():
        kind = name.rpartition("/")[2]
        value = {"bias": np.zeros, "scale": np.ones}.get(kind, lambda s: random.standard_normal(s))
        found[name] = np.asarray(value(shape), np.float32)
    return found


def sequences() -> np.ndarray:
    """Letters, (32, LENGTH + 1), each with two likely ones to follow."""
    random = np.random.RandomState(4)
    found = random.randint(LETTERS, size=(32, LENGTH + 1))
    for place in range(LENGTH):
        found[:, place + 1] = (5 * found[:, place] + random.randint(2, size=32)) % LETTERS
    return found.astype(np.int32)


def regression() -> tuple[np.ndarray, np.ndarray]:
    """Inputs, (256, INPUTS), and the product of the first two, (256, 1)."""
    x = np.random.RandomState(5).standard_normal((256, INPUTS)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2]
