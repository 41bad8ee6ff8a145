import pytest
import torch

import nero
from nero_lab.models.gpt import SmallGPT
from nero_lab.models.vgg import SmallVGG


@pytest.mark.parametrize("tied", [False, True])
def test_language_model_sees_no_later_token(tied: bool):
    torch.manual_seed(0)
    model = SmallGPT(vocabulary=40, context=12, width=16, tied=tied)
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
