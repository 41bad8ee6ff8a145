"""The transformer for translation, encoder and decoder: the paper's figure 8."""

import math

from torch import Tensor, nn

from nero_lab.models.positions import SinePositions


class Translator(nn.Module):
    """Torch's Transformer with sine positions, one embedding for everything, and bare LayerNorms.

    After A. Vaswani et al., "Attention Is All You Need", 2017; the defaults are its base model.
    Source words, target words and the output share one matrix of weights, and no LayerNorm has a
    gain or a bias. The matrix starts normal with standard deviation 1 / sqrt(width) and is scaled
    by sqrt(width) where it embeds; all other matrices start as `nn.Transformer` draws them.

    Args:
        vocabulary: number of words, of both languages together.
        padding: the word that fills rows up; what stands there is never attended to.
        depth: layers of the encoder, and as many of the decoder.
        width: size of a word's vector.
        heads: attention heads.
        hidden: units of the hidden layer in each layer.
        dropout: after the positions and inside the layers.
        longest: the most words in a row.

    Shapes: source (batch, source words) and target (batch, target words), both int64; output
    (batch, target words, vocabulary): at each target word the scores of the word after it.
    """

    mask: Tensor

    def __init__(
        self,
        vocabulary: int,
        padding: int,
        depth: int = 6,
        width: int = 512,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
        longest: int = 128,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.positions = SinePositions(width, longest, dropout)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout)
        # What nn.Transformer would build, but for nested tensors, which need the batch first.
        encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), False)
        self.transformer = nn.Transformer(
            width, heads, depth, depth, hidden, dropout, custom_encoder=encoder
        )
        _strip_norms(self.transformer)
        mask = nn.Transformer.generate_square_subsequent_mask(longest).isinf()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the scores of every next target word, (batch, target words, vocabulary)."""
        words = target.shape[1]
        # The words come first here: torch has a fused path for inference with the batch first,
        # which does not know LayerNorms without gains.
        states = self.transformer(
            self._embed(source),
            self._embed(target),
            tgt_mask=self.mask[:words, :words],
            src_key_padding_mask=source == self.padding,
            tgt_key_padding_mask=target == self.padding,
            memory_key_padding_mask=source == self.padding,
            tgt_is_causal=True,
        )
        return nn.functional.linear(states.transpose(0, 1), self.embedding.weight)

    def _embed(self, words: Tensor) -> Tensor:
        return self.positions(self.embedding(words.T) * math.sqrt(self.embedding.embedding_dim))


def _strip_norms(module: nn.Module) -> None:
    """Replace every LayerNorm inside by one that has neither gain nor bias."""
    for name, part in module.named_children():
        if isinstance(part, nn.LayerNorm):
            bare = nn.LayerNorm(list(part.normalized_shape), eps=part.eps, elementwise_affine=False)
            setattr(module, name, bare)
        else:
            _strip_norms(part)
