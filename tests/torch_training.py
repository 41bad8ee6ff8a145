"""The networks of `training_problem` in torch; run as a script, writes their losses."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import nero
from training_problem import (
    BLOCKS,
    FROM_TORCH,
    GPT,
    GPT_RATE,
    GPT_STEPS,
    MLP,
    MLP_RATE,
    MLP_STEPS,
    Shapes,
    initial,
    regression,
    sequences,
)

Weights = dict[str, Tensor]


def normalised(x: Tensor, w: Weights, name: str) -> Tensor:
    # flax's epsilon
    return F.layer_norm(x, x.shape[-1:], w[f"{name}/scale"], w[f"{name}/bias"], eps=1e-6)


def attended(x: Tensor, w: Weights, name: str) -> Tensor:
    q, k, v = (
        torch.einsum("bld,dhe->bhle", x, w[f"{name}/{part}/kernel"])
        + w[f"{name}/{part}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.einsum("bhle,hed->bld", y, w[f"{name}/out/kernel"]) + w[f"{name}/out/bias"]


def gpt_loss(w: Weights) -> Tensor:
    letters = torch.from_numpy(sequences()).long()
    x = w["letters/embedding"][letters[:, :-1]] + w["places/embedding"]
    for index in range(BLOCKS):
        name = f"block_{index}"
        x = x + attended(normalised(x, w, f"{name}/norm_1"), w, f"{name}/attention")
        up = normalised(x, w, f"{name}/norm_2") @ w[f"{name}/up/kernel"] + w[f"{name}/up/bias"]
        x = x + up.relu() @ w[f"{name}/down/kernel"] + w[f"{name}/down/bias"]
    scores = normalised(x, w, "norm") @ w["head/kernel"] + w["head/bias"]
    return F.cross_entropy(scores.flatten(0, 1), letters[:, 1:].flatten())


def mlp_loss(w: Weights) -> Tensor:
    x, y = map(torch.from_numpy, regression())
    for index in range(3):
        x = F.linear(x, w[f"layers/{index}/weight"], w[f"layers/{index}/bias"])
        x = x.relu() if index < 2 else x
    return F.mse_loss(x, y)


def train(
    shapes: Shapes, loss: Callable[[Weights], Tensor], rate: Callable[[int], float], steps: int
) -> np.ndarray:
    """The loss before each step."""
    weights = {name: torch.nn.Parameter(torch.from_numpy(w)) for name, w in initial(shapes).items()}
    optimizer = nero.Nero(
        [{"params": [weights[name]], "neuron_axes": axes} for name, (_, axes) in shapes.items()]
    )
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        value = loss(weights)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return np.array(losses)


def losses() -> dict[str, np.ndarray]:
    """Of both networks."""
    return {
        "gpt": train(GPT, gpt_loss, lambda step: GPT_RATE * (1 - step / GPT_STEPS), GPT_STEPS),
        "mlp": train(MLP, mlp_loss, lambda _: MLP_RATE, MLP_STEPS),
    }


if __name__ == "__main__":
    np.savez_compressed(FROM_TORCH, **losses())
