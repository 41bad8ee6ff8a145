"""The sets of tensors that a step is measured on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Shape = tuple[int, ...]

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Workload:
    """The tensors of one model, neurons on the first axis of each."""

    key: str
    label: str
    shapes: tuple[Shape, ...]
    hidden: tuple[int, ...] = ()
    """which of them are matrices of hidden layers, filters too, neither embedding nor head"""
    conv1d: bool = False
    """whether Hugging Face stores the hidden matrices as (in, out)"""

    @property
    def entries(self) -> int:
        """Return the number of parameters."""
        return sum(map(math.prod, self.shapes))


def gpt2(width: int, vocabulary: int, context: int, blocks: int) -> Workload:
    """Return the tensors of GPT-2, its head tied to its embedding."""
    shapes: list[Shape] = [(vocabulary, width), (context, width)]
    hidden = []
    for _ in range(blocks):
        for fan_in, fan_out in [(1, 3), (1, 1), (1, 4), (4, 1)]:
            hidden.append(len(shapes))
            shapes += [(fan_out * width, fan_in * width), (fan_out * width,)]
        shapes += [(width,)] * 4  # two LayerNorms
    shapes += [(width,)] * 2
    label = "GPT-2 124M" if width == 768 else f"GPT-2 of width {width}"
    return Workload("gpt2", label, tuple(shapes), tuple(hidden), conv1d=True)


def resnet50(divisor: int = 1) -> Workload:
    """Return the tensors of torchvision's ResNet-50, its channels divided."""
    from nero_lab.models.zoo import load_model

    shapes = tuple(
        tuple(max(1, size // divisor) for size in p.shape[:2]) + tuple(p.shape[2:])
        for p in load_model("resnet50").parameters()
    )
    label = "ResNet-50" if divisor == 1 else f"ResNet-50, channels / {divisor}"
    hidden = tuple(index for index, shape in enumerate(shapes) if len(shape) == 4)
    return Workload("resnet50", label, shapes, hidden)


def llama(width: int, middle: int, vocabulary: int, blocks: int) -> Workload:
    """Return the tensors of a decoder in Llama's manner: gated perceptrons, no biases."""
    shapes: list[Shape] = [(vocabulary, width)]
    hidden = []
    for _ in range(blocks):
        hidden += range(len(shapes), len(shapes) + 7)
        shapes += [(width, width)] * 4 + [(middle, width)] * 2 + [(width, middle)]
        shapes += [(width,)] * 2  # two RMSNorms
    shapes += [(width,), (vocabulary, width)]
    entries = sum(map(math.prod, shapes))
    label = f"Llama of {entries / 1e9:.2f} billion" if width == 2048 else f"Llama of width {width}"
    return Workload("billion", label, tuple(shapes), tuple(hidden))


def small(layers: int) -> Workload:
    """Return the weights and biases of many layers of width 64."""
    shapes = ((64, 64), (64,)) * layers
    label = f"{2 * layers:,} small tensors"
    return Workload("small", label, shapes, tuple(range(0, 2 * layers, 2)))


def matrix(size: int) -> Workload:
    """Return one square matrix."""
    return Workload("matrix", f"one {size} x {size} matrix", ((size, size),), (0,))


FULL: Mapping[str, Callable[[], Workload]] = {
    "gpt2": lambda: gpt2(768, 50257, 1024, 12),
    "resnet50": resnet50,
    "small": lambda: small(1000),
    "matrix": lambda: matrix(4096),
}
QUICK: Mapping[str, Callable[[], Workload]] = {
    "gpt2": lambda: gpt2(32, 97, 16, 2),
    "resnet50": lambda: resnet50(16),
    "small": lambda: small(20),
    "matrix": lambda: matrix(128),
}
CUDA_FULL: Mapping[str, Callable[[], Workload]] = {
    "gpt2": FULL["gpt2"],
    "billion": lambda: llama(2048, 5632, 32000, 17),
    "resnet50": FULL["resnet50"],
    "small": FULL["small"],
}
CUDA_QUICK: Mapping[str, Callable[[], Workload]] = {
    "gpt2": QUICK["gpt2"],
    "billion": lambda: llama(32, 88, 97, 2),
    "resnet50": QUICK["resnet50"],
    "small": QUICK["small"],
}
