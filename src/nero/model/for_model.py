"""The recommended optimiser for a model, in one line.

The function is public as `nero.for_model`; a module of that name would hide it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from nero.geometry import project_
from nero.groups import check_group
from nero.model.assignment import Assignment, Options
from nero.model.branches import hold_branches_small_
from nero.model.heads import Named, declared_head, traced_heads
from nero.model.initialize import Initialization, initialize_layers_
from nero.model.param_groups import plan
from nero.model.recommendation import (
    LONG,
    MAX_TURN,
    MOMENTUM,
    TURN,
    Network,
    drawn_options,
    first_norm,
    given,
    held_norm,
    options_for,
    rate_for,
)
from nero.model.report import table
from nero.model.run import unwrap
from nero.model.trace import TracedLayer, trace
from nero.optimizer import Nero

# Arguments of Nero that follow from the model.
FROM_MODEL = {
    "lr": "give turn, or lr by overrides",
    "neuron_axes": "give them by overrides or nero.register",
    "blocks": "give them by overrides or nero.register",
}
# Those that mean the hidden weights alone.
OF_WEIGHTS = ("orthogonal", "center", "radius")


class ForModel(Nero):
    """What `nero.for_model` returns: `nero.Nero`, and a table of what was decided when printed."""

    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n".join([table(self), *self.notes])


def for_model(
    model: nn.Module,
    *,
    batch: Any = None,
    fresh: bool,
    turn: float | None = None,
    momentum: float = MOMENTUM,
    head: Named | Iterable[Named] | None = None,
    embedding: Named | Iterable[Named] | None = None,
    overrides: Mapping[str, Options] | None = None,
    **options: Any,
) -> Nero:
    """The recommended optimiser for a model: no learning rate has to be given.

    Hidden weights turn in orthogonal directions (`nero.directions`), heads, embeddings, gains and
    biases by the paper's rule. No step turns a neuron by more than half its learning rate, or twice
    that rate where there is no momentum. Layers that stand in a long row, without a skip connection
    or a normalisation between them, get a learning rate in proportion to 1 / length
    (`nero.model.depth`). Print the optimiser to see what was decided. `nero.Nero` with its defaults
    is the paper's algorithm.

    Args:
        model: as for `nero.param_groups`: on any device, also the meta device, compiled or wrapped
            in DistributedDataParallel.
        batch: a tensor, a tuple of arguments or a dict of keyword arguments. The model is run on it
            in eval mode and without gradients to find its head, its rows of layers and, where
            `fresh`, its plain parts. Without one all layers get the same rate.
        fresh: True: the weights are to be trained from the start. Where the batch shows plain
            chains of more than 16 layers, `nero.initialize_` draws their weights anew and sets
            their biases to zero, and they take the paper's rule without momentum; then every
            neuron is projected. False: the weights are trained
            ones, and every bit of them stays; neurons keep their norms.
        turn: how far the network turns in a step, in radians: the learning rate of all layers but
            those in long rows. Default 0.05.
        momentum: of the running average of gradients, in [0, 1). Default 0.9. 0 needs no buffer of
            the weights' size: the state is then one number for each neuron, bias and gain.
        head: module, parameter, dotted name or a list of them. Default: what the batch shows, or
            what a Hugging Face model declares.
        embedding: as for `nero.param_groups`.
        overrides: group options by fnmatch pattern of parameter names, as for `nero.param_groups`.
        **options: other arguments of `nero.Nero`. `orthogonal`, `center` and `radius` are for
            hidden weights alone. Default of `max_turn`: 0.5 with momentum, 2 without, 0.5 for gains
            and biases. `fused=True` is for all but what steps in proportion to its norm.

    Returns:
        The optimiser, of a subclass of `nero.Nero` whose repr is a table of the decisions.

    Raises:
        ValueError: as `nero.param_groups` and `nero.Nero`, before any weight has changed; an option
            that moves trained weights where `fresh` is False.
        TypeError: `fresh` is no bool; an option that follows from the model, such as `lr`.

    Warns:
        UserWarning: once, with all their names, of parameters with two or more axes whose owner is
            not known: each vector along the last axis is taken for a neuron.

    Examples:
        >>> import torch, nero
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        >>> optimizer = nero.for_model(model, batch=torch.randn(8, 64), fresh=True)
        >>> [(group["role"], group["lr"]) for group in optimizer.param_groups]
        [('weight', 0.05), ('bias', 0.05), ('head', 0.05), ('bias', 0.05)]
    """
    _check_arguments(fresh, turn, momentum, options)
    of_weights = {name: options.pop(name) for name in OF_WEIGHTS if name in options}
    of_all = options
    options = {"momentum": momentum, "max_turn": MAX_TURN[momentum > 0], **options}
    turn = TURN if turn is None else turn
    layers = {} if batch is None else trace(model, batch)
    assignments = plan(
        model,
        preset="balanced" if fresh else "finetune",
        head=_heads(model, head, batch, layers),
        embedding=embedding,
        overrides=overrides,
        unknown="vectors",
    )
    _warn_of_unknown(assignments)
    network = Network.of(model, assignments, layers, fresh)
    overrides = overrides or {}
    for each in assignments:
        each.options = options_for(each, network, of_weights, of_all, overrides)
    _check_groups(assignments, options)
    done = Initialization()
    if fresh:
        done = initialize_layers_(model, layers, longer_than=LONG)
    norms = {each.name: each.norm for each in done if each.norm is not None}
    for each in assignments:
        layer = network.layers.get(id(each.parameter))
        norm = None if layer is None else norms.get(layer.name)
        if norm is not None and "radius" not in {**of_weights, **given(each, overrides)}:
            each.options |= held_norm(each, norm)
        if start := first_norm(each, network, overrides):
            project_(each.parameter, each.layout, center=each.options["center"], radius=start)
        if norm is not None:
            each.options |= drawn_options(each, {*of_weights, *of_all}, overrides)
        rate = rate_for(each, network, turn)
        each.options = {"lr": rate, **each.options}
    branches = None
    if fresh and layers:
        branches = hold_branches_small_(
            model,
            batch,
            assignments,
            network.layers,
            lambda each: "radius" not in {**of_weights, **given(each, overrides)},
        )
    optimizer = ForModel(_groups(assignments, network.preset), **options)
    optimizer.notes = _notes(batch, turn, assignments, network, done, branches)
    return optimizer


def _check_arguments(fresh: Any, turn: Any, momentum: Any, options: Mapping[str, Any]) -> None:
    if not isinstance(fresh, bool):
        raise TypeError(
            "fresh must be True (the weights may be drawn anew) or False (they are trained), "
            f"got {fresh!r}"
        )
    if turn is not None and (not isinstance(turn, Real) or isinstance(turn, bool)):
        raise TypeError(f"turn must be a float or None, got {turn!r}")
    for name, instead in FROM_MODEL.items():
        if name in options:
            raise TypeError(f"for_model decides {name} for each layer: {instead}")
    # The optimiser checks its arguments before it looks at parameters: nothing has changed yet.
    constraint = {"center": False, "radius": None}
    lr = 0.0 if turn is None else turn
    ForModel([torch.zeros(1)], **{**constraint, **options, "lr": lr, "momentum": momentum})
    if not fresh and (options.get("center") or options.get("radius") not in (None, "initial")):
        raise ValueError(
            "fresh=False keeps every bit of the weights, which center=True and a radius other than "
            '"initial" or None would not'
        )


def _heads(
    model: nn.Module,
    head: Named | Iterable[Named] | None,
    batch: Any,
    layers: Mapping[str, TracedLayer],
) -> Named | Iterable[Named] | None:
    """The head as given, declared by the model or shown by the batch; None where none of these."""
    if head is not None or batch is None or declared_head(model):
        return head
    try:
        return traced_heads(model, batch)
    except ValueError:  # an activation follows it, or the model has none
        last = [name for name, layer in layers.items() if "output" in layer.ends]
        if len(last) != 1:
            return None
        return unwrap(model).get_submodule(last[0].rpartition(".")[0])


def _warn_of_unknown(assignments: list[Assignment]) -> None:
    unknown = [each for each in assignments if not each.known]
    if unknown:
        names = ", ".join(f"{each.names[0]} {each.layout.shape}" for each in unknown)
        warnings.warn(
            f"of {names} the owner's type is not known: each vector along the last axis is taken "
            "for a neuron, as positions and tokens are. nero.register says otherwise",
            stacklevel=3,
        )


def _check_groups(assignments: list[Assignment], options: Options) -> None:
    """Raise what the optimiser would raise, before any weight is drawn anew."""
    defaults = ForModel([torch.zeros(1)], lr=0.0, **options).defaults
    for each in assignments:
        group = {"neuron_axes": each.layout.neuron_axes, **each.options}
        check_group(
            {**defaults, **group, "params": [each.parameter], "param_names": each.names[:1]}
        )


def _groups(assignments: list[Assignment], preset: str) -> list[dict[str, Any]]:
    groups: dict[Any, dict[str, Any]] = {}
    for each in assignments:
        axes, options = each.layout.neuron_axes, each.options
        if options.get("relative"):
            options = {"fused": None, **options}  # the kernels have no such steps
        key = (each.role, axes, each.overrides, *sorted(options.items(), key=lambda x: x[0]))
        common = {"preset": preset, "role": each.role}
        group = groups.setdefault(key, {"params": [], **common, "neuron_axes": axes, **options})
        group["params"].append((each.names[0], each.parameter))
    return list(groups.values())


def _notes(
    batch: Any,
    turn: float,
    assignments: list[Assignment],
    network: Network,
    done: Initialization,
    branches: float | None,
) -> tuple[str, ...]:
    """What the table cannot show: why these rates, and what became of the initial weights."""
    longest = max([layer.row for layer in network.layers.values()], default=1)
    slowest = min([each.options["lr"] for each in assignments], default=turn)
    stand = f"{longest} layers stand in a row without a skip connection or a normalisation"
    if batch is None:
        rates = f"turn {turn:g} everywhere; a batch would show how many layers stand in a row"
    elif not network.layers:
        rates = f"turn {turn:g} everywhere; no layer could be followed, as where it is sharded"
    elif slowest < turn:
        rates = f"turn {turn:g}, less where layers stand in a row; up to {stand}"
    else:
        rates = f"turn {turn:g} everywhere; no more than {stand}"
    notes = [f"lr: {rates}"]
    if not any(each.role == "head" or len(each.names) > 1 for each in assignments):
        notes.append("head: none is known; name it with head=, or give a batch")
    if not network.fresh:
        return (*notes, "initial weights: kept to the bit")
    if not network.gains:
        notes.append("norms: hidden weights keep their own, as no normalisation has gains")
    if branches is not None:
        notes.append(f"residual branches: their last layers have norm {branches:g}")
    if not network.layers:
        projected = "projected; with a batch, long plain chains of layers would be drawn anew"
        return (*notes, f"initial weights: {projected}")
    left: dict[str, list[str]] = {}
    for each in done:
        if each.place == "left":
            left.setdefault(each.why, []).append(each.name)
    drawn = len(done) - sum(map(len, left.values()))
    notes.append(
        f"initial weights: {drawn} of {len(done)} layers drawn anew by nero.initialize_, the "
        "others projected as they were"
    )
    for why, (first, *more) in left.items():
        notes.append(f"  {first}{f' and {len(more)} more' if more else ''}: {why}")
    return tuple(notes)
