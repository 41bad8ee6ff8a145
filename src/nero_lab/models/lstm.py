"""A small recurrent language model."""

from torch import Tensor, nn


class SmallLSTM(nn.Module):
    """Token embedding, a stack of LSTM layers, and the head.

    Initial weights are torch's.

    Args:
        vocabulary: number of tokens.
        width: size of a token's vector and of the state.
        depth: LSTM layers.

    Shapes: input (batch, tokens) of int64, output (batch, tokens, vocabulary).
    """

    def __init__(self, vocabulary: int, width: int = 128, depth: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of every next token, (batch, tokens, vocabulary)."""
        states, _ = self.lstm(self.embedding(tokens))
        return self.head(states)
