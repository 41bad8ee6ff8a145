"""What a benchmark found, and what follows from it by arithmetic."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nero_lab.records.lines import finite


@dataclass(frozen=True)
class Row:
    """What one contestant takes for one step of a workload."""

    key: str
    label: str
    skipped: str = ""
    """why there are no figures; empty where there are"""
    seconds: float | None = None
    """the median"""
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    turns: tuple[float | None, ...] = ()
    """the seconds of its step in each round of the workload, None where it sat out"""
    state_bytes: int | None = None
    torch_peak: int | None = None
    """the most that PyTorch allocated during a step"""
    resident_rise: int | None = None
    """the rise of the process's resident memory during a step"""
    host_seconds: float | None = None
    """on a GPU, how long Python takes for a step"""
    alone_seconds: float | None = None
    """on a GPU, from an idle device to an idle device"""
    alone_turns: tuple[float | None, ...] = ()
    compile_seconds: float | None = None
    """the first step of one that compiles"""
    note: str = ""
    """what to know of the figures"""

    @property
    def extra_bytes(self) -> int | None:
        """Return the larger of the two figures of memory at the peak of a step."""
        seen = [x for x in (self.torch_peak, self.resident_rise) if x is not None]
        return max(seen, default=None)


@dataclass(frozen=True)
class Table:
    """All contestants on one workload in one dtype."""

    workload: str
    label: str
    dtype: str
    tensors: int
    entries: int
    own_weights: bool
    """whether each contestant had its own weights, or all of them stepped the same ones"""
    rows: tuple[Row, ...]

    def row(self, key: str) -> Row | None:
        """Return a contestant's row."""
        return next((row for row in self.rows if row.key == key), None)

    def ratio(self, key: str, to: str, alone: bool = False) -> float | None:
        """Return one contestant's time as a multiple of another's, where both have one.

        On a GPU it is the device's time, or with `alone` that of a step from idle to idle.

        That is the median, over the rounds in which both stepped, of the ratio in one round: a
        machine whose speed changes between rounds changes both alike.
        """
        one, other = self.row(key), self.row(to)
        if one is None or other is None:
            return None
        ours, theirs = (row.alone_turns if alone else row.turns for row in (one, other))
        if not ours or not theirs:
            return None
        turns = zip(ours, theirs, strict=True)
        ratios = [a / b for a, b in turns if a is not None and b is not None]
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class TrainingRow:
    """What a step of training a model with one optimiser takes: medians of its parts."""

    model: str
    label: str
    entries: int
    optimizer: str
    optimizer_label: str
    steps: int
    forward: float
    backward: float
    step: float

    @property
    def share(self) -> float:
        """Return the optimiser's part of a training step's time."""
        return self.step / (self.forward + self.backward + self.step)


@dataclass(frozen=True)
class Report:
    """A whole benchmark."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    commit: str | None
    started: str
    command: str
    seconds: float = 0.0
    tables: tuple[Table, ...] = ()
    training: tuple[TrainingRow, ...] = ()
    targets: tuple[Mapping[str, Any], ...] = field(default=())
    """what `targets.verdicts` returns for the figures"""
    failures: tuple[str, ...] = ()
    """workloads that could not be measured, and why"""

    @property
    def device(self) -> str:
        """Return where it was measured: "cpu" or "cuda"."""
        return self.settings.get("device", "cpu")

    def table(self, workload: str, dtype: str) -> Table | None:
        """Return the table of a workload in a dtype."""
        found = (t for t in self.tables if (t.workload, t.dtype) == (workload, dtype))
        return next(found, None)

    def to_json(self) -> str:
        """Return everything as strict JSON."""
        return json.dumps(finite(asdict(self)), indent=1, allow_nan=False) + "\n"


def backward_ratio(rows: tuple[TrainingRow, ...], row: TrainingRow, to: str) -> float | None:
    """Return a row's backward pass as a multiple of that beside another optimiser."""
    for other in rows:
        if (other.model, other.optimizer) == (row.model, to):
            return row.backward / other.backward
    return None
