"""What the recommended optimiser gives each parameter: by its role, and by where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from nero.model.assignment import Assignment, Options
from nero.model.depth import layers_by_parameter, rate_factor
from nero.model.param_groups import BALANCED, PRESETS
from nero.model.trace import TracedLayer


class Role(NamedTuple):
    """What the parameters of one role are given.

    Attributes:
        options: of their group, beside or instead of the preset's constraint.
        rate: their learning rate, in multiples of the network's.
        start: the norm that their neurons start at where it is free afterwards.
    """

    options: Options
    rate: float = 1.0
    start: float | None = None


# With momentum, and without: an average of gradients varies less from step to step than a gradient.
MAX_TURN = {True: 0.5, False: 2.0}
# Of gains and biases.
ENTRIES: Options = {"momentum": 0.0, "max_turn": 0.5}

# The recommendation: the one place that says it. Constraints that are not given here are those of
# the presets "balanced" and "finetune" (nero.model.param_groups).
FRESH: Mapping[str, Role] = {
    "weight": Role({"orthogonal": True}),
    "embedding": Role({"center": True, "radius": None}, start=1.0),
    "head": Role({}),
    "gain": Role(ENTRIES),
    "bias": Role(ENTRIES),
}
TRAINED: Mapping[str, Role] = {**FRESH, "embedding": Role({})}
# Of weights where no normalisation has gains: nothing else sets the temperature of attention.
WITHOUT_GAINS: Options = {"center": True, "radius": "initial"}
# Of a linear layer on the batch itself: the mean of a few inputs is not to be missed.
ON_THE_BATCH: Options = {"center": False}

# Of a head with no more outputs than inputs, as of a regression or a few classes, and of any head
# in a network without normalisation, where no gain sets the size of its inputs: it learns its
# size, in steps that are in proportion to it, and so does its bias. A vocabulary's behind a
# normalisation would overfit.
SIZED_HEAD: Mapping[str, Role] = {
    "head": Role({"center": True, "radius": None, "relative": True}, start=1.0),
    "bias": Role({**ENTRIES, "relative": True}),
}
# Of embeddings in networks without any normalisation, where their size is that of the signal.
KEPT_EMBEDDING: Mapping[str, Role] = {"embedding": Role({"center": True, "radius": None})}

# Of hidden weights and heads of a chain that was drawn anew: only its start is an isometry, which
# the weights leave too fast with momentum or orthogonal directions.
DRAWN: Options = {"orthogonal": False, "momentum": 0.0, "max_turn": MAX_TURN[False]}

NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

MOMENTUM = 0.9
TURN = 0.05
# Chains of more layers than this are drawn anew; shorter ones train as well without.
LONG = 16


class Network(NamedTuple):
    """What is known of a model beside its parameters.

    Attributes:
        fresh: whether its weights are to be trained from the start.
        layers: the traced layer of each parameter, by identity.
        gains: whether it has a normalisation with gains, or none without.
        normalised: whether it has a normalisation, or gains of its own.
        sized_heads: the modules of heads that learn their size, by name.
    """

    fresh: bool
    layers: Mapping[int, TracedLayer]
    gains: bool
    normalised: bool
    sized_heads: frozenset[str]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        assignments: Iterable[Assignment],
        layers: Mapping[str, TracedLayer],
        fresh: bool,
    ) -> Network:
        """What is known of a model whose parameters have their roles."""
        assignments = list(assignments)
        gains = [m.weight is not None for m in model.modules() if isinstance(m, NORMALISATIONS)]
        normalised = bool(gains) or any(each.role == "gain" for each in assignments)
        sized = (
            each.names[0].rpartition(".")[0]
            for each in assignments
            if each.role == "head" and (each.layout.neurons <= each.layout.fan_in or not normalised)
        )
        return cls(
            fresh,
            layers_by_parameter(model, layers),
            any(gains) or not gains,
            normalised,
            frozenset(sized),
        )

    def role(self, each: Assignment) -> Role:
        """The role of one of its parameters."""
        if not self.fresh:
            return TRAINED[each.role]
        roles = FRESH if self.normalised else {**FRESH, **KEPT_EMBEDDING}
        if each.names[0].rpartition(".")[0] in self.sized_heads:
            roles = {**roles, **SIZED_HEAD}
        return roles[each.role]

    @property
    def preset(self) -> str:
        """The preset of the groups."""
        return "balanced" if self.fresh else "finetune"


def options_for(
    each: Assignment,
    network: Network,
    of_weights: Options,
    of_all: Options,
    overrides: Mapping[str, Options],
) -> dict[str, Any]:
    """The options of a parameter's group but for its rate.

    Args:
        each: with its constraint and what the overrides set.
        network: its model.
        of_weights: what the caller sets for hidden weights.
        of_all: what the caller sets for every parameter.
        overrides: the caller's, by pattern of names; these win.
    """
    set_by_name = given(each, overrides)
    decided = dict(network.role(each).options)
    if network.fresh:
        decided |= _by_place(each, network)
    usual = PRESETS[network.preset].get(each.role)
    if usual is None or any(
        each.options[name] != usual[name] for name in usual.keys() - set_by_name.keys()
    ):
        # Single entries, and embeddings whose padding row would move, keep their constraint.
        decided = {name: value for name, value in decided.items() if name not in each.options}
    decided = {name: value for name, value in decided.items() if name not in of_all}
    if each.role == "weight" and each.layout.fan_in > 1:
        decided |= of_weights
    if each.blocks != 1:
        decided["blocks"] = each.blocks
    return {**each.options, **decided, **set_by_name}


def _by_place(each: Assignment, network: Network) -> Options:
    if not network.gains and each.role == "weight":
        return WITHOUT_GAINS
    layer = network.layers.get(id(each.parameter))
    if layer is None or each.role not in ("weight", "head") or each.parameter.ndim != 2:
        return {}
    itself = each.names[0].rpartition(".")[2] == layer.name.rpartition(".")[2] == "weight"
    return ON_THE_BATCH if layer.raw and itself else {}


def given(each: Assignment, overrides: Mapping[str, Options]) -> dict[str, Any]:
    """What overrides set for a parameter, but for what is part of the assignment by now."""
    found = {name: value for key in each.overrides for name, value in overrides[key].items()}
    return {name: value for name, value in found.items() if name in each.options}


def rate_for(each: Assignment, network: Network, turn: float) -> float:
    """The learning rate of a parameter of a network, by the network's `turn`."""
    layer = network.layers.get(id(each.parameter))
    row = 1 if layer is None else layer.row
    return turn * network.role(each).rate * rate_factor(row)


def drawn_options(
    each: Assignment, theirs: Iterable[str], overrides: Mapping[str, Options]
) -> Options:
    """What a layer that was drawn anew takes besides; what the caller set, `theirs`, stays."""
    if each.role not in ("weight", "head"):
        return {}
    theirs = {*theirs, *given(each, overrides)}
    return {name: value for name, value in DRAWN.items() if name not in theirs}


def first_norm(
    each: Assignment, network: Network, overrides: Mapping[str, Options]
) -> float | None:
    """The norm that a parameter's neurons start at and leave; None where it is held or kept."""
    theirs = {"center", "radius"} & given(each, overrides).keys()
    free = each.options["radius"] is None and not theirs
    return network.role(each).start if free else None


def held_norm(each: Assignment, norm: float) -> Options:
    """The radius of a layer that was drawn with neurons of this norm."""
    held = each.options["radius"] == BALANCED["radius"] and norm > 1 + 1e-9
    return {"radius": norm} if held else {}
