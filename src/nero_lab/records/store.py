"""Records of runs: one JSON object a line, one file for each task."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nero_lab.experiments.run import Result, Run
from nero_lab.records.environment import commit, environment
from nero_lab.records.lines import JsonLines, finite
from nero_lab.records.typed import check_types

CURVE_POINTS = 40
"""The most points of a curve, and the most reports on layers, that a record keeps."""


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
        """Return the record as one line of strict JSON, its columns cut to CURVE_POINTS."""
        result = replace(
            self.result, curves=_thinned(self.result.curves), layers=_thinned(self.result.layers)
        )
        fields = {"id": self.run.run_id, **asdict(replace(self, result=result))}
        fields["result"] = _rounded(fields["result"])
        return json.dumps(finite(fields), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Return the record in a line; one that holds none raises ValueError, TypeError or others.

        What `JsonLines` passes over: see there.
        """
        fields = json.loads(line)
        run_id = fields.pop("id")
        fields |= {"run": Run(**fields["run"]), "result": Result(**fields["result"])}
        record = cls(**fields)
        check_types(record)
        for columns in (record.result.curves, record.result.layers):
            lengths = {len(column) for column in columns.values()}
            if len(lengths) > 1:
                raise ValueError(f"record {run_id} has curves of different lengths: {lengths}")
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

    def reread(self, task: str) -> None:
        """Read the file of a task anew, for what other processes have added to it."""
        self._files.pop(task, None)

    def forget(self, run: Run) -> None:
        """Count a run as not recorded; its line stays in the file."""
        self._file(run.task).records.pop(run.run_id, None)

    def set_aside(self, task: str) -> Path | None:
        """Rename the file of a task, to a name that is free, and start anew; return its new name.

        None where there is no such file.
        """
        path = self.folder / f"{task}.jsonl"
        self._files.pop(task, None)
        if not path.exists():
            return None
        numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        return path.rename(next(name for name in numbered if not name.exists()))

    def append(self, record: Record) -> None:
        """Write a record to its file, on the disk before this returns."""
        self._file(record.run.task).append(record)

    def unreadable(self) -> Iterator[tuple[Path, int]]:
        """Yield the files read so far that have lines which cannot be read, and how many."""
        for file in self._files.values():
            if file.unreadable:
                yield file.path, file.unreadable
