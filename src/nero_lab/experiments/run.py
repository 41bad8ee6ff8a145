"""A run of a task: what identifies it, and what it measured.

A run is identified by its configuration alone: task and recipe number, the settings of preset and
variant, optimiser, learning rate, seed, data set and precision. Versions, commit and machine are
recorded beside the result and identify nothing: records outlive changes of code that do not change
what a run computes, and a change that does raises the task's `recipe` by hand.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from nero_lab.data.found import FoundData
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Preset, Start, Task, Variant
from nero_lab.optimizers import OptimizerSpec, find_optimizer


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
    start: Mapping[str, Any] | None = None
    """"run": the plan_id of the run whose final weights it starts from; "fresh": the modules that
    keep fresh weights all the same. None: all weights are fresh"""
    preset: str = ""
    """which preset and variant it belongs to, for people: no part of what identifies it"""
    variant: str = ""

    # Kept, as looking up a record compares those of all records of a task.
    @cached_property
    def run_id(self) -> str:
        """Return the digest that identifies the run."""
        return self._digest("preset", "variant")

    @cached_property
    def plan_id(self) -> str:
        """Return the digest of all but the data set."""
        return self._digest("preset", "variant", "data_name", "data_digest")

    def _digest(self, *omitted: str) -> str:
        if self.start is None:  # as in records that are older than this field
            omitted = (*omitted, "start")
        identity = {key: value for key, value in asdict(self).items() if key not in omitted}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def on(self, found: FoundData) -> "Run":
        """Return the run on a data set that was found."""
        return replace(self, data_name=found.name, data_digest=found.digest)

    def check_data(self, found: FoundData) -> None:
        """Refuse data other than those that the run is on.

        Raises:
            ValueError: they are others.
        """
        if (found.name, found.digest) != (self.data_name, self.data_digest):
            raise ValueError(
                f"{self} asks for {self.data_name} ({self.data_digest}), and there is {found.name} "
                f"({found.digest})"
            )

    def __str__(self) -> str:
        """Return the run's name for people: "deep-mlp cpu, adam-kaiming lr 0.001 seed 0"."""
        return f"{self.task} {self.preset}, {self.variant or self.optimizer} lr {self.lr:g} " + (
            f"seed {self.seed}"
        )


def find_variant(preset: Preset, name: str) -> Variant:
    """Return the preset's variant of that name, or else one for an optimiser that it does not have.

    Args:
        preset: for its variants.
        name: of a variant, of an optimiser in the table, or an optimiser's import path.

    Raises:
        ValueError: it is neither.
    """
    for variant in preset.variants:
        if variant.name == name:
            return variant
    try:
        return Variant(name, find_optimizer(name).label, name)
    except ValueError as error:
        variants = ", ".join(variant.name for variant in preset.variants)
        raise ValueError(f"{error}; or a variant of preset {preset.name}: {variants}") from None


def variant_spec(variant: Variant) -> OptimizerSpec:
    """Return the row of a variant's optimiser, with the variant's own values where it has some."""
    spec = find_optimizer(variant.optimizer)
    return replace(
        spec,
        options={**spec.options, **variant.optimizer_options},
        lr_grid=spec.lr_grid if variant.lr_grid is None else variant.lr_grid,
        default_lr=spec.default_lr if variant.default_lr is None else variant.default_lr,
    )


def plan_run(task: Task, preset: Preset, variant: Variant, lr: float, seed: int) -> Run:
    """Return a run of a variant, on data not looked for yet (see `Run.on`)."""
    spec = variant_spec(variant)
    groups = preset.groups if variant.groups is None else variant.groups
    schedule = preset.schedule
    if not spec.follows_schedule:
        schedule = Schedule(warmup_epochs=schedule.warmup_epochs)
    return Run(
        task=task.name,
        recipe=task.recipe,
        optimizer=variant.optimizer,
        optimizer_options=dict(spec.options),
        lr=lr,
        seed=seed,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        schedule=_plain(asdict(schedule)),
        warmup_epochs=0.0 if schedule.warmup_epochs else spec.warmup * preset.epochs,
        model=_plain({**preset.model, **variant.model}),
        data=_plain(preset.data),
        loss=_plain(preset.loss),
        groups=_plain(groups) if groups is not None and spec.by_neuron else None,
        clip_norm=preset.clip_norm,
        eval_every=preset.eval_every,
        precision=preset.precision,
        start=None if preset.start is None else _start(task, preset.start, seed),
        preset=preset.name,
        variant=variant.name,
    )


def _start(task: Task, start: Start, seed: int) -> dict[str, Any]:
    (variant,) = start.preset.variants
    source = plan_run(task, start.preset, variant, variant_spec(variant).default_lr, seed)
    return {"run": source.plan_id, "fresh": list(start.fresh)}


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
    layers: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """of a run that was watched, columns of equal length, a row for each report: "step", and the
    keys of `nero.telemetry.Watch.report`, such as "angle/mean/0.weight" """

    def metric(self, split: str, name: str) -> float | None:
        """Return a final metric, None where it is not there or not finite."""
        return self.metrics.get(split, {}).get(name)
