"""A transformer encoder that predicts the next word: the paper's figure 7."""

import math

from torch import Tensor, nn

from nero_lab.models.positions import SinePositions


class WordLM(nn.Module):
    """Word embedding, sine positions, encoder layers under a causal mask, and the head.

    The embedding and the head start uniform between -0.1 and 0.1, the head's bias at zero, and the
    embedding is scaled by the root of the width, as is customary for word models on WikiText-2. The
    encoder layers are torch's, with torch's initial weights.

    Args:
        vocabulary: number of words.
        context: the most words in a row.
        depth: encoder layers.
        width: size of a word's vector, and of the hidden layer in each encoder layer.
        heads: attention heads.
        dropout: after the positions and inside the encoder layers.

    Shapes: input (batch, words) of int64, output (batch, words, vocabulary).
    """

    mask: Tensor

    def __init__(
        self,
        vocabulary: int,
        context: int = 35,
        depth: int = 2,
        width: int = 200,
        heads: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = SinePositions(width, context, dropout)
        # Not nn.TransformerEncoder, which would start all layers as copies of one.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, width, dropout) for _ in range(depth)
        )
        self.head = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        mask = nn.Transformer.generate_square_subsequent_mask(context)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        """Return the scores of every next word, (batch, words, vocabulary)."""
        # The words come first here: torch has a fused path for inference with the batch first, and
        # what is evaluated should be what was trained.
        x = self.embedding(words.T) * math.sqrt(self.embedding.embedding_dim)
        x = self.positions(x)
        mask = self.mask[: len(x), : len(x)]
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(x).transpose(0, 1)
