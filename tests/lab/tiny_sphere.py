"""A small task of points on a sphere, and a small balanced network for it."""

import math

import torch

import nero
from nero_lab.data.parts import Split
from nero_lab.models.mlp import PlainMLP


def small_task(examples: int, seed: int = 0) -> Split:
    """Points on the sphere of norm sqrt(20), centred; the label is the sign of one direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 20, generator=generator)
    x = x - x.mean(1, keepdim=True)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(20)
    return Split(x, torch.where(x[:, 0] > x[:, 1], 1, -1))


def network(lr: float = 0.03) -> tuple[PlainMLP, nero.Nero]:
    torch.manual_seed(0)
    model = PlainMLP(2, 16, in_features=20, classes=1, bias=False)
    return model, nero.Nero(nero.param_groups(model), lr=lr, beta=0.9, momentum=0.9)
