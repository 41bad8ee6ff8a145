"""The networks of the paper's experiments."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from nero_lab.models.normalised_mlp import NormalisedMLP
from nero_lab.models.positions import SinePositions
from nero_lab.models.resnet import ResNet18
from nero_lab.models.translator import Translator
from nero_lab.models.vgg11 import VGG11
from nero_lab.models.word_lm import WordLM


def test_resnet18_is_torchvisions_but_for_the_stem():
    ours, theirs = ResNet18(), resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_vgg11_has_no_normalisation_and_no_convolution_bias():
    model = VGG11(width=0.125)
    assert {type(part) for part in model.modules()} == {
        VGG11, nn.Sequential, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear, nn.Dropout
    }  # fmt: skip
    assert all(part.bias is None for part in model.modules() if isinstance(part, nn.Conv2d))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="width must be positive"):
        VGG11(width=0)


def test_reparameterised_weights_are_balanced_whatever_the_free_ones():
    for scale in (1.0, 100.0):
        model = NormalisedMLP(3, width=16, in_features=12, scale=scale)
        free = [p for p in model.parameters() if p.ndim == 2]
        assert (
            0.7 * scale < torch.cat([p.detach().flatten() for p in free]).std().item() < 1.3 * scale
        )
        for layer in model.layers:
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            torch.testing.assert_close(weight.mean(dim=1), torch.zeros(len(weight)))
            torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))
    plain = NormalisedMLP(3, width=16, in_features=12, reparameterised=False)
    first, second, third = (layer.weight for layer in plain.layers)
    x = torch.randn(4, 12)
    hidden = torch.relu(torch.relu(x @ first.T) * math.sqrt(2) @ second.T) * math.sqrt(2)
    torch.testing.assert_close(plain(x), hidden @ third.T)


def test_positions_are_the_formula():
    positions = SinePositions(6, longest=9, dropout=0.0)
    added = positions(torch.zeros(5, 1, 6))
    expected = math.cos(4 / 10_000 ** (2 / 6))
    assert float(added[4, 0, 3]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="a row has 10 tokens"):
        positions(torch.zeros(10, 1, 6))


def test_a_word_sees_none_of_those_after_it():
    model = WordLM(vocabulary=30, context=8, width=16).eval()
    words = torch.randint(30, (2, 8))
    changed = words.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 30
    same = torch.isclose(model(words), model(changed), atol=1e-6).all(dim=2)
    assert same[:, :5].all()
    assert not same[:, 5:].any()
    first, second = (layer.linear1.weight for layer in model.layers)
    assert not torch.equal(first, second), "the layers start alike"


def test_a_translation_sees_all_of_the_source_but_padding_and_no_later_word():
    model = Translator(30, padding=0, depth=1, width=16, heads=2, hidden=32, longest=12).eval()
    source, target = torch.randint(1, 30, (2, 7)), torch.randint(1, 30, (2, 6))
    scores = model(source, target)
    assert scores.shape == (2, 6, 30)
    padded = nn.functional.pad(source, (0, 3))
    torch.testing.assert_close(model(padded, target), scores)
    later = target.clone()
    later[:, 4:] = later[:, 4:] % 29 + 1
    torch.testing.assert_close(model(source, later)[:, :4], scores[:, :4])
    other = source.clone()
    other[:, 6] = other[:, 6] % 29 + 1
    assert not torch.allclose(model(other, target)[:, 0], scores[:, 0])
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "norm" in name]
    assert [name for name in names if model.get_parameter(name).shape[0] == 30] == [
        "embedding.weight"
    ]
