"""The targets of the project, and whether the figures of one run reach them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from nero_lab.bench.contestants import ADAMW, FLOOR, MUON, NERO, ORTHOGONAL, RULE
from nero_lab.bench.results import Report, Table

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Target:
    """A figure of one table and the most that it may be."""

    workload: str
    dtype: str
    what: str
    limit: float
    strict: bool
    """whether the limit itself is too much"""
    measure: Callable[[Table], float | None]


@dataclass(frozen=True)
class Verdict:
    """A target beside the figure."""

    label: str
    dtype: str
    what: str
    limit: str
    value: float | None
    verdict: str


def _time(workload: str, dtype: str, to: str, label: str, limit: float) -> Target:
    def measure(table: Table) -> float | None:
        return table.ratio(NERO, to)

    return Target(workload, dtype, f"time, Nero / {label}", limit, False, measure)


def _orthogonal(table: Table) -> float | None:
    return table.ratio(ORTHOGONAL, MUON)


def _extra(table: Table) -> float | None:
    row = table.row(NERO)
    extra = None if row is None else row.extra_bytes
    return None if extra is None else extra / MEBIBYTE


def targets(device: str = "cpu") -> Iterator[Target]:
    """Yield the targets of a step on a device."""
    yield from _on_cuda() if device == "cuda" else _on_cpu()


def _on_cpu() -> Iterator[Target]:
    for workload, fused, floor in (("gpt2", 0.48, 1.15), ("resnet50", 0.55, 1.3)):
        yield _time(workload, "float32", ADAMW, "AdamW fused", fused)
        yield _time(workload, "float32", FLOOR, "add_", floor)
        yield _time(workload, "float32", RULE, "foreach=False", 0.12)
        yield _time(workload, "bfloat16", ADAMW, "AdamW fused", 0.5)
        what = "time, Nero orthogonal / Muon, hidden matrices"
        yield Target(workload, "float32", what, 1.25, False, _orthogonal)
    yield _time("small", "float32", ADAMW, "AdamW fused", 1.0)
    for workload in ("gpt2", "resnet50", "small", "matrix"):
        for dtype in ("float32", "bfloat16"):
            yield Target(workload, dtype, "MiB at the peak of a step", 1.0, True, _extra)


def _on_cuda() -> Iterator[Target]:
    for workload in ("gpt2", "billion", "resnet50"):
        for dtype in ("float32", "bfloat16"):
            limit = 0.55 if workload == "resnet50" else {"float32": 0.48, "bfloat16": 0.5}[dtype]
            yield _fused(workload, dtype, ADAMW, "AdamW fused", limit)
            if workload != "resnet50":
                if dtype == "float32":
                    yield _fused(workload, dtype, FLOOR, "add_", 1.15)
                what = "device time, Nero orthogonal / Muon, hidden matrices"
                yield Target(workload, dtype, what, 1.25, False, _orthogonal)
    for dtype in ("float32", "bfloat16"):
        yield _fused("small", dtype, ADAMW, "AdamW fused", 1.0, alone=True)


def _fused(
    workload: str, dtype: str, to: str, label: str, limit: float, alone: bool = False
) -> Target:
    def measure(table: Table) -> float | None:
        return table.ratio(NERO, to, alone)

    what = f"{'time alone' if alone else 'device time'}, Nero / {label}"
    return Target(workload, dtype, what, limit, False, measure)


def verdicts(report: Report) -> tuple[dict[str, object], ...]:
    """Return every target whose workload was measured, with the figure and whether it holds."""
    found = []
    for target in targets(report.device):
        table = report.table(target.workload, target.dtype)
        if table is None:
            continue
        value = target.measure(table)
        limit = f"{'<' if target.strict else '≤'} {target.limit:g}"
        found.append(
            asdict(
                Verdict(
                    table.label, target.dtype, target.what, limit, value, _verdict(target, value)
                )
            )
        )
    return tuple(found)


def _verdict(target: Target, value: float | None) -> str:
    if value is None:
        return "not measured"
    holds = value < target.limit if target.strict else value <= target.limit
    return "holds" if holds else "does not hold"
