"""Margins and norms: the margin of a balanced network, and Bartlett's spectral complexity."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nero.geometry import neuron_norm
from nero.measures.sphere import Data, Layouts, margins
from nero.neurons import NeuronLayout


@torch.no_grad()
def normalized_margin(
    model: nn.Module, layouts: Layouts, data: Data, quantile: float = 0.1
) -> float:
    """A low quantile of the margins, over the sizes of inputs and layers.

    Each example's margin is divided by the root mean square of its input and by that of the
    neurons' norms of each layer. On a balanced network the latter are 1, so that the margin needs
    no normalising but the input's. Rescaling a layer of a network of positively homogeneous
    layers without biases changes nothing.

    Args:
        model: any; the normalisation is right for chains of positively homogeneous layers.
        layouts: parameter name -> its neurons.
        data: inputs and labels.
        quantile: 0 for the smallest margin; 0.1, the 10th percentile, ignores outliers.

    Returns:
        The margin; negative where more than `quantile` of the examples are misclassified.

    Source:
        A. R. Farhang et al., "Investigating generalization by controlling normalized margin",
        2022, with Frobenius norms: theirs is this one divided by the roots of the layers' widths.

    Examples:
        >>> import torch
        >>> from nero import NeuronLayout
        >>> from nero.measures import normalized_margin
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 3.0, -3.0, -3.0]]))
        >>> data = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]]), torch.ones(2)
        >>> normalized_margin(model, {"weight": NeuronLayout((1, 4))}, data, quantile=1.0)
        2.0
    """
    inputs, labels = data
    sizes = inputs.flatten(1).square().mean(1).sqrt()
    values = margins(model(inputs), labels) / sizes
    parameters = dict(model.named_parameters())
    for name, layout in layouts.items():
        values = values / neuron_norm(parameters[name], layout).square().mean().sqrt()
    return torch.quantile(values.double(), quantile).item()


@torch.no_grad()
def spectral_complexity(
    model: nn.Module,
    layouts: Layouts,
    *,
    reference: Mapping[str, Tensor] | None = None,
    lipschitz: float = 1.0,
) -> float:
    """Bartlett's spectrally normalised complexity of a fully connected network.

    `R = L prod ||W|| (sum (||W - M||_(2,1) / ||W||)^(2/3))^(3/2)` over the layers' weights W, with
    their spectral norms, and the sum of the neurons' 2-norms for ||.||_(2,1). The generalisation
    gap is bounded by a multiple of `R ||X||_F / (margin m)`, X the m inputs.

    Args:
        model: fully connected; biases are not counted.
        layouts: parameter name -> its neurons: the rows of matrices.
        reference: parameter name -> M, fixed before the data, such as the initial weights; zero
            where None.
        lipschitz: L, the product of the activations' Lipschitz constants; 2^(k/2) for k layers of
            relu(x) sqrt(2).

    Returns:
        R, in units of the outputs over those of the inputs.

    Raises:
        ValueError: a layout is not that of a matrix with neurons in rows: the spectral norm of a
            reshaped convolution is not that of its map.

    Source:
        P. L. Bartlett, D. J. Foster, M. J. Telgarsky, "Spectrally-normalized margin bounds for
        neural networks", 2017, equation 1.2.

    Examples:
        One layer: the sum of its neurons' norms, whatever its spectral norm.

        >>> import torch
        >>> from nero import NeuronLayout
        >>> from nero.measures import spectral_complexity
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> round(spectral_complexity(model, {"weight": NeuronLayout((2, 2))}), 5)
        7.0
    """
    parameters = dict(model.named_parameters())
    product, total = lipschitz, 0.0
    for name, layout in layouts.items():
        if layout != NeuronLayout(layout.shape[:1] + layout.shape[1:2]):
            raise ValueError(
                f"{name!r} of shape {layout.shape} is not a matrix with neurons in rows"
            )
        w = parameters[name].double()
        spectral = torch.linalg.matrix_norm(w, 2).item()
        moved = w if reference is None else w - reference[name].double()
        product *= spectral
        total += (neuron_norm(moved, layout).sum().item() / spectral) ** (2 / 3)
    return product * math.pow(total, 1.5)
