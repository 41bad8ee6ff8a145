"""The convolutional network that plays Atari games."""

from typing import Any

import gymnasium
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class AtariFeatures(BaseFeaturesExtractor):
    """Three convolutions and a linear layer with ReLU, as in Mnih et al. (Nature, 2015).

    Args:
        observation_space: of images (frames, 84, 84).
        channels: of the first convolution; the others have twice as many. 32 is Mnih's.
        features_dim: units of the linear layer. 512 is Mnih's.

    Shapes: input (batch, frames, 84, 84) from 0 to 1, output (batch, features_dim).
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], channels: int = 32, features_dim: int = 512
    ) -> None:
        super().__init__(observation_space, features_dim)
        assert observation_space.shape is not None
        frames, height, width = observation_space.shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(frames, channels, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            places = self.convolutions(torch.zeros(1, frames, height, width)).shape[1]
        self.linear = nn.Sequential(nn.Linear(places, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features."""
        return self.linear(self.convolutions(observations))
