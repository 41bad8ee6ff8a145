"""Parameter groups from a model: each parameter's neurons, role and constraint."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from nero.geometry import centring_fills_zeros, project_, starts_at_zero
from nero.model.assignment import Assignment, Options, assign
from nero.model.heads import Named
from nero.model.registry.rows import PER_ENTRY_ROLES

BALANCED: Options = {"center": True, "radius": "unit"}
KEPT: Options = {"center": False, "radius": "initial"}
FREE: Options = {"center": False, "radius": None}

# What the "balanced" preset gives to heads and embeddings: the one place that says so. Free and
# initial norms did worse or no better (`nero study heads`, docs/evidence/log.md).
HEAD: Options = BALANCED
EMBEDDING: Options = BALANCED

# Preset -> role -> constraint. Gains, biases and all tensors with one axis or none are free.
PRESETS: Mapping[str, Mapping[str, Options]] = {
    "balanced": {"weight": BALANCED, "embedding": EMBEDDING, "head": HEAD},
    "paper": {"weight": BALANCED, "embedding": BALANCED, "head": BALANCED},
    # A head may be new, of a norm that means nothing: it is free to find its own.
    "finetune": {"weight": KEPT, "embedding": KEPT, "head": FREE},
}


def param_groups(
    model: nn.Module,
    *,
    preset: str = "balanced",
    head: Named | Iterable[Named] | None = None,
    embedding: Named | Iterable[Named] | None = None,
    overrides: Mapping[str, Options] | None = None,
    batch: Any = None,
    unknown: str = "raise",
    names: bool = True,
) -> list[dict[str, Any]]:
    """Groups for `nero.Nero` with the right neurons and constraints for each parameter.

    Every trainable parameter is in exactly one group (a tied one once, under its first name). Its
    neurons and role follow from the type of the module that owns it: rows of linear layers and
    convolutions, output channels of transposed convolutions, each row of each gate of a recurrent
    layer, each row of q, k and v, the rows of each expert; see `nero.register` for more.

    Roles: "weight"; "embedding", also where tied to a head; "head", the layer that makes the
    model's output; "gain" and "bias", where each entry is by itself, however many axes the tensor
    has. No layer is a head unless `head` or `batch` says so, or the model declares it through
    Hugging Face's `get_output_embeddings()`: a name proves nothing.

    Weights behind a parametrisation (weight norm, spectral norm, pruning) are treated as gains,
    with a warning: the neuron is a row of the weight that is computed from them. An embedding
    whose padding row is not zero keeps its norms instead of being projected, with a warning, so
    that the row stays as it is (on the meta device the row is taken to be zero).

    Args:
        model: of any size, on any device, also the meta device, compiled or wrapped in
            DistributedDataParallel.
        preset: "paper": mean 0 and norm 1 for weights, embeddings and heads. "balanced" (default):
            what measurements justify (docs/evidence/log.md); at present that is the same.
            "finetune": each neuron keeps its initial norm and nothing
            is centred, so that building the optimiser changes no bit of the model.
        head: module, dotted name or a list of them; every weight inside is a head.
        embedding: modules, parameters or names to treat as embeddings besides those that are.
            A parameter of an unknown owner then has a neuron for each vector along its last axis.
        overrides: group options by fnmatch pattern of parameter names, such as
            `{"*.norm.*": {"lr": 0.001}}`; later patterns win. "role" and "neuron_axes" too.
        batch: a tensor, a tuple of arguments or a dict of keyword arguments on which to run the
            model once, in eval mode and without gradients, to find the head: the last linear or
            convolutional layer whose output is an output of the model.
        unknown: what a parameter with two or more axes is whose owner is not known. "raise"
            (default): an error that lists all of them; "vectors": embeddings, each vector along
            the last axis a neuron, as positions and tokens of shape (1, N, D) are; "entries":
            gains, each entry by itself.
        names: False for plain tensors under "params", which wrappers of optimisers such as
            `torch.distributed.optim.ZeroRedundancyOptimizer` want. Default True.

    Returns:
        Groups of (name, tensor) pairs under "params", with "neuron_axes", "center", "radius",
        "role" and "preset", and what the overrides add; with "blocks" where several layers are
        packed in one matrix (q, k and v; gates; groups of a convolution), which `orthogonal=True`
        has to know.

    Raises:
        ValueError: a parameter with two or more axes whose owner is not known (the message has
            the lines that register them) or whose owners disagree about its neurons; an
            uninitialised lazy module; an unknown preset; a pattern that matches nothing; a head
            or embedding that the model does not have; a batch that shows no head.
        TypeError: an argument of a wrong type.

    Examples:
        >>> import torch, nero
        >>> model = torch.nn.Sequential(
        ...     torch.nn.ConvTranspose2d(8, 4, 3), torch.nn.Flatten(), torch.nn.Linear(36, 10)
        ... )
        >>> groups = nero.param_groups(model, batch=torch.zeros(1, 8, 1, 1))
        >>> for group in groups:
        ...     print(group["role"], [name for name, _ in group["params"]], group["neuron_axes"])
        weight ['0.weight'] (1,)
        bias ['0.bias', '2.bias'] (0,)
        head ['2.weight'] (0,)
        >>> optimizer = nero.Nero(groups, lr=0.01)
    """
    assignments = plan(
        model,
        preset=preset,
        head=head,
        embedding=embedding,
        overrides=overrides,
        batch=batch,
        unknown=unknown,
    )
    groups: dict[Any, dict[str, Any]] = {}
    for each in assignments:
        axes, options = each.layout.neuron_axes, each.options
        if each.blocks != 1:
            options = {**options, "blocks": each.blocks}
        key = (each.role, axes, options["center"], options["radius"], each.blocks, each.overrides)
        group = groups.setdefault(
            key,
            {"params": [], "preset": preset, "role": each.role, "neuron_axes": axes, **options},
        )
        group["params"].append((each.names[0], each.parameter) if names else each.parameter)
    return list(groups.values())


def balance_(
    model: nn.Module,
    *,
    preset: str = "paper",
    head: Named | Iterable[Named] | None = None,
    embedding: Named | Iterable[Named] | None = None,
    overrides: Mapping[str, Options] | None = None,
    batch: Any = None,
    unknown: str = "raise",
) -> nn.Module:
    """Put the trainable weights of a model on their constraint sets, without an optimiser.

    What `nero.Nero` does on construction with the groups of `param_groups`, whose arguments and
    errors it has. But the preset is "paper" by default: every tensor with two or more axes that is
    neither gain nor bias is balanced.

    Returns:
        `model`, which is modified in place.

    Examples:
        >>> import torch, nero
        >>> layer = nero.balance_(torch.nn.Linear(16, 4))
        >>> bool(nero.geometry.is_balanced(layer.weight, nero.NeuronLayout((4, 16))).all())
        True
    """
    assignments = plan(
        model,
        preset=preset,
        head=head,
        embedding=embedding,
        overrides=overrides,
        batch=batch,
        unknown=unknown,
    )
    _warn(
        "more than half of these weights are exactly 0, and centring fills them (where they are to "
        'stay, overrides={name: {"center": False}})',
        [
            each
            for each in assignments
            if each.options["center"] and centring_fills_zeros(each.parameter, each.layout)
        ],
        stacklevel=3,
    )
    for each in assignments:
        # A neuron that keeps its initial norm is centred at the most.
        radius: Any = each.options["radius"]
        if radius is not None and starts_at_zero(each.parameter, each.layout):
            continue  # as the optimiser leaves it
        project_(
            each.parameter,
            each.layout,
            center=each.options["center"],
            radius=1.0 if radius == "unit" else None if radius == "initial" else radius,
        )
    return model


def plan(
    model: nn.Module,
    *,
    preset: str = "balanced",
    head: Named | Iterable[Named] | None = None,
    embedding: Named | Iterable[Named] | None = None,
    overrides: Mapping[str, Options] | None = None,
    batch: Any = None,
    unknown: str = "raise",
) -> list[Assignment]:
    """What every trainable parameter is to the optimiser, constraints included; gives warnings.

    Arguments and errors are those of `param_groups`.
    """
    _refuse_flattened(model)
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {preset!r}")
    assignments = assign(
        model,
        head=head,
        embedding=embedding,
        overrides=overrides or {},
        batch=batch,
        unknown=unknown,
    )
    padded = [each for each in assignments if _would_move_padding(preset, each)]
    for each in assignments:
        constraint = KEPT if each in padded else _constraint(preset, each)
        each.options = {**constraint, **each.options}
    _warn(
        "parameters behind a parametrisation: the weight in use is computed from them, so their "
        "rows are not neurons, and each entry is updated by itself, as a gain",
        [
            each
            for each in assignments
            if each.reparametrized and each.role in PER_ENTRY_ROLES and each.parameter.ndim > 1
        ],
    )
    _warn(
        "embeddings with a padding row that is not zero: projection would change it, so all rows "
        "keep their norms (set the row to zero to have the others projected)",
        padded,
    )
    _warn(
        "embeddings with max_norm: it and the norm that the optimiser keeps undo each other; give "
        'them radius=None (overrides={name: {"radius": None, "center": False}}) or no max_norm',
        [
            each
            for each in assignments
            if each.renormalized and (each.options["center"] or each.options["radius"] is not None)
        ],
    )
    return assignments


def _refuse_flattened(model: nn.Module) -> None:
    """Raise where FSDP1 has made one long vector of many parameters."""
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    if "FullyShardedDataParallel" in kinds:
        raise ValueError(
            "the model is wrapped in FullyShardedDataParallel, which flattens its parameters: the "
            "neurons cannot be found in them. Shard it with torch.distributed.fsdp.fully_shard"
        )


def _constraint(preset: str, each: Assignment) -> Options:
    free = each.role in PER_ENTRY_ROLES or each.parameter.ndim < 2
    return FREE if free else PRESETS[preset][each.role]


def _would_move_padding(preset: str, each: Assignment) -> bool:
    """Whether the preset, unless overridden, would project a padding row that holds something."""
    constraint, p = _constraint(preset, each), each.parameter.detach()
    projects = constraint["center"] or constraint["radius"] not in (None, "initial")
    if not projects or {"center", "radius"} & each.options.keys() or p.is_meta:
        return False
    return any(bool(p[row].any()) for row in each.padding)


def _warn(what: str, found: list[Assignment], stacklevel: int = 4) -> None:
    """Warn at the caller of the public function, which plan() is called by."""
    if found:
        names = ", ".join(each.names[0] for each in found)
        warnings.warn(f"{what}: {names}", stacklevel=stacklevel)
