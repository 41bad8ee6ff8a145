"""Balanced isometric initial weights for the plain parts of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nero.initialize import first_layer, gain_of, hidden_layer, last_layer
from nero.model.registry.torch_nn import reparametrized
from nero.model.run import unwrap
from nero.model.trace import TracedLayer, trace

# What leaves the channels in their order, or pools over space alone.
PASSED = {
    *("view", "_unsafe_view", "reshape", "alias", "detach", "unsqueeze", "squeeze", "mean"),
    *("max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "constant_pad_nd", "reflection_pad2d"),
}


@dataclass(frozen=True)
class Initialized:
    """What `nero.initialize_` did to one layer.

    Attributes:
        name: the weight's name.
        place: "first", "hidden" or "last" of a chain; "left" where nothing was changed.
        norm: that of its neurons now; None where it was left.
        why: the reason where it was left, or what to do.
    """

    name: str
    place: str
    norm: float | None = None
    why: str = ""


class Initialization(tuple[Initialized, ...]):
    """What `nero.initialize_` did, a line for each layer in the order of their use."""

    __slots__ = ()

    def __repr__(self) -> str:
        width = max([len(each.name) for each in self], default=0)
        lines = []
        for each in self:
            norm = "" if each.norm is None else f"norm {each.norm:.4g}"
            lines.append(f"{each.name:{width}}  {each.place:6}  {norm:11}  {each.why}".rstrip())
        return "\n".join(lines)


def initialize_(
    model: nn.Module, batch: Any, *, generator: torch.Generator | None = None
) -> Initialization:
    """Give the plain parts of a model balanced weights that keep the signal's size at any depth.

    A plain part is a chain of two or more linear layers or convolutions with nothing between them
    but elementwise activations, pooling and views: no skip connection and no normalisation. The
    model is run on the batch once to find them. Their weights are drawn anew, and their biases
    set to zero; `nero.initialize` has the construction. A hidden convolution has its weights at
    the kernel's centre alone; the first one in the whole kernel.

    Every neuron has mean 0, and norm 1 where the activation allows it. Plain ReLU, GELU and SiLU
    need norm sqrt(2) to keep the signal, which `nero.Nero` keeps with `radius="initial"`; with
    ReLU x sqrt(2), as in the paper, and with tanh the norm is 1.

    All other layers are left as they are, with the reason: those in residual branches and between
    normalisations keep the signal's size by these; layers after an operator that mixes units
    (attention, products of two layers as in gated units, permutations) have no such weights with
    neurons of a fixed norm; grouped and transposed convolutions, and weights that are shared,
    frozen or computed from others, are not touched.

    Args:
        model: modified in place.
        batch: a tensor, a tuple of arguments or a dict of keyword arguments to run the model on.
        generator: of the random numbers; None for torch's own.

    Returns:
        What was done to each layer; print it.

    Source:
        D. Balduzzi et al., "The Shattered Gradients Problem", ICML 2017, arXiv:1702.08591;
        R. Burkholz and A. Dubatovka, "Initialization of ReLUs for Dynamical Isometry", 2019;
        L. Xiao et al., ICML 2018, arXiv:1806.05393, for weights at a kernel's centre. Here rows
        are centred and of one norm.

    Examples:
        >>> import torch, nero
        >>> from torch import nn
        >>> layers = [nn.Linear(64, 64), nn.Tanh()] * 1
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), *layers, nn.Linear(64, 3))
        >>> nero.initialize_(model, torch.randn(8, 16))
        0.weight  first   norm 1
        2.weight  hidden  norm 1
        4.weight  last    norm 1
    """
    return initialize_layers_(model, trace(model, batch), generator=generator)


def initialize_layers_(
    model: nn.Module,
    layers: Mapping[str, TracedLayer],
    *,
    longer_than: int = 1,
    generator: torch.Generator | None = None,
) -> Initialization:
    """As `initialize_`, of a model that was traced before, and of its longer chains alone."""
    owners = _owners(unwrap(model))
    unfit = {name: _why_unfit(layer, owners.get(name)) for name, layer in layers.items()}
    apart = {name: _why_apart(layer, layers, owners, unfit) for name, layer in layers.items()}
    report: dict[str, Initialized] = {}
    for chain in _chains(layers, apart):
        branch = "skip" in layers[chain[-1]].ends
        if len(chain) > longer_than and not branch:
            with torch.no_grad():
                report |= _initialize_chain_(chain, layers, owners, generator)
            continue
        for name in chain:
            why = unfit[name] or ("in a residual branch" if branch else apart[name])
            if not branch and len(chain) > 1:
                why = f"in a chain of {len(chain)}, which is not long"
            report[name] = Initialized(name, "left", why=why)
    return Initialization(report[name] for name in layers)


class _Owner(NamedTuple):
    """The module of a weight, and the weight."""

    module: nn.Module
    weight: Tensor


def _owners(model: nn.Module) -> dict[str, _Owner]:
    """The owner of every weight called `weight`, by the parameter's name."""
    found = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            found[f"{path}.weight" if path else "weight"] = _Owner(module, weight)
    return found


def _why_unfit(layer: TracedLayer, owner: _Owner | None) -> str:
    """Why a layer's weights cannot be set, whatever stands around it; empty where they can."""
    if owner is None or not isinstance(owner.module, (nn.Linear, _ConvNd)):
        kind = "" if owner is None else f" ({type(owner.module).__name__})"
        return f"not the weight of a linear layer or a convolution{kind}"
    module, weight = owner
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution"
    if isinstance(module, _ConvNd) and module.groups > 1:
        return f"a convolution of {module.groups} groups"
    if reparametrized(module):
        return "computed from other parameters"
    if layer.uses > 1:
        return f"used {layer.uses} times"
    if not weight.requires_grad:
        return "frozen"
    if weight.is_meta:
        return "on the meta device: it has no weights yet"
    return ""


def _why_apart(
    layer: TracedLayer,
    layers: Mapping[str, TracedLayer],
    owners: Mapping[str, _Owner],
    unfit: Mapping[str, str],
) -> str:
    """Why a layer does not go on with the chain of the one before; empty where it does."""
    previous = next(iter(layer.before), None)
    if previous is None:
        return "alone between normalisations, skip connections or the model's ends"
    if len(layer.before) > 1:
        return f"takes what several layers made: {', '.join(layer.before)}"
    if unfit[layer.name] or unfit[previous]:
        return unfit[layer.name] or f"after {previous}, which is left: {unfit[previous]}"
    if layers[previous].ends != {layer.name}:
        return (
            f"{previous} has another branch, to {', '.join(layers[previous].ends - {layer.name})}"
        )
    if layer.function is None:
        return f"after a sum or product of signals of {previous}"
    if mixing := [name for name in layer.between if name not in PASSED]:
        return f"after {mixing[0]}, which may mix the units of {previous}"
    if _columns(owners[layer.name]) % owners[previous].weight.shape[0]:
        return (
            f"takes {_columns(owners[layer.name])} inputs from {previous}, no multiple of its units"
        )
    if owners[previous].weight.shape[0] < 2:
        return f"{previous} has one unit, and pairs need two"
    try:
        gain_of(layer.function)
    except ValueError as error:
        return str(error)
    return ""


def _chains(layers: Mapping[str, TracedLayer], apart: Mapping[str, str]) -> list[list[str]]:
    chains: list[list[str]] = []
    home: dict[str, list[str]] = {}
    for name, layer in layers.items():
        if apart[name]:
            chains.append([])
        chain = home[name] = chains[-1] if apart[name] else home[layer.before[0]]
        chain.append(name)
    return chains


def _initialize_chain_(
    chain: list[str],
    layers: Mapping[str, TracedLayer],
    owners: Mapping[str, _Owner],
    generator: torch.Generator | None,
) -> dict[str, Initialized]:
    report = {}
    for place, name in enumerate(chain):
        module, weight = owners[name]
        rows, columns, norm, why = weight.shape[0], _columns(owners[name]), 1.0, ""
        if place == 0:
            kind, w = "first", first_layer(rows, weight[0].numel(), generator=generator)
            weight.copy_(w.view(weight.shape))
        else:
            units = owners[chain[place - 1]].weight.shape[0]
            pairs = units // 2 * (columns // units)
            if place == len(chain) - 1:
                kind, w = "last", last_layer(rows, pairs, columns, generator=generator)
            else:
                function = layers[name].function
                assert function is not None
                gain = gain_of(function)
                kind, norm = "hidden", gain.norm
                w = hidden_layer(rows, pairs, columns, gain, generator=generator)
            # At a kernel's centre: every position passes its own signal on.
            centre = tuple(size // 2 for size in weight.shape[2:])
            weight.zero_()[(slice(None), slice(None), *centre)] = w.to(weight)
        if norm > 1 + 1e-9:
            why = 'gain of the activation before it; keep it with radius="initial"'
        if isinstance(module.bias, Tensor):
            module.bias.zero_()
        report[name] = Initialized(name, kind, norm, why)
    return report


def _columns(owner: _Owner) -> int:
    return owner.weight.shape[1]
