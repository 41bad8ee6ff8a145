"""What each parameter of a model is: its neurons and its role, by the types of its owners."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from nero.model.heads import Named, declared_head, find_named, traced_heads
from nero.model.registry.lookup import find_part_row, find_row, own_type, qualified_name
from nero.model.registry.rows import PER_ENTRY_ROLES, ROLES, Axes, Row, every_axis, vectors
from nero.model.registry.torch_nn import reparametrized
from nero.neurons import NeuronLayout, normalize_axes

Options = Mapping[str, Any]

# What an override may set: the options of a group of Nero's, and the role.
OPTIONS = (
    *("lr", "beta", "center", "radius", "relative", "neuron_axes", "momentum", "orthogonal"),
    *(
        "blocks",
        "max_turn",
        "nonfinite",
        "maximize",
        "foreach",
        "fused",
        "capturable",
        "rounding",
        "seed",
        "role",
    ),
)


# What becomes of a parameter with two or more axes whose owner is not known: role and axes.
UNKNOWN: Mapping[str, Callable[[nn.Module, nn.Parameter], tuple[str, Axes | None]]] = {
    "raise": lambda module, p: ("weight", None),
    "vectors": lambda module, p: ("embedding", vectors(module, p)),
    "entries": lambda module, p: ("gain", every_axis(module, p)),
}


class Claim(NamedTuple):
    """One module's word about one of its parameters."""

    name: str
    module: nn.Module
    attribute: str
    role: str
    axes: Axes | None  # None: the type is unknown
    blocks: int = 1
    known: bool = True


Owned = tuple[nn.Parameter, list[Claim]]


@dataclass(eq=False)  # one is equal to itself alone: its tensor cannot be compared
class Assignment:
    """What one parameter is to the optimiser.

    Attributes:
        names: its names in the model; several where it is tied.
        parameter: the tensor.
        owner: qualified name of the type of the module that owns it.
        role: "weight", "embedding", "head", "gain" or "bias".
        layout: its neurons.
        blocks: how many layers its last axis of neurons holds.
        known: whether the registry knows its owner.
        options: what its group says besides: what the overrides set, then the constraint too.
        overrides: the patterns that applied.
        reparametrized: whether the weight in use is computed from it.
        padding: the padding rows, where it is an embedding with one.
        renormalized: whether it is an embedding that shortens rows when it looks them up.
    """

    names: list[str]
    parameter: nn.Parameter
    owner: str
    role: str
    layout: NeuronLayout
    blocks: int
    known: bool
    options: dict[str, Any]
    overrides: tuple[str, ...]
    reparametrized: bool
    padding: tuple[int, ...]
    renormalized: bool


def assign(
    model: nn.Module,
    *,
    head: Named | Iterable[Named] | None,
    embedding: Named | Iterable[Named] | None,
    overrides: Mapping[str, Options],
    batch: Any,
    unknown: str,
) -> list[Assignment]:
    """What every trainable parameter is, in the model's order; constraints are yet to be set."""
    if unknown not in UNKNOWN:
        raise ValueError(f"unknown must be one of {tuple(UNKNOWN)}, got {unknown!r}")
    owned = _claims(model, unknown)
    _check_initialized(owned)
    _check_overrides(overrides, owned)
    embeddings = _members(find_named(model, embedding, "embedding"), owned, "embedding")
    _check_known(owned, overrides, embeddings)
    if head is not None and batch is not None:
        raise ValueError("head and batch both say which layer is the head: give one of them")
    if batch is not None:
        named = traced_heads(model, batch)
    else:
        named = declared_head(model) if head is None else find_named(model, head, "head")
    heads = _members(named, owned, "head")
    return [
        _assign_one(p, claims, overrides, heads, embeddings)
        for p, claims in owned
        if p.requires_grad
    ]


def _claims(model: nn.Module, unknown: str) -> list[Owned]:
    """Every parameter of the model, in its order, with what each of its owners says."""
    modules = dict(model.named_modules())
    found: dict[int, Owned] = {}
    for path, module in modules.items():
        for attribute, p in module.named_parameters(recurse=False):
            owner_path, owner, within = path, module, attribute
            # A list of parameters is part of the module that holds it, which knows their use.
            while owner_path and _is_container(owner):
                owner_path, _, last = owner_path.rpartition(".")
                owner, within = modules[owner_path], f"{last}.{within}"
            name = f"{path}.{attribute}" if path else attribute
            whole_path, _, part = path.rpartition(".")
            row = find_part_row(modules[whole_path], f"{part}.{attribute}") if path else None
            claim = _claim(name, owner, within, p, row)
            if claim.axes is None and not isinstance(p, UninitializedParameter):
                role, axes = UNKNOWN[unknown](owner, p)
                claim = claim._replace(role=role, axes=axes, known=False)
            found.setdefault(id(p), (p, []))[1].append(claim)
    return list(found.values())


def _is_container(module: nn.Module) -> bool:
    parameters = isinstance(module, (nn.ParameterList, nn.ParameterDict))
    return parameters or type(module) in (nn.ModuleList, nn.ModuleDict)


def _claim(name: str, module: nn.Module, attribute: str, p: nn.Parameter, row: Row | None) -> Claim:
    """What the registry says of a parameter; `row` is what the whole says that it is a part of."""
    if isinstance(p, UninitializedParameter):
        return Claim(name, module, attribute, "weight", None)
    if attribute in reparametrized(module):
        return Claim(name, module, attribute, "gain", every_axis(module, p))
    row = row or find_row(module, attribute)
    if row is not None:
        layers = row.layers(module, p)
        return Claim(name, module, attribute, row.role, row.axes(module, p), layers)
    if p.ndim < 2:
        role = "bias" if attribute == "bias" else "gain"
        return Claim(name, module, attribute, role, every_axis(module, p))
    return Claim(name, module, attribute, "weight", None)


def _check_initialized(owned: list[Owned]) -> None:
    lazy = [claims[0] for p, claims in owned if isinstance(p, UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"{', '.join(repr(claim.name) for claim in lazy)} of "
            f"{type(lazy[0].module).__name__} has no shape yet: lazy modules get theirs from data; "
            "run a batch through the model first"
        )


def _check_overrides(overrides: Mapping[str, Options], owned: list[Owned]) -> None:
    """Refuse patterns that match nothing and options that no group has, before either is missed."""
    names = [claim.name for _, claims in owned for claim in claims]
    for pattern, options in overrides.items():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"overrides: {pattern!r} matches no parameter{_did_you_mean(pattern, names)}"
            )
        for option in options:
            if option not in OPTIONS:
                raise ValueError(
                    f"overrides[{pattern!r}]: no group option is called {option!r}"
                    f"{_did_you_mean(option, OPTIONS)}"
                )
        if options.get("role", ROLES[0]) not in ROLES:
            raise ValueError(
                f"overrides[{pattern!r}]: role must be one of {ROLES}, got {options['role']!r}"
            )


def _check_known(
    owned: list[Owned], overrides: Mapping[str, Options], embeddings: set[int]
) -> None:
    """Refuse trainable parameters of which nobody says what their neurons are, all at once."""
    lacking: list[Owned] = []
    for p, claims in owned:
        options = _options(claims, overrides)
        said = "neuron_axes" in options or options.get("role") in PER_ENTRY_ROLES
        said |= id(p) in embeddings and all(claim.axes is None for claim in claims)
        if p.requires_grad and not said and any(claim.axes is None for claim in claims):
            lacking.append((p, [claim for claim in claims if claim.axes is None]))
    if lacking:
        raise ValueError(_unknown_owners(lacking))


def _options(claims: list[Claim], overrides: Mapping[str, Options]) -> dict[str, Any]:
    """What the overrides set for a parameter; later patterns win."""
    return {
        name: value
        for key in _patterns(claims, overrides)
        for name, value in overrides[key].items()
    }


def _patterns(claims: list[Claim], overrides: Mapping[str, Options]) -> tuple[str, ...]:
    names = [claim.name for claim in claims]
    return tuple(key for key in overrides if any(fnmatchcase(name, key) for name in names))


def _did_you_mean(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known))
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _members(
    named: Iterable[nn.Module | nn.Parameter], owned: list[Owned], argument: str
) -> set[int]:
    """The weights that lie in the named modules, and the named parameters, by identity."""
    members: set[int] = set()
    for each in named:
        if isinstance(each, nn.Parameter):
            members.add(id(each))
            continue
        parts = set(each.modules())
        inside = [(p, claim) for p, claims in owned for claim in claims if claim.module in parts]
        if all(p.ndim < 2 for p, _ in inside):
            raise ValueError(
                f"{argument}: the {type(each).__name__} has no parameter with two or more axes"
            )
        members |= {id(p) for p, claim in inside if claim.role == "weight"}
    return members


def _assign_one(
    p: nn.Parameter,
    claims: list[Claim],
    overrides: Mapping[str, Options],
    heads: set[int],
    embeddings: set[int],
) -> Assignment:
    options = _options(claims, overrides)
    role = options.pop("role", None) or _merged_role(p, claims, heads, embeddings)
    axes = options.pop("neuron_axes", None)
    if role in PER_ENTRY_ROLES:
        axes = every_axis(claims[0].module, p)
    elif axes is None and id(p) in embeddings and all(claim.axes is None for claim in claims):
        axes = vectors(claims[0].module, p)
    blocks = options.pop("blocks", claims[0].blocks if axes is None else 1)
    return Assignment(
        names=[claim.name for claim in claims],
        parameter=p,
        owner=qualified_name(own_type(claims[0].module)),
        role=role,
        layout=_agreed_layout(p, claims, axes),
        blocks=blocks,
        known=all(claim.known for claim in claims) or axes is not None,
        options=options,
        overrides=_patterns(claims, overrides),
        reparametrized=any(claim.attribute in reparametrized(claim.module) for claim in claims),
        padding=tuple({row for claim in claims for row in _padding_rows(claim.module)}),
        renormalized=any(getattr(claim.module, "max_norm", None) is not None for claim in claims),
    )


def _merged_role(
    p: nn.Parameter, claims: list[Claim], heads: set[int], embeddings: set[int]
) -> str:
    """The strongest of a tied parameter's roles: an embedding that is also a head is the former."""
    roles = {claim.role for claim in claims}
    if id(p) in embeddings or "embedding" in roles:
        return "embedding"
    if id(p) in heads or "head" in roles:
        return "head"
    return "weight" if "weight" in roles else claims[0].role


def _padding_rows(module: nn.Module) -> list[int]:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.padding_idx is not None:
        return [module.padding_idx]
    return []


def _agreed_layout(
    p: nn.Parameter, claims: list[Claim], given: Iterable[object] | None
) -> NeuronLayout:
    """The layout of `given` axes or, where there are none, the one that all owners agree on."""
    layouts = []
    for claim in claims:
        axes = claim.axes if given is None else given
        assert axes is not None  # _check_known has seen to that
        try:
            layouts.append(NeuronLayout(tuple(p.shape), normalize_axes(axes)))
        except ValueError as error:
            raise ValueError(f"parameter {claim.name!r}: {error}") from None
    first = layouts[0]
    for claim, layout in zip(claims, layouts, strict=True):
        # Two layouts of one shape that split it alike have the same neurons.
        if (layout.split_shape, layout.fan_in_axes) != (first.split_shape, first.fan_in_axes):
            raise ValueError(
                f"two owners disagree about the neurons of a parameter of shape {tuple(p.shape)}: "
                f"{_says(claims[0], first)}, {_says(claim, layout)}; decide with "
                f'overrides={{"{claims[0].name}": {{"neuron_axes": ...}}}}'
            )
    return first


def _says(claim: Claim, layout: NeuronLayout) -> str:
    kind = own_type(claim.module).__name__
    return f"{claim.name!r} ({kind}) has neuron_axes {layout.neuron_axes}"


def _unknown_owners(lacking: list[Owned]) -> str:
    """What to write, for every parameter of which the neurons are not known."""
    names = [repr(claims[0].name) for _, claims in lacking]
    lines = [
        f"the neurons of {len(lacking)} parameters are not known, since the types of the modules "
        "that own them are not. Say for each type which axes count neurons (output units), the "
        'others being fan-in; role="gain" has each entry by itself, "embedding" is for vectors '
        "that are looked up or learned:"
    ]
    for p, claims in lacking:
        axes, role = _likely(p)
        called = qualified_name(own_type(claims[0].module))
        line = f'    nero.register("{called}", "{claims[0].attribute}", neuron_axes={axes}, '
        line += f'role="{role}")'
        if line not in lines:
            lines.append(line)
    shapes = ", ".join(
        f"{name} of shape {tuple(p.shape)}" for name, (p, _) in zip(names, lacking, strict=True)
    )
    return "\n".join(
        [
            *lines,
            f"The parameters are {shapes}. For this model alone: embedding=[{', '.join(names)}] "
            'or overrides={name: {"role": "gain"}}; for all of them at once unknown="vectors" '
            '(each vector along the last axis is a neuron) or unknown="entries" (each entry is)',
        ]
    )


def _likely(p: Tensor) -> tuple[Axes, str]:
    """What a parameter of an unknown owner most likely is, by its shape: axes and role.

    Positions and tokens are (1, N, D), one number per channel is (C, 1, 1).
    """
    if sum(size > 1 for size in p.shape) < 2 and p.shape[-1] == 1:
        return tuple(range(p.ndim)), "gain"
    if (p.ndim > 2 and p.shape[0] == 1) or p.shape[:-1].numel() == 1:
        return tuple(range(p.ndim - 1)), "embedding"
    return (0,), "weight"
