"""The paper's figure 1: Nero with both of its constraints, with one, and with none."""

from dataclasses import replace
from typing import ClassVar

from nero_lab.experiments.task import Variant
from nero_lab.tasks import cifar

GRID = (0.01, 0.02, 0.04, 0.06, 0.08, 0.10)
# Some of the paper's rates, and one below them, since variants won at the lowest of those.
CPU_GRID = (0.003, 0.01, 0.02, 0.06, 0.10)
_CONSTRAINTS = (
    ("nero-none", "none"),
    ("nero-mean", "mean only"),
    ("nero-norm", "norm only"),
    ("nero", "both"),
)


def _variants(grid: tuple[float, ...]) -> tuple[Variant, ...]:
    return tuple(Variant(name, label, name, grid) for name, label in _CONSTRAINTS)


PAPER = replace(cifar.PAPER, variants=_variants(GRID), model={"network": "vgg11"})
CPU = replace(cifar.VGG11_CPU, variants=_variants(CPU_GRID))
TINY = replace(cifar.TINY, variants=_variants((0.01,)))


class Ablation(cifar.Cifar):
    """Classify CIFAR-10 with a VGG-11 under the four on-off combinations of the constraints."""

    name = "ablation"
    figure = "1"
    title = "Nero's two constraints, on and off: VGG-11 on CIFAR-10"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}
