"""The grid of the study: which networks are trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from nero_lab.experiments.run import Run, plan_run
from nero_lab.experiments.task import Variant
from nero_lab.tasks.even_odd import CPU, NERO_OPTIONS, TINY, EvenOdd

AXES = ("depth", "width", "noise", "scale", "batch", "lr")
"""the hyperparameters; the seed is none"""


@dataclass(frozen=True)
class Grid:
    """The values of every hyperparameter; a network for each combination and seed."""

    depth: Sequence[int]
    width: Sequence[int]
    noise: Sequence[float]
    scale: Sequence[float]
    batch: Sequence[int]
    lr: Sequence[float]
    seeds: Sequence[int]
    tiny: bool = False

    def runs(self) -> list[Run]:
        """Return every run, on data not looked for yet, seed after seed."""
        task, base = EvenOdd(), TINY if self.tiny else CPU
        runs = []
        for seed, noise, scale, batch in product(self.seeds, self.noise, self.scale, self.batch):
            preset = replace(
                base,
                name=f"noise {noise:g}, scale {scale:g}, batch {batch}",
                batch_size=batch,
                data={**base.data, "label_noise": noise},
                loss={"scale": scale},
            )
            for depth, width, lr in product(self.depth, self.width, self.lr):
                variant = Variant(
                    f"{depth} x {width}",
                    f"Nero, {depth} layers of width {width}",
                    "nero",
                    optimizer_options=NERO_OPTIONS,
                    model={"depth": depth, "width": width},
                )
                runs.append(plan_run(task, preset, variant, lr, seed))
        return runs


WHOLE = Grid(
    depth=(2, 4),
    width=(128, 512),
    noise=(0.0, 0.2, 0.5),
    scale=(0.1, 1.0, 10.0),
    batch=(50, 500),
    lr=(0.003, 0.01),
    seeds=(0, 1, 2),
)
QUICK = Grid(
    depth=(2,),
    width=(16, 32),
    noise=(0.0, 0.5),
    scale=(0.1, 1.0),
    batch=(50,),
    lr=(0.003, 0.01),
    seeds=(0, 1),
    tiny=True,
)
"""far too small to conclude anything"""


def setting(run: Run) -> dict[str, Any]:
    """Return the hyperparameters of a run, by AXES, and its seed."""
    return {
        "depth": run.model["depth"],
        "width": run.model["width"],
        "noise": run.data["label_noise"],
        "scale": run.loss["scale"],
        "batch": run.batch_size,
        "lr": run.lr,
        "seed": run.seed,
    }
