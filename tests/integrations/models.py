"""Small language models and texts that the tests of several libraries share."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

TOKENS = 32
LENGTH = 24


def llama(**options: Any) -> nn.Module:
    """A Llama of two layers, 32 wide."""
    sizes = {
        "vocab_size": TOKENS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **options}))


def language(seed: int) -> Tensor:
    """The probabilities of the next token after each: a Markov chain, (tokens, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(1.5 * torch.randn(TOKENS, TOKENS, generator=generator), -1)


def text(chain: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Sequences of a language, (rows, LENGTH)."""
    tokens = [torch.randint(TOKENS, (rows,), generator=generator)]
    while len(tokens) < LENGTH:
        following = torch.multinomial(chain[tokens[-1]], 1, generator=generator)
        tokens.append(following[:, 0])
    return torch.stack(tokens, 1)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, chain: Tensor, *, steps: int, seed: int
) -> float:
    """Train with linear decay, and return the loss on text that the model has not seen."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        tokens = text(chain, 16, generator)
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        schedule.step()
    return loss(model, text(chain, 128, torch.Generator().manual_seed(999)))


@torch.no_grad()
def loss(model: nn.Module, tokens: Tensor) -> float:
    """Mean cross entropy of the next token, in nats."""
    return model(input_ids=tokens, labels=tokens).loss.item()
