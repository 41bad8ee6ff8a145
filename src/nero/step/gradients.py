"""The gradients of a step, checked before anything changes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.distributed.local import Pairs, gradient_of
from nero.distributed.shards import any_dtensor, as_dtensor, is_dtensor, local
from nero.groups import parameter_name
from nero.kernels.facts import NO_MEMORY, why_unreadable

_STRIDED = {torch.strided}


def is_negated(x: object) -> bool:
    """Whether it is a tensor whose numbers are those in memory, negated."""
    return isinstance(x, Tensor) and x.is_neg()


def readable(g: Tensor) -> Tensor:
    """A gradient with its numbers in memory.

    torch marks some tensors as negated, or as zero, instead of writing their numbers.
    """
    if is_negated(g):
        g = g.resolve_neg()
    return g.clone() if why_unreadable(g) == NO_MEMORY and g._is_zerotensor() else g


class Suspect(NamedTuple):
    """A gradient that has to be finite."""

    p: Tensor
    name: str


def checked_gradients(groups: list[dict[str, Any]], position: int | None = None) -> list[Pairs]:
    """Return the parameters of each group that have a gradient, with it.

    Args:
        groups: the groups that are stepped together.
        position: the one parameter of each to look at; None for all.

    Raises:
        RuntimeError: a gradient is sparse, on another mesh, or not finite under
            nonfinite="raise", with its parameter's name; in every
            process, whichever of them holds the entry.
    """
    all_pairs = []
    suspects: list[Suspect] = []
    for group in groups:
        params = group["params"] if position is None else [group["params"][position]]
        gradients = [p.grad for p in params]
        pairs = [(p, g) for p, g in zip(params, gradients, strict=True) if g is not None]
        all_pairs.append(pairs)
        strict = group["nonfinite"] == "raise"
        dense = _STRIDED.issuperset([g.layout for _, g in pairs])
        if dense and not strict and not any_dtensor(params):
            continue
        for index in range(len(group["params"])) if position is None else (position,):
            p = group["params"][index]
            if p.grad is not None:
                _check_kind(p, group, index)
                if strict and p.grad.numel():
                    if reason := why_unreadable(local(p.grad)):
                        raise RuntimeError(
                            f"the gradient of {parameter_name(group, index)} {reason}"
                        )
                    suspects.append(Suspect(p, parameter_name(group, index)))
    finite = _finite(suspects) if suspects else []
    bad = [each.name for each, ok in zip(suspects, finite, strict=True) if not ok]
    if bad:
        changed = "no weight was changed"
        if position is not None:  # others have been stepped in this backward pass already
            changed = "none of its weights was changed"
        raise RuntimeError(
            f"the gradient of {', '.join(bad)} holds "
            f'NaN or infinity, and nonfinite="raise"; {changed}. '
            'nonfinite="skip" passes such neurons over'
        )
    return all_pairs


def _check_kind(p: Tensor, group: dict[str, Any], index: int) -> None:
    g = p.grad
    assert g is not None
    if g.layout != torch.strided:
        raise RuntimeError(
            f"the gradient of {parameter_name(group, index)} is sparse; Nero takes dense "
            "gradients (for an embedding: sparse=False)"
        )
    if is_dtensor(p) and as_dtensor(g).device_mesh != as_dtensor(p).device_mesh:
        raise RuntimeError(
            f"the gradient of {parameter_name(group, index)} is on "
            f"{as_dtensor(g).device_mesh}, the parameter on {as_dtensor(p).device_mesh}"
        )


def _finite(suspects: list[Suspect]) -> list[bool]:
    """Whether each gradient is finite, in all of its parts."""
    # Stacked on the device, so that there is one wait for it and not one per parameter.
    device = suspects[0].p.device
    bad = torch.stack(
        [(~torch.isfinite(local(gradient_of(p)))).any().to(device) for p, _ in suspects]
    )
    meshes: dict[Any, list[int]] = {}
    for index, (p, _) in enumerate(suspects):
        if is_dtensor(p):
            meshes.setdefault(as_dtensor(p).device_mesh, []).append(index)
    for mesh, places in meshes.items():
        found = bad[places].to(torch.int32)
        for dim in range(mesh.ndim):
            if mesh.size(dim) > 1:
                torch.distributed.all_reduce(found, group=mesh.get_group(dim))
        bad[places] = found > 0
    return (~bad).tolist()
