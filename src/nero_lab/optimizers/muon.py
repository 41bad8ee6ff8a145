"""Muon as it is used: matrices of hidden layers orthogonalised, AdamW for all the rest."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def muon(
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
    lr: float = 1e-3,
    *,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Return Muon for hidden matrices and AdamW for embeddings, heads, gains and biases.

    Both have one learning rate: the matrix step is scaled by 0.2 sqrt(max(rows, columns)), so that
    an entry moves about as far as under AdamW. A convolution's filter is a row. It is
    pytorch-optimizer's Muon, which has both parts; torch.optim.Muon takes no convolutions.

    Args:
        params: groups with a "role" as `nero.param_groups` makes them: those of role "weight" with
            two or more axes are orthogonalised. In groups without a role, and for plain tensors,
            all tensors with two or more axes are.
        lr: of both parts; torch's default for either.
        weight_decay: decoupled, of both parts; torch.optim.Muon's default.
        momentum: of the matrices, with Nesterov's look-ahead.
        betas: AdamW's; torch's defaults.

    Source:
        K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024;
        J. Liu et al., "Muon is scalable for LLM training", 2025, arXiv:2502.16982 (the scaling).

    Examples:
        >>> import torch
        >>> from nero_lab.optimizers.muon import muon
        >>> optimizer = muon(torch.nn.Linear(4, 2).parameters(), lr=0.01)
        >>> [(group["use_muon"], len(group["params"])) for group in optimizer.param_groups]
        [(True, 1), (False, 1)]
    """
    from pytorch_optimizer import Muon

    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for each in params:
        group: Mapping[str, Any] = each if isinstance(each, Mapping) else {"params": [each]}
        hidden = group.get("role", "weight") == "weight"
        for entry in group["params"]:
            p = entry if isinstance(entry, Tensor) else entry[1]
            (matrices if hidden and p.ndim > 1 else rest).append(p)
    shared = {"lr": lr, "weight_decay": weight_decay}
    groups = [
        {"params": matrices, "use_muon": True, "momentum": momentum, **shared},
        {"params": rest, "use_muon": False, "betas": betas, "eps": 1e-8, **shared},
    ]
    return Muon([group for group in groups if group["params"]], use_adjusted_lr=True)
