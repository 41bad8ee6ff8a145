"""Which runs a comparison needs, and which learning rate each of its optimisers ends up with.

Every optimiser tries its grid on the first seed. The rate with the best validation accuracy there
and the out-of-the-box rate are then trained on the other seeds too, and the better of these two by
validation accuracy over all seeds is its best one. Where no rate gets beyond chance there is
nothing to choose, and the out-of-the-box rate stays. No choice looks at the test images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nero_lab.optimizers import OPTIMIZERS, OptimizerSpec
from nero_lab.records.old import RunConfig, RunRecord, RunResult
from nero_lab.sweeps.selection import best_lr
from nero_lab.tasks import ACCURACY

FindRecord = Callable[[RunConfig], RunRecord | None]

CHANCE = 0.1
"""Accuracy of guessing among ten digits."""
LEARNED = 0.15
"""Validation accuracy from which on a run counts as having learned anything: chance and a bit more
than twice the standard error of chance on the 187 validation images."""


@dataclass(frozen=True)
class Schedule:
    """How long the networks of one depth train."""

    epochs: int
    lr_decay: float
    """factor on the learning rate from one epoch to the next"""


@dataclass(frozen=True)
class Arm:
    """One row of the comparison: an optimiser, on a depth, from some initial weights."""

    depth: int
    optimizer: str
    init: str

    @property
    def spec(self) -> OptimizerSpec:
        """Return the optimiser's row in the table of optimisers."""
        return OPTIMIZERS[self.optimizer]

    @property
    def label(self) -> str:
        """Return the optimiser's name, with its initial weights where those are not default."""
        return self.spec.label if self.init == "default" else f"{self.spec.label} ({self.init})"


@dataclass(frozen=True)
class Preset:
    """How large a comparison is. All optimisers of a depth get the same steps and schedule."""

    name: str
    schedules: Mapping[int, Schedule]
    """by depth"""
    seeds: tuple[int, ...]
    batch_size: int
    width: int = 64
    split_seed: int = 0
    arms: tuple[tuple[str, str], ...] = (
        ("nero", "default"),
        ("sgd", "default"),
        ("adam", "default"),
        ("lamb", "default"),
        ("sgd", "kaiming"),
        ("adam", "kaiming"),
    )
    """(optimiser, initial weights), in the order of the table"""
    lr_grids: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """by optimiser, instead of the grid in the table of optimisers"""
    left_out: str = ""
    """what a smaller preset does without, for the reader"""

    @property
    def depths(self) -> tuple[int, ...]:
        """Return the depths, in the order of the table."""
        return tuple(self.schedules)


class Plan:
    """The runs of a preset; those that depend on the results of others appear once these are in."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.arms = [
            Arm(depth, optimizer, init)
            for depth in preset.depths
            for optimizer, init in preset.arms
        ]

    def lr_grid(self, arm: Arm) -> tuple[float, ...]:
        """Return the learning rates that an arm tries."""
        return self.preset.lr_grids.get(arm.optimizer, arm.spec.lr_grid)

    def config(self, arm: Arm, lr: float, seed: int) -> RunConfig:
        """Return one run."""
        preset, schedule = self.preset, self.preset.schedules[arm.depth]
        return RunConfig(
            task="digits-mlp",
            optimizer=arm.optimizer,
            lr=lr,
            seed=seed,
            epochs=schedule.epochs,
            batch_size=preset.batch_size,
            lr_decay=schedule.lr_decay,
            warmup_epochs=round(arm.spec.warmup * schedule.epochs),
            model={"depth": arm.depth, "width": preset.width, "init": arm.init},
            data={"split_seed": preset.split_seed},
            optimizer_options=dict(arm.spec.options),
        )

    def shortlisted_lr(self, arm: Arm, find: FindRecord) -> float | None:
        """Return the first seed's best rate on validation, None while some are not trained.

        A rate at which the run diverged counts below all others. Among equals, and where no rate
        gets beyond chance, the out-of-the-box rate wins, and then the smaller one.
        """
        first_seed = self.preset.seeds[0]
        results: dict[float, list[RunResult]] = {}
        for lr in self.lr_grid(arm):
            record = find(self.config(arm, lr, first_seed))
            if record is None:
                return None
            results[lr] = [record.result]
        # Differences at chance are noise; choosing by them would only cost further runs.
        return best_lr(results, ACCURACY, favoured=arm.spec.default_lr, indifferent=LEARNED)

    def best_lr(self, arm: Arm, find: FindRecord) -> float | None:
        """Return the best rate: the shortlisted one, unless all seeds together prefer the default.

        None while the grid is not trained.
        """
        shortlisted = self.shortlisted_lr(arm, find)
        if shortlisted is None:
            return None
        results: dict[float, list[RunResult]] = {}
        for lr in self.chosen_lrs(arm, find):
            records = [find(self.config(arm, lr, seed)) for seed in self.preset.seeds]
            results[lr] = [record.result for record in records if record is not None]
            if len(results[lr]) < len(records):
                return shortlisted
        return best_lr(results, ACCURACY, favoured=shortlisted)

    def chosen_lrs(self, arm: Arm, find: FindRecord) -> list[float]:
        """Return the rates that are trained on every seed, as far as they are known."""
        shortlisted = self.shortlisted_lr(arm, find)
        return sorted({arm.spec.default_lr, *([] if shortlisted is None else [shortlisted])})

    def due(self, find: FindRecord) -> list[RunConfig]:
        """Return every run that is known to be needed, trained or not, the costliest first."""
        first_seed, *other_seeds = self.preset.seeds
        configs: dict[str, RunConfig] = {}
        for arm in self.arms:
            lrs = [(lr, first_seed) for lr in {*self.lr_grid(arm), arm.spec.default_lr}]
            lrs += [(lr, seed) for lr in self.chosen_lrs(arm, find) for seed in other_seeds]
            for lr, seed in lrs:
                config = self.config(arm, lr, seed)
                configs[config.run_id] = config
        # The costliest first, or the last process would train a deep network while others idle.
        return sorted(configs.values(), key=lambda run: (-self.cost(run), run.seed, run.lr))

    def undecided(self, find: FindRecord) -> list[Arm]:
        """Return the arms whose best rate is not known yet."""
        return [arm for arm in self.arms if self.best_lr(arm, find) is None]

    def remaining_at_most(self, find: FindRecord) -> list[float]:
        """Return the costs of all runs still to come, were every undecided best rate a new one."""
        costs = [self.cost(run) for run in self.due(find) if find(run) is None]
        for arm in self.undecided(find):
            run = self.config(arm, arm.spec.default_lr, self.preset.seeds[0])
            costs += [self.cost(run)] * (len(self.preset.seeds) - 1)
        return costs

    def cost(self, config: RunConfig) -> float:
        """Return what a run costs, in layers passed: proportional to its time."""
        return float(config.model["depth"] * config.epochs)
