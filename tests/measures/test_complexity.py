"""The normalised margin and Bartlett's complexity against hand-made values; their invariances."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import nero
from measures.networks import ReluChain, labelled, permuted, rescaled
from nero import NeuronLayout
from nero.measures import balanced_layouts, normalized_margin, spectral_complexity


def test_margin_of_a_linear_classifier() -> None:
    model = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3, 4))
    inputs = torch.tensor([[4.0, 1.0, 0.0, 0.0], [0.0, 1.0, 3.0, 0.0]])
    labels = torch.tensor([0, 1])
    # Scores less the best other: 4 - 1 and 1 - 3; over the inputs' root mean squares.
    expected = [3 / math.sqrt(17 / 4), -2 / math.sqrt(10 / 4)]
    found = [
        normalized_margin(model, {"weight": NeuronLayout((3, 4))}, (inputs, labels), quantile=q)
        for q in (1.0, 0.0)
    ]
    assert found == pytest.approx(expected)


def test_margin_ignores_sizes_of_layers_and_inputs_and_order_of_neurons() -> None:
    model = nero.balance_(ReluChain(6, 20, 20, 1).double())
    assert isinstance(model, ReluChain)
    layouts = balanced_layouts(nero.param_groups(model))
    inputs, labels = labelled(model, 500, 6)
    margin = normalized_margin(model, layouts, (inputs, labels))
    assert margin > 0
    for other in (permuted(model), rescaled(model)):
        found = normalized_margin(other, layouts, (inputs * 7, labels))
        assert found == pytest.approx(margin, rel=1e-12)


def test_complexity_agrees_with_numpy() -> None:
    model = ReluChain(6, 20, 10, 1).double()
    layouts = {n: NeuronLayout(tuple(p.shape)) for n, p in model.named_parameters()}
    initial = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    weights = [p.detach().numpy() for p in model.parameters()]
    starts = [initial[n].numpy() for n in layouts]
    norms = [np.linalg.svd(w)[1][0] for w in weights]
    for reference, moved in (
        (None, weights),
        (initial, [w - m for w, m in zip(weights, starts, strict=True)]),
    ):
        groups = [np.sqrt((w**2).sum(1)).sum() for w in moved]
        total = sum((g / s) ** (2 / 3) for g, s in zip(groups, norms, strict=True))
        found = spectral_complexity(model, layouts, reference=reference, lipschitz=2.0)
        assert found == pytest.approx(2 * np.prod(norms) * total**1.5, rel=1e-12)


def test_complexity_over_the_margin_ignores_rescaling_between_layers() -> None:
    model = ReluChain(6, 20, 1).double()
    layouts = {n: NeuronLayout(tuple(p.shape)) for n, p in model.named_parameters()}
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[0].weight.mul_(4)
        other.layers[1].weight.div_(4)
    expected = spectral_complexity(model, layouts)
    assert spectral_complexity(other, layouts) == pytest.approx(expected, rel=1e-12)
    assert spectral_complexity(permuted(model), layouts) == pytest.approx(expected, rel=1e-12)


def test_complexity_refuses_convolutions() -> None:
    model = nn.Conv2d(3, 4, 2)
    with pytest.raises(ValueError, match="'weight' of shape"):
        spectral_complexity(model, {"weight": NeuronLayout((4, 3, 2, 2))})
    with pytest.raises(ValueError, match="not a matrix with neurons in rows"):
        spectral_complexity(nn.Linear(3, 3), {"weight": NeuronLayout((3, 3), (1,))})
