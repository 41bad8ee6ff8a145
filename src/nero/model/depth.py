"""From how many layers stand in a row to the rate at which each of them turns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from nero.model.run import unwrap
from nero.model.trace import TracedLayer

# c below: a row of this length turns at the network's own rate, layer by layer.
ROW = 4.0


def rate_factor(row: int) -> float:
    r"""The learning rate of a layer in a row of L layers, in multiples of the network's `turn`.

    Let each layer of a row change, as a map, by eta of itself: orthogonal directions bound it so,
    where turning n neurons by eta each would allow eta sqrt(n). The row's output is a product of L
    factors, and changes by at most

        (1 + eta)^L - 1 = L eta + O((L eta)^2)

    of itself. A normalisation or a skip connection ends a row: the first fixes the size of what
    goes on, the second passes on the input beside the branch's output, whose share does not grow
    with the number of branches before it. For a row of any length to change by c turn at most,

        eta = turn min(1, c / L).

    c = 4 is measured: for plain networks of 2 to 50 layers it gives a rate within a factor of 1.4
    of the best one, at one `turn` (trials: docs/evidence/log.md).

    Args:
        row: L, at least 1; see `nero.model.trace`.

    Examples:
        >>> from nero.model.depth import rate_factor
        >>> rate_factor(2), rate_factor(100)
        (1.0, 0.04)
    """
    return min(1.0, ROW / row)


def row_lengths(model: nn.Module, layers: Mapping[str, TracedLayer]) -> dict[int, int]:
    """How many layers stand in the row of each parameter, by the parameter's identity.

    Biases, and other weights of the same module, stand in the row of the module's layer. What no
    signal of the batch has passed is left out.

    Args:
        model: the one that was traced.
        layers: from `nero.model.trace.trace`.
    """
    modules = dict(unwrap(model).named_modules())
    found: dict[int, int] = {}
    for name, layer in layers.items():
        path, _, attribute = name.rpartition(".")
        module = modules[path]
        found[id(module.get_parameter(attribute))] = layer.row
        # A parametrisation lies inside the module that has the bias.
        owner = modules[path.partition("parametrizations")[0].rstrip(".")]
        for p in owner.parameters(recurse=False):
            found.setdefault(id(p), layer.row)
    return found
