"""From how many layers stand in a row to the rate at which each of them turns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from nero.model.run import unwrap
from nero.model.trace import TracedLayer

C = 8.0  # how much a row may change in a step, in multiples of turn: c below


def rate_factor(row: int) -> float:
    r"""The learning rate of a layer in a row of L layers, in multiples of the network's `turn`.

    Let each layer of a row change, as a map, by eta of itself: orthogonal directions bound it so,
    where turning n neurons by eta each would allow eta sqrt(n). The row's output is a product of L
    factors, and changes by at most

        (1 + eta)^L - 1 = L eta + O((L eta)^2)

    of itself. A normalisation or a skip connection ends a row: the first fixes the size of what
    goes on, the second passes on the input beside the branch's output. For a row of any length to
    change by c turn at most,

        eta = turn min(1, c / L).

    c = 8 is measured (trials: docs/evidence/log.md), for ordinary balanced weights, which lose a
    fifth of the signal in each layer, so that the last few layers make most of the output; and for
    weights drawn to carry the signal through the whole row, with the paper's rule. Orthogonal
    directions leave that isometric start, which nothing else holds, and the loss of 100 layers
    bursts after a few epochs.

    Args:
        row: L, at least 1; see `nero.model.trace`.

    Examples:
        >>> from nero.model.depth import rate_factor
        >>> rate_factor(2), rate_factor(100)
        (1.0, 0.08)
    """
    return min(1.0, C / row)


def layers_by_parameter(
    model: nn.Module, layers: Mapping[str, TracedLayer]
) -> dict[int, TracedLayer]:
    """The layer that each parameter belongs to, by the parameter's identity.

    Biases, and other weights of the same module, belong to the module's layer. What no signal of
    the batch has passed is left out.

    Args:
        model: the one that was traced.
        layers: from `nero.model.trace.trace`.
    """
    modules = dict(unwrap(model).named_modules())
    found: dict[int, TracedLayer] = {}
    for name, layer in layers.items():
        path, _, attribute = name.rpartition(".")
        module = modules[path]
        found[id(module.get_parameter(attribute))] = layer
        # A parametrisation lies inside the module that has the bias.
        owner = modules[path.partition("parametrizations")[0].rstrip(".")]
        for p in owner.parameters(recurse=False):
            found.setdefault(id(p), layer)
    return found
