import math

import pytest
import torch

import nero
from nero_lab.models.mlp import PlainMLP


def test_forward_is_linear_relu_sqrt2_and_nothing_else():
    model = PlainMLP(depth=4, width=16)
    x = torch.randn(5, 64)
    parameters = list(model.parameters())
    weights, biases = parameters[::2], parameters[1::2]
    assert [tuple(w.shape) for w in weights] == [(16, 64), (16, 16), (16, 16), (10, 16)]
    expected = x
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        expected = (expected @ w.T + b).clamp(min=0) * math.sqrt(2)
    expected = expected @ weights[-1].T + biases[-1]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("init", ["default", "kaiming", "balanced"])
def test_without_biases_a_network_is_positively_homogeneous(init):
    model = PlainMLP(3, 8, init=init, bias=False)
    x = torch.randn(5, 64)
    torch.testing.assert_close(model(3 * x), 3 * model(x))


def _scale_after_hidden_layers(model: PlainMLP) -> float:
    x = torch.randn(512, 64)
    start = x.square().mean()
    with torch.no_grad():
        for layer in list(model.layers)[:-1]:
            x = torch.relu(layer(x)) * math.sqrt(2)
    return (x.square().mean() / start).item()


def test_kaiming_keeps_the_scale_of_activations_through_50_layers():
    scales = []
    for seed in range(8):
        torch.manual_seed(seed)
        scales.append(math.log(_scale_after_hidden_layers(PlainMLP(50, 64, init="kaiming"))))
    # A layer of width 64 shifts the log-scale at random by about sqrt(5 / 64), so 49 of them by
    # about 2, and 1.6 down on average; a gain wrong by sqrt(2) would shift it by 49 ln 2 = 34.
    assert abs(sum(scales) / len(scales)) < 5


def test_isometric_weights_are_balanced_and_keep_the_scale_of_activations():
    model = PlainMLP(50, 64, init="isometric")
    assert abs(math.log(_scale_after_hidden_layers(model))) < 0.2
    for layer in model.layers:
        assert isinstance(layer, torch.nn.Linear)
        layout = nero.NeuronLayout(tuple(layer.weight.shape))
        assert nero.geometry.is_balanced(layer.weight, layout).all()
        assert not layer.bias.any()


def test_kaiming_biases_are_zero_and_default_ones_are_not():
    assert all(not layer.bias.any() for layer in PlainMLP(3, 8, init="kaiming").layers)
    assert all(layer.bias.any() for layer in PlainMLP(3, 8).layers)


@pytest.mark.parametrize(("arguments", "word"), [({"depth": 1}, "depth"), ({"init": "x"}, "init")])
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        PlainMLP(**{"depth": 3} | arguments)
