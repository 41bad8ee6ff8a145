"""A small transformer language model in GPT-2's manner."""

from torch import Tensor, nn

import nero


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each on normalised input and added to it.

    Args:
        width: size of a token's vector.
        heads: attention heads.
        causal: whether a token sees those before it alone, or all.
    """

    def __init__(self, width: int, heads: int, causal: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, tokens, width) from the same."""
        x = x + self._attention(self.attention_norm(x))
        return x + self.mlp_out(nn.functional.gelu(self.mlp_in(self.mlp_norm(x))))

    def _attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        # (batch, tokens, 3 width) -> three times (batch, heads, tokens, width / heads)
        q, k, v = (
            part.view(batch, tokens, self.heads, -1).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.attention_out(mixed.transpose(1, 2).reshape(batch, tokens, width))


nero.register("nero_lab.models.gpt.Block", "query_key_value.weight", blocks=3)


class SmallGPT(nn.Module):
    """Token and position embeddings, blocks, a LayerNorm and the head.

    Initial weights are normal with standard deviation 0.02, those that end a residual branch
    smaller by the root of twice the depth, and biases zero, as is usual for GPT-2.

    Args:
        vocabulary: number of tokens.
        context: the most tokens in a row.
        depth: number of blocks.
        width: size of a token's vector.
        heads: attention heads.
        tied: whether the head uses the token embedding's weights.

    Shapes: input (batch, tokens) of int64, output (batch, tokens, vocabulary).
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        depth: int = 2,
        width: int = 128,
        heads: int = 4,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                ends_branch = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(p, std=0.02 / (2 * depth) ** 0.5 if ends_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if tied:
            self.head.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of every next token, (batch, tokens, vocabulary)."""
        x = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
