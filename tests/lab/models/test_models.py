from typing import Any, get_args

import pytest
import torch
from torch import nn

import nero
from nero_lab.models.adapted import AdaptedMLP
from nero_lab.models.deep_cnn import DeepCNN, Init
from nero_lab.models.gpt import SmallGPT
from nero_lab.models.lstm import SmallLSTM
from nero_lab.models.vgg import SmallVGG
from nero_lab.models.vit import SmallViT


@pytest.mark.parametrize("tied", [False, True])
def test_language_model_sees_no_later_token(tied: bool):
    torch.manual_seed(0)
    sees_no_later_token(SmallGPT(vocabulary=40, context=12, width=16, tied=tied))


def test_recurrent_language_model_sees_no_later_token():
    torch.manual_seed(0)
    sees_no_later_token(SmallLSTM(vocabulary=40, width=16, depth=2))


def sees_no_later_token(model: torch.nn.Module) -> None:
    tokens = torch.randint(0, 40, (2, 12))
    later = tokens.clone()
    later[:, 7:] = (later[:, 7:] + 1) % 40
    before, after = model(tokens), model(later)
    assert before.shape == (2, 12, 40)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_tied_head_is_one_parameter():
    model = SmallGPT(vocabulary=40, context=12, width=16, tied=True)
    assert model.head.weight is model.token_embedding.weight
    names = [name for name, _ in model.named_parameters()]
    assert "token_embedding.weight" in names
    assert "head.weight" not in names


@pytest.mark.parametrize("batch_norm", [False, True])
def test_convolutional_network_and_its_roles(batch_norm: bool):
    model = SmallVGG(classes=5, batch_norm=batch_norm)
    assert model(torch.randn(3, 1, 28, 28)).shape == (3, 5)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) == batch_norm
    groups = nero.param_groups(model, head="head")
    roles = {name: group["role"] for group in groups for name, _ in group["params"]}
    assert roles["head.weight"] == "head"
    assert roles["features.0.weight"] == "weight"


def test_vision_transformer_sees_every_patch_and_its_place():
    torch.manual_seed(0)
    model = SmallViT(pixels=8, patch=4, depth=1, width=16, classes=3)
    image = torch.randn(1, 1, 8, 8)
    first, last, swapped = image.clone(), image.clone(), image.flip(2)
    first[..., :4, :4] += 1
    last[..., 4:, 4:] += 1
    scores = model(image)
    assert scores.shape == (1, 3)
    assert not any(torch.allclose(scores, model(each)) for each in (first, last, swapped))
    with pytest.raises(ValueError, match="patch must divide 8 pixels, got 3"):
        SmallViT(pixels=8, patch=3)


def test_positions_are_an_embedding():
    groups = nero.param_groups(SmallViT(depth=1, width=16), head="head")
    (group,) = (each for each in groups if each["role"] == "embedding")
    assert [name for name, _ in group["params"]] == ["positions"]
    assert group["neuron_axes"] == (0, 1)


def test_adapters_start_without_effect_and_alone_are_trained():
    torch.manual_seed(0)
    adapted, plain = AdaptedMLP(12, 3, width=8, rank=2), AdaptedMLP(12, 3, width=8)
    assert not plain.adapters
    assert all(p.requires_grad for p in plain.parameters())
    plain.load_state_dict({k: v for k, v in adapted.state_dict().items() if "adapters" not in k})
    x = torch.randn(4, 12)
    torch.testing.assert_close(adapted(x), plain(x))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {
        *(f"adapters.{layer}.{part}.weight" for layer in (0, 1) for part in (0, 1)),
        "head.weight",
        "head.bias",
    }
    with torch.no_grad():
        adapted.get_parameter("adapters.0.1.weight").fill_(0.5)
    assert not torch.allclose(adapted(x), plain(x))


@pytest.mark.parametrize("depth", [6, 8])
@pytest.mark.parametrize("residual", [False, True])
def test_deep_convolutional_network_has_so_many_layers(depth: int, residual: bool):
    model = DeepCNN(depth, width=4, residual=residual)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == depth


def size_of_features(depth: int, init: Any) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        features = DeepCNN(depth, init=init).features[:-2](torch.randn(8, 1, 28, 28))
    return float(features.std(0).mean())  # of what depends on the image


def test_deep_convolutional_network_keeps_the_size_of_signals():
    kept = {init: size_of_features(30, init) / size_of_features(6, init) for init in get_args(Init)}
    assert 0.5 < kept["isometric"] < 2
    assert kept["kaiming"] > 0.05  # some of it is lost at the borders of 7 x 7 pixels
    assert kept["default"] < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 7}, "even number of at least 6"),
        ({"depth": 8, "init": "none"}, "init must be one of default, kaiming, isometric"),
        ({"depth": 8, "residual": True, "init": "isometric"}, "for plain networks"),
    ],
)
def test_deep_convolutional_network_refuses(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DeepCNN(**options)
