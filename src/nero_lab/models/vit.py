"""A small vision transformer."""

import torch
from torch import Tensor, nn

import nero
from nero_lab.models.gpt import Block


class SmallViT(nn.Module):
    """Patches and their positions, transformer blocks, a LayerNorm, and a head on the mean.

    Initial weights are torch's, positions small.

    Args:
        pixels: height and width of an image.
        channels: of an image.
        patch: height and width of a patch; divides `pixels`.
        classes: number of outputs.
        depth: number of blocks.
        width: size of a patch's vector.
        heads: attention heads.

    Shapes: input (batch, channels, pixels, pixels), output (batch, classes).
    """

    def __init__(
        self,
        pixels: int = 28,
        channels: int = 1,
        patch: int = 7,
        classes: int = 10,
        depth: int = 3,
        width: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if pixels % patch:
            raise ValueError(f"patch must divide {pixels} pixels, got {patch}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, (pixels // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, causal=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of images."""
        # (batch, width, rows, columns) -> (batch, patches, width)
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


nero.register(SmallViT, "positions", neuron_axes=(0, 1), role="embedding")
