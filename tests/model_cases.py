"""Small models that several tests of nero.model share, and what they ask of groups."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nero.model.param_groups import param_groups


def placed(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Group by parameter name; each name once."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        for name, _ in group["params"]:
            assert name not in found, f"{name} is in two groups"
            found[name] = group
    return found


def roles(model: nn.Module, **arguments: Any) -> dict[str, str]:
    return {name: g["role"] for name, g in placed(param_groups(model, **arguments)).items()}


def constraint(group: dict[str, Any]) -> dict[str, Any]:
    return {"center": group["center"], "radius": group["radius"]}


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, groups=2)
        )
        self.classifier = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 8, num_layers=2, proj_size=6, batch_first=True)
        self.decoder = nn.Linear(6, 12)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Any]:
        y, state = self.lstm(self.embedding(tokens))
        return self.decoder(y), state


class Transforming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.Linear(8, 12, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        y = self.encoder(self.embedding(tokens))
        return {"hidden": y, "logits": self.decoder(y)}


TOKENS = torch.arange(1, 11).view(2, 5)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "convolutional with BatchNorm": (
        Convolutional,
        torch.linspace(-1, 1, 2 * 3 * 36).view(2, 3, 6, 6),
    ),
    "LSTM": (Recurrent, TOKENS),
    "transformer, tied": (Transforming, TOKENS),
}
every_model = pytest.mark.parametrize(("build", "batch"), MODELS.values(), ids=MODELS)
