"""Sines and cosines from which a transformer knows the place of a token."""

import math

import torch
from torch import Tensor, nn


class SinePositions(nn.Module):
    """Adds to each token's vector sines and cosines of its position, then drops some out.

    PE(p, 2i) = sin(p / 10000^(2i / width)) and PE(p, 2i+1) = cos of the same: A. Vaswani et al.,
    "Attention Is All You Need", 2017, section 3.5. There is nothing to learn in it.

    Args:
        width: size of a token's vector, even.
        longest: the most tokens in a row.
        dropout: share of the sum that is dropped in training.

    Shapes: input and output (tokens, batch, width).
    """

    table: Tensor

    def __init__(self, width: int, longest: int, dropout: float) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even for sines and cosines, got {width}")
        position = torch.arange(longest).unsqueeze(1)
        frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        angle = position * frequency
        # (longest, 1, width): sine and cosine side by side
        table = torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1).unsqueeze(1)
        self.register_buffer("table", table, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors x, (tokens, batch, width), with their positions.

        Raises:
            ValueError: a row has more tokens than the table.
        """
        if len(x) > len(self.table):
            raise ValueError(
                f"a row has {len(x)} tokens, and the positions end at {len(self.table)}"
            )
        return self.dropout(x + self.table[: len(x)])
