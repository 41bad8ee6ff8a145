"""Append-only records of training runs: one JSON object a line.

A run is identified by a digest of everything that decides its result: the configuration, the
versions of the libraries that compute it and the source code of this project. A record of an
older recipe therefore has another id, stays in the file, and is never mixed in with newer ones.
"""

import functools
import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, Protocol, TypeVar

# What computes a run's numbers; the rest (plots, tables) may change without training again.
_LIBRARIES = ("torch", "pytorch-optimizer", "scikit-learn", "lightning-fabric", "tokenizers")
_LAB_SOURCES = ("train.py", "optimizers/*.py", "tasks/*.py", "models/*.py", "data/*.py")


class _Json(Protocol):
    def to_json(self) -> str: ...


R = TypeVar("R", bound=_Json)


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


class JsonLines(Generic[R]):
    """Records in one file, a line each, by their id. Later records of the same run win.

    A line that cannot be read, such as the last one of a process that was killed while writing, is
    passed over and counted in `unreadable`: its run counts as not done.

    Args:
        path: the file; its folder is made when something is written.
        parse: a line -> a record, or ValueError, TypeError, KeyError or AttributeError.
        identify: a record -> the id of its run.
    """

    def __init__(self, path: Path, parse: Callable[[str], R], identify: Callable[[R], str]) -> None:
        self.path = path
        self.records: dict[str, R] = {}
        self.unreadable = 0
        self._identify = identify
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                record = parse(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                self.unreadable += 1
            else:
                self.records[identify(record)] = record

    def append(self, record: R) -> None:
        """Write one record to the end of the file, on the disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            # A line cut short by a kill must not swallow the record that follows it.
            if file.tell() and not self._ends_with_newline(file):
                file.write(b"\n")
            file.write(record.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records[self._identify(record)] = record

    @staticmethod
    def _ends_with_newline(file: BinaryIO) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


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


def finite(value: Any) -> Any:
    """Return a structure of JSON with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@functools.cache
def software() -> Mapping[str, str]:
    """Return the versions of what computes a run, and a digest of this project's own code."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "missing"
    return versions | {"code": _code_digest()}


def _code_digest() -> str:
    here = Path(__file__).parent
    sources = [path for pattern in _LAB_SOURCES for path in sorted(here.glob(pattern))]
    library = find_spec("nero")
    if library is not None and library.origin is not None:
        sources += sorted(Path(library.origin).parent.rglob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def environment() -> Mapping[str, Any]:
    """Return what the numbers' last bits and the times may depend on."""
    return {
        "python": platform.python_version(),
        "torch": software()["torch"],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }


@functools.cache
def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" after it where files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
