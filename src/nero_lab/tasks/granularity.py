"""The paper's figure 2: updates relative to a neuron, a layer or a synapse, balanced and not."""

from dataclasses import replace
from typing import ClassVar

from nero_lab.tasks import cifar
from nero_lab.tasks.ablation import CPU_GRID, GRID
from nero_lab.tasks.base import Arm

_OPTIMIZERS = (
    ("nero-none", "per neuron (Nero), free"),
    ("lamb", "per layer (LAMB), free"),
    ("madam", "per synapse (Madam), free"),
    ("nero", "per neuron (Nero), balanced"),
    ("lamb-balanced", "per layer (LAMB), balanced"),
    ("madam-balanced", "per synapse (Madam), balanced"),
)


def _arms(grid: tuple[float, ...]) -> tuple[Arm, ...]:
    return tuple(Arm(name, label, name, grid) for name, label in _OPTIMIZERS)


def _with_library_rates(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """Let LAMB try its library's own learning rate too, which the paper's grid leaves out."""
    return tuple(
        replace(arm, lr_grid=(1e-3, *(arm.lr_grid or ()))) if "lamb" in arm.name else arm
        for arm in arms
    )


PAPER = replace(cifar.PAPER, arms=_arms(GRID), model={"network": "vgg11"})
CPU = replace(
    cifar.VGG11_CPU,
    arms=_with_library_rates(_arms(CPU_GRID)),
)
TINY = replace(cifar.TINY, arms=_arms((0.01,)))


class Granularity(cifar.Cifar):
    """Classify CIFAR-10 with a VGG-11 under relative updates of three granularities."""

    name = "granularity"
    figure = "2"
    title = "Updates per neuron, layer and synapse: VGG-11 on CIFAR-10"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}
