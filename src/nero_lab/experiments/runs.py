"""A run of a task: what identifies it, what it measured, and the files that keep both.

What identifies a run is its configuration alone: task and recipe number, the settings of preset
and arm, optimiser, learning rate, seed, data set and precision. Versions, commit and machine are
recorded beside the result and identify nothing: records outlive changes of code that do not change
what a run computes, and a change that does raises the task's `recipe` by hand.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nero_lab.optimizers import OptimizerSpec, find_optimizer
from nero_lab.records.store import JsonLines, commit, environment, finite
from nero_lab.tasks.base import Arm, FoundData, Preset, Task
from nero_lab.tasks.schedule import Schedule

CURVE_POINTS = 40
"""The most points of a curve that a record keeps."""


@dataclass(frozen=True)
class Run:
    """All that decides the result of one run."""

    task: str
    recipe: int
    optimizer: str
    optimizer_options: Mapping[str, Any]
    lr: float
    seed: int
    epochs: int
    batch_size: int
    schedule: Mapping[str, Any]
    """the fields of the preset's `Schedule`; without its decay where an optimiser wants none"""
    warmup_epochs: float
    """customary for the optimiser, where the schedule has none"""
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    """options of `Task.load_data`"""
    loss: Mapping[str, Any]
    groups: Mapping[str, Any] | None = None
    clip_norm: float | None = None
    eval_every: int = 1
    precision: str = "32-true"
    data_name: str | None = None
    """the data set that it ran on, with `data_digest`; None: not looked for yet"""
    data_digest: str | None = None
    preset: str = ""
    """which preset and arm it belongs to, for people: no part of what identifies it"""
    arm: str = ""

    @property
    def run_id(self) -> str:
        """Return the digest that identifies the run."""
        return self._digest("preset", "arm")

    @property
    def plan_id(self) -> str:
        """Return the digest of all but the data set."""
        return self._digest("preset", "arm", "data_name", "data_digest")

    def _digest(self, *leave_out: str) -> str:
        identity = {key: value for key, value in asdict(self).items() if key not in leave_out}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def on(self, found: FoundData) -> "Run":
        """Return the run on a data set that was found."""
        return replace(self, data_name=found.name, data_digest=found.digest)

    def __str__(self) -> str:
        """Return the run's name for people: "deep-mlp cpu, adam-kaiming lr 0.001 seed 0"."""
        return f"{self.task} {self.preset}, {self.arm or self.optimizer} lr {self.lr:g} " + (
            f"seed {self.seed}"
        )


def find_arm(preset: Preset, name: str) -> Arm:
    """Return the preset's arm of that name, or else one for an optimiser that it does not have.

    Args:
        preset: for its arms.
        name: of an arm, of an optimiser in the table, or an optimiser's import path.

    Raises:
        ValueError: it is neither.
    """
    for arm in preset.arms:
        if arm.name == name:
            return arm
    try:
        return Arm(name, find_optimizer(name).label, name)
    except ValueError as error:
        arms = ", ".join(arm.name for arm in preset.arms)
        raise ValueError(f"{error}; or an arm of preset {preset.name}: {arms}") from None


def arm_spec(arm: Arm) -> OptimizerSpec:
    """Return the row of an arm's optimiser, with what the arm has instead of the row's values."""
    spec = find_optimizer(arm.optimizer)
    return replace(
        spec,
        options={**spec.options, **arm.optimizer_options},
        lr_grid=spec.lr_grid if arm.lr_grid is None else arm.lr_grid,
        default_lr=spec.default_lr if arm.default_lr is None else arm.default_lr,
    )


def plan_run(task: Task, preset: Preset, arm: Arm, lr: float, seed: int) -> Run:
    """Return a run of an arm, on data not looked for yet (see `Run.on`)."""
    spec = arm_spec(arm)
    groups = preset.groups if arm.groups is None else arm.groups
    schedule = preset.schedule
    if not spec.follows_schedule:
        schedule = Schedule(warmup_epochs=schedule.warmup_epochs)
    return Run(
        task=task.name,
        recipe=task.recipe,
        optimizer=arm.optimizer,
        optimizer_options=dict(spec.options),
        lr=lr,
        seed=seed,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        schedule=_plain(asdict(schedule)),
        warmup_epochs=0.0 if schedule.warmup_epochs else spec.warmup * preset.epochs,
        model=_plain({**preset.model, **arm.model}),
        data=_plain(preset.data),
        loss=_plain(preset.loss),
        groups=_plain(groups) if groups is not None and spec.by_neuron else None,
        clip_norm=preset.clip_norm,
        eval_every=preset.eval_every,
        preset=preset.name,
        arm=arm.name,
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as JSON gives them back, so that a run read is the run written."""
    return json.loads(json.dumps(options))


@dataclass(frozen=True)
class Result:
    """What a run measured."""

    status: Literal["finished", "diverged"]
    """"diverged": the loss was not finite or above the task's limit, and the run stopped there"""
    steps: int
    seconds: float
    """of training, without evaluation"""
    metrics: Mapping[str, Mapping[str, float | None]]
    """{"train": {"accuracy": ...}, "val": ..., "test": ...} at the end; None: not finite"""
    curves: Mapping[str, Sequence[float | None]]
    """columns of equal length, one row for each evaluation: "epoch" (finished so far), "step",
    "train_loss" and other "train_..." (running means since the row before), "val_..." for each
    metric of the task, or "test_..." where there is no validation part"""
    weights: str = ""
    """digest of the final weights: equal where two runs are equal bit for bit"""

    def metric(self, split: str, name: str) -> float | None:
        """Return a final metric, None where it is not there or not finite."""
        return self.metrics.get(split, {}).get(name)


@dataclass(frozen=True)
class Record:
    """A run, what it measured, where, and from which commit."""

    run: Run
    result: Result
    data_stands_in_for: str | None = None
    """the data set of the paper in whose place `run.data_name` was used"""
    environment: Mapping[str, Any] = field(default_factory=lambda: environment())
    commit: str | None = field(default_factory=lambda: commit())
    recorded_at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    def to_json(self) -> str:
        """Return the record as one line of strict JSON, its curves cut to CURVE_POINTS."""
        result = replace(self.result, curves=_thinned(self.result.curves))
        fields = {"id": self.run.run_id, **asdict(replace(self, result=result))}
        fields["result"] = _rounded(fields["result"])
        return json.dumps(finite(fields), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Return the record in a line, or raise ValueError, TypeError or KeyError."""
        fields = json.loads(line)
        run_id = fields.pop("id")
        fields |= {"run": Run(**fields["run"]), "result": Result(**fields["result"])}
        record = cls(**fields)
        if record.run.run_id != run_id:
            raise ValueError(f"record {run_id} holds the configuration of another run")
        return record


def _thinned(curves: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Return about evenly spaced rows of the curves, the last one among them."""
    rows = max((len(column) for column in curves.values()), default=0)
    if rows <= CURVE_POINTS:
        return {name: list(column) for name, column in curves.items()}
    kept = [round((index + 1) * rows / CURVE_POINTS) - 1 for index in range(CURVE_POINTS)]
    return {name: [column[row] for row in kept] for name, column in curves.items()}


def _rounded(value: Any) -> Any:
    """Return a structure with its floats cut to six significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


class Records:
    """The records in a folder, one JSONL file for each task.

    Reading asks for no data set: `get` of a run whose data set was not looked for finds it on
    whatever data it ran, the latest record first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, JsonLines[Record]] = {}

    def _file(self, task: str) -> JsonLines[Record]:
        if task not in self._files:
            path = self.folder / f"{task}.jsonl"
            self._files[task] = JsonLines(path, Record.from_json, lambda record: record.run.run_id)
        return self._files[task]

    def of_task(self, task: str) -> list[Record]:
        """Return every record of a task, in the order in which they were written."""
        return list(self._file(task).records.values())

    def get(self, run: Run) -> Record | None:
        """Return the record of exactly this run, on any data set where `run` names none."""
        if run.data_name is not None:
            return self._file(run.task).records.get(run.run_id)
        plan_id = run.plan_id
        matching = [record for record in self.of_task(run.task) if record.run.plan_id == plan_id]
        return matching[-1] if matching else None

    def append(self, record: Record) -> None:
        """Write a record to its file, on the disk before this returns."""
        self._file(record.run.task).append(record)

    def unreadable(self) -> Iterator[tuple[Path, int]]:
        """Yield the files read so far that have lines which cannot be read, and how many."""
        for file in self._files.values():
            if file.unreadable:
                yield file.path, file.unreadable
