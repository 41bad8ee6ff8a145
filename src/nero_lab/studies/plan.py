"""Which runs a study needs, and which learning rate each of its arms ends up with.

Every learning rate of an arm's grid is trained on every seed. The best one has the best mean
validation metric; a rate at which a seed diverged counts below all others. No choice looks at the
test part.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from nero_lab.records.old import RunConfig, RunRecord, RunResult
from nero_lab.sweeps.progress import FindRecord
from nero_lab.sweeps.selection import best_lr
from nero_lab.tasks import TASKS, TaskInfo


@dataclass(frozen=True)
class Arm:
    """One row of a table: an option, trained over its learning rates and all seeds."""

    varies: str
    """what the option is an option of, such as "head" """
    label: str
    template: RunConfig
    """its runs, but for learning rate, seed and starting weights"""
    lrs: tuple[float, ...]
    default_lr: float
    pretraining: RunConfig | None = None
    """the run that its weights come from, but for the seed, which is the arm's own"""
    on_source: RunConfig | None = None
    """a run of no steps on what the weights were trained on: what building the optimiser does"""

    def config(self, lr: float, seed: int) -> RunConfig:
        """Return one run."""
        return replace(self._started(self.template, seed), lr=lr)

    def pretraining_config(self, seed: int) -> RunConfig | None:
        """Return the run whose weights a seed starts from."""
        return None if self.pretraining is None else replace(self.pretraining, seed=seed)

    def source_config(self, seed: int) -> RunConfig | None:
        """Return the run of no steps on the source."""
        return None if self.on_source is None else self._started(self.on_source, seed)

    def _started(self, config: RunConfig, seed: int) -> RunConfig:
        pretraining = self.pretraining_config(seed)
        return replace(
            config, seed=seed, start_from=None if pretraining is None else pretraining.run_id
        )


@dataclass(frozen=True)
class Case:
    """One task of a study, with the arms that are compared on it."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]
    """what the table must say besides what the runs' configurations do"""
    reference: str = ""
    """label of the arm against which the table sets the others' test metric, rate by rate"""

    @property
    def task(self) -> TaskInfo:
        """Return the row of the task."""
        return TASKS[self.arms[0].template.task]


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it."""

    name: str
    title: str
    cases: tuple[Case, ...]
    seeds: tuple[int, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    """about how long a step of each task takes, for the progress bar"""
    left_out: str = ""
    """what a smaller version does without, for the reader"""

    @cached_property
    def runs(self) -> dict[str, RunConfig]:
        """Return all runs by id, those that others start from first, then the costliest."""
        found: dict[str, RunConfig] = {}
        for arm, seed in self._arms_and_seeds():
            others = (arm.pretraining_config(seed), arm.source_config(seed))
            for config in (*others, *(arm.config(lr, seed) for lr in arm.lrs)):
                if config is not None:
                    found[config.run_id] = config
        return dict(
            sorted(found.items(), key=lambda item: (not item[1].save_weights, -self.cost(item[1])))
        )

    def _arms_and_seeds(self) -> Iterator[tuple[Arm, int]]:
        return ((arm, seed) for case in self.cases for arm in case.arms for seed in self.seeds)

    def pretraining(self) -> list[RunConfig]:
        """Return the runs whose weights others start from."""
        return [config for config in self.runs.values() if config.save_weights]

    def due(self, find: FindRecord) -> list[RunConfig]:
        """Return every run whose starting weights are there, trained or not."""
        return [
            config
            for config in self.runs.values()
            if config.start_from is None or find(self.runs[config.start_from]) is not None
        ]

    def remaining_at_most(self, find: FindRecord) -> list[float]:
        """Return the costs of all runs that are not recorded."""
        return [self.cost(config) for config in self.runs.values() if find(config) is None]

    def cost(self, config: RunConfig) -> float:
        """Return about how many seconds a run takes."""
        rows = config.data.get("train_size") or (
            config.data["train_tokens"] / config.data["context"]
            if "train_tokens" in config.data
            else 1250
        )
        return 1 + self.seconds.get(config.task, 0.01) * config.epochs * rows / config.batch_size

    def records_at(self, arm: Arm, lr: float, find: FindRecord) -> list[RunRecord]:
        """Return the records of an arm at a learning rate, in the order of the seeds."""
        found = (find(arm.config(lr, seed)) for seed in self.seeds)
        return [record for record in found if record is not None]

    def best_lr(self, case: Case, arm: Arm, find: FindRecord) -> float | None:
        """Return the rate with the best mean validation metric, None while some are not trained.

        Among equals, and where no rate gets through on every seed, the default wins.
        """
        outcomes: dict[float, list[RunResult]] = {}
        for lr in arm.lrs:
            outcomes[lr] = [record.result for record in self.records_at(arm, lr, find)]
            if len(outcomes[lr]) < len(self.seeds):
                return None
        return best_lr(outcomes, case.task.metric, favoured=arm.default_lr)
