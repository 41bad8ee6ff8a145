"""Which weights make up a neuron, found by derivatives alone: knows no registry and no layout.

Two ways to find it. Where a layer's output units can be seen, the neuron of a weight is the unit
whose output depends on it. Where they cannot (the gates of a recurrent layer, the hidden units of
an expert), all inputs of the layer are made equal: two weights of one neuron then have the same
effect on everything, and two weights of different neurons have not.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nero import NeuronLayout

Run = Callable[[nn.Module], Tensor]


def derivatives(outputs: Tensor, p: Tensor) -> Tensor:
    """(outputs, entries of p), for every output and entry."""
    rows = [torch.autograd.grad(y, p, retain_graph=True)[0] for y in outputs.flatten()]
    return torch.stack(rows).flatten(1)


def classes_by_unit(outputs: Tensor, p: Tensor) -> list[int]:
    """The class of each entry of `p`: the one unit whose output it changes.

    Args:
        outputs: (samples, units).
        p: the parameter, of any shape.
    """
    # Random sums over the samples depend on all that the samples depend on, and are few.
    mixed = torch.randn(2, len(outputs), dtype=outputs.dtype) @ outputs
    feeds = (derivatives(mixed, p) != 0).view(*mixed.shape, -1).any(0)
    assert (feeds.sum(0) == 1).all(), "an entry feeds no unit, or several"
    return canonical(feeds.int().argmax(0).tolist())


def classes_by_effect(outputs: Tensor, p: Tensor) -> list[int]:
    """The class of each entry of `p`: those with the same effect on all outputs, float64."""
    effects = derivatives(outputs, p).T
    scale = effects.abs().max()
    representatives: list[Tensor] = []
    labels = []
    for effect in effects:
        near = [k for k, r in enumerate(representatives) if (effect - r).abs().max() < 1e-9 * scale]
        assert len(near) < 2, "two neurons that look alike: make the inputs richer"
        labels.append(near[0] if near else len(representatives))
        if not near:
            representatives.append(effect)
    return canonical(labels)


def classes_by_layout(layout: NeuronLayout) -> list[int]:
    """The class of each entry, as a layout has it."""
    index = torch.arange(layout.neurons).view(layout.neuron_shape)
    return canonical(index.expand(layout.split_shape).flatten().tolist())


def canonical(labels: Iterable[Hashable]) -> list[int]:
    """Labels by order of first appearance, so that equal lists are equal partitions."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(label, len(seen)) for label in labels]


@dataclass(frozen=True)
class Case:
    """A parameter of a module, and outputs that show its neurons.

    `run` returns (samples, units) for `classes_by_unit`, anything for `classes_by_effect`.
    """

    name: str
    build: Callable[[], nn.Module]
    parameter: str
    run: Run
    find: Callable[[Tensor, Tensor], list[int]] = classes_by_unit

    def classes(self, module: nn.Module) -> list[int]:
        return self.find(self.run(module), module.get_parameter(self.parameter))

    def __str__(self) -> str:
        return f"{self.name}.{self.parameter}"
