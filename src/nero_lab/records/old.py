"""Append-only records of training runs: one JSON object a line.

A run is identified by a digest of everything that decides its result: the configuration, the
versions of the libraries that compute it and the source code of this project. A record of an
older recipe therefore has another id, stays in the file, and is never mixed in with newer ones.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nero_lab.records.environment import commit, environment, software
from nero_lab.records.lines import JsonLines, finite

# What computes a run's numbers; the rest (plots, tables) may change without training again.
_LIBRARIES = ("torch", "pytorch-optimizer", "scikit-learn", "lightning-fabric", "tokenizers")
_LAB_SOURCES = ("train.py", "optimizers/*.py", "tasks/*.py", "models/*.py", "data/*.py")


@dataclass(frozen=True)
class RunConfig:
    """All that decides the result of one run."""

    task: str
    optimizer: str
    lr: float
    seed: int
    epochs: int
    batch_size: int
    lr_decay: float | Literal["linear"]
    """factor on the learning rate from one epoch to the next, or "linear": in a straight line over
    the steps, to zero after the last one"""
    warmup_epochs: float
    model: Mapping[str, Any]
    """the arguments of the task's model"""
    data: Mapping[str, Any] = field(default_factory=dict)
    """the arguments of the task's data, the digest of its files among them"""
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] | None = None
    """the arguments of `nero.param_groups` besides the model; None: one group of all parameters"""
    start_from: str | None = None
    """the run whose final weights this one starts from; None: fresh weights"""
    fresh: tuple[str, ...] = ()
    """with `start_from`, the modules that keep their own fresh weights, such as a new head"""
    save_weights: bool = False
    """whether the final weights are kept, for other runs to start from"""
    software: Mapping[str, str] = field(default_factory=lambda: software())
    folders: Mapping[str, str] = field(default_factory=dict)
    """where data and weights lie: no part of what identifies the run, since `data` and
    `start_from` say what is in them"""

    @property
    def run_id(self) -> str:
        """Return the digest that identifies the run."""
        identity = asdict(self)
        del identity["folders"]
        canonical = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """Return the run's name for people: "digits-mlp (depth 50), adam lr 0.001 seed 0"."""
        model = ", ".join(f"{key} {value}" for key, value in self.model.items())
        return f"{self.task} ({model}), {self.optimizer} lr {self.lr:g} seed {self.seed}"


@dataclass(frozen=True)
class RunResult:
    """What a run measured, by the metric of its task; an accuracy is a fraction from 0 to 1."""

    status: Literal["finished", "diverged"]
    """"diverged": the loss stopped being finite, and the run stopped there"""
    steps: int
    seconds: float
    train_metric: float
    val_metric: float
    test_metric: float
    curves: Mapping[str, list[float | None]]
    """per epoch: train_loss, train_metric (running, during the epoch), val_metric"""
    start_metric: float | None = None
    """on the validation part, once the optimiser was built and before its first step"""

    @property
    def usable(self) -> bool:
        """Return whether the run got to its end with a number for its validation metric."""
        # A record on the disk has null where the number was not finite.
        value: float | None = self.val_metric
        return self.status == "finished" and value is not None and math.isfinite(value)


@dataclass(frozen=True)
class RunRecord:
    """One finished run, where it ran, and from which commit."""

    config: RunConfig
    result: RunResult
    environment: Mapping[str, Any] = field(default_factory=lambda: environment())
    commit: str | None = field(default_factory=lambda: commit())
    recorded_at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    def to_json(self) -> str:
        """Return the record as one line of strict JSON; a number that is not finite is null."""
        whole = finite({"run": self.config.run_id, **asdict(self)})
        return json.dumps(whole, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "RunRecord":
        """Return the record in a line, or raise ValueError, TypeError or KeyError."""
        fields = json.loads(line)
        run_id = fields.pop("run")
        record = cls(
            **(
                fields
                | {
                    "config": _config_from_json(fields["config"]),
                    "result": RunResult(**fields["result"]),
                }
            )
        )
        if record.config.run_id != run_id:
            raise ValueError(f"record {run_id} holds the configuration of another run")
        return record


class RecordStore(JsonLines[RunRecord]):
    """The records of a demo or study, in one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, RunRecord.from_json, lambda record: record.config.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)

    def get(self, config: RunConfig) -> RunRecord | None:
        """Return the record of exactly this run, if there is one."""
        return self.records.get(config.run_id)


def _config_from_json(fields: Mapping[str, Any]) -> RunConfig:
    return RunConfig(**{**fields, "fresh": tuple(fields["fresh"])})
