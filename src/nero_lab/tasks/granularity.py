"""The paper's figure 2: updates relative to a neuron, a layer or a synapse, balanced and not."""

from dataclasses import replace
from typing import ClassVar

from nero_lab.experiments.task import Variant
from nero_lab.tasks import cifar
from nero_lab.tasks.ablation import CPU_GRID, GRID

_OPTIMIZERS = (
    ("nero-none", "per neuron (Nero), free"),
    ("lamb", "per layer (LAMB), free"),
    ("madam", "per synapse (Madam), free"),
    ("nero", "per neuron (Nero), balanced"),
    ("lamb-balanced", "per layer (LAMB), balanced"),
    ("madam-balanced", "per synapse (Madam), balanced"),
)


def _variants(grid: tuple[float, ...]) -> tuple[Variant, ...]:
    return tuple(Variant(name, label, name, grid) for name, label in _OPTIMIZERS)


def _with_library_rates(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Let LAMB try its library's own learning rate too, which the paper's grid leaves out."""
    return tuple(
        replace(variant, lr_grid=(1e-3, *(variant.lr_grid or ())))
        if "lamb" in variant.name
        else variant
        for variant in variants
    )


PAPER = replace(cifar.PAPER, variants=_variants(GRID), model={"network": "vgg11"})
CPU = replace(
    cifar.VGG11_CPU,
    variants=_with_library_rates(_variants(CPU_GRID)),
)
TINY = replace(cifar.TINY, variants=_variants((0.01,)))


class Granularity(cifar.Cifar):
    """Classify CIFAR-10 with a VGG-11 under relative updates of three granularities."""

    name = "granularity"
    figure = "2"
    title = "Updates per neuron, layer and synapse: VGG-11 on CIFAR-10"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}
