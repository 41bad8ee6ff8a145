"""The tables of a report, as cells: the page and the console show the same."""

from collections.abc import Iterator
from dataclasses import dataclass

from nero_lab.bench.contestants import ADAMW, FLOOR
from nero_lab.bench.results import Report, Row, Table, TrainingRow, backward_ratio

NOTHING = "–"


@dataclass(frozen=True)
class Cells:
    """A table as text, with what is said below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def target_grid(report: Report) -> Cells:
    """Return the targets, and which of them hold."""
    rows = tuple(
        (
            str(each["label"]),
            str(each["dtype"]),
            str(each["what"]),
            number(each["value"]),
            str(each["limit"]),
            str(each["verdict"]),
        )
        for each in report.targets
    )
    headings = ("workload", "dtype", "figure", "measured", "target", "verdict")
    return Cells("Targets", headings, rows)


def step_grid(table: Table) -> Cells:
    """Return one workload's steps."""
    headings = (
        "optimiser",
        "ms (quartiles)",
        "/ AdamW fused",
        "/ add_",
        "rounds",
        "state, bytes",
        "state / weights",
        "extra at the peak",
    )
    weights = table.entries * {"float32": 4, "bfloat16": 2}[table.dtype]
    rows = tuple(_step_cells(table, row, weights) for row in table.rows if not row.skipped)
    whose = "its own weights" if table.own_weights else "the same weights, for want of memory"
    notes = [
        f"{table.tensors:,} tensors, {table.entries:,} parameters, {bytes_text(weights)} of "
        f"weights; each optimiser stepped {whose}."
    ]
    notes += [f"{row.label}: {row.skipped}." for row in table.rows if row.skipped]
    notes += [f"{row.label}: {row.note}." for row in table.rows if row.note]
    notes += [
        f"{row.label}: its first step, which compiles, took {row.compile_seconds:.0f} s."
        for row in table.rows
        if row.compile_seconds is not None
    ]
    return Cells(f"{table.label}, {table.dtype}", headings, rows, tuple(notes))


def cuda_step_grid(table: Table) -> Cells:
    """Return one workload's steps on a GPU."""
    headings = (
        "optimiser",
        "device, ms (quartiles)",
        "/ AdamW fused",
        "/ add_",
        "alone, ms",
        "alone / AdamW fused",
        "Python, ms",
        "rounds",
        "state, bytes",
        "extra at the peak",
    )
    steps = step_grid(table)
    rows = []
    for row, cells in zip((r for r in table.rows if not r.skipped), steps.rows, strict=True):
        alone = number(table.ratio(row.key, ADAMW, alone=True))
        times = (_ms(row.alone_seconds), alone, _ms(row.host_seconds))
        rows.append((*cells[:4], *times, *cells[4:6], cells[7]))
    return Cells(steps.title, headings, tuple(rows), steps.notes)


def compact_grid(table: Table) -> Cells:
    """Return one workload's steps on a GPU in few characters."""
    headings = ("ms", "/adamw", "/add_", "alone", "/adamw", "host", "rounds", "peak")
    rows = tuple(
        (
            row.key + ("*" if row.note else ""),
            _ms(row.seconds),
            number(table.ratio(row.key, ADAMW)),
            number(table.ratio(row.key, FLOOR)),
            _ms(row.alone_seconds),
            number(table.ratio(row.key, ADAMW, alone=True)),
            _ms(row.host_seconds),
            str(row.rounds),
            bytes_text(row.extra_bytes),
        )
        for row in table.rows
        if not row.skipped
    )
    notes = [f"{row.key}: {row.skipped}"[:200] for row in table.rows if row.skipped]
    if any(row.note for row in table.rows):
        notes.append("* the device's time has time of Python's in it")
    notes += [
        f"{row.key}: compiled in {row.compile_seconds:.0f} s"
        for row in table.rows
        if row.compile_seconds is not None
    ]
    return Cells(f"{table.label}, {table.dtype}", ("", *headings), rows, tuple(notes))


def _ms(seconds: float | None) -> str:
    return NOTHING if seconds is None else milliseconds(seconds)


def _step_cells(table: Table, row: Row, weights: int) -> tuple[str, ...]:
    low, high = row.quartiles or (0.0, 0.0)
    assert row.seconds is not None
    assert row.state_bytes is not None
    return (
        row.label,
        f"{milliseconds(row.seconds)} ({milliseconds(low)}-{milliseconds(high)})",
        number(table.ratio(row.key, ADAMW)),
        number(table.ratio(row.key, FLOOR)),
        str(row.rounds),
        f"{row.state_bytes:,}",
        f"{row.state_bytes / weights:.4f}",
        bytes_text(row.extra_bytes),
    )


def training_grid(rows: tuple[TrainingRow, ...]) -> Cells:
    """Return whole training steps."""
    headings = (
        "model",
        "optimiser",
        "forward, ms",
        "backward, ms",
        "step, ms",
        "step's share",
        "backward / with SGD",
    )
    cells = tuple(
        (
            row.label,
            row.optimizer_label,
            *map(milliseconds, (row.forward, row.backward, row.step)),
            f"{row.share:.1%}",
            number(backward_ratio(rows, row, "sgd")),
        )
        for row in rows
    )
    return Cells("Training steps", headings, cells)


def all_grids(report: Report) -> Iterator[Cells]:
    """Yield every table that the report has figures for."""
    if report.targets:
        yield target_grid(report)
    yield from map(step_grid, report.tables)
    if report.training:
        yield training_grid(report.training)


def number(value: object) -> str:
    """Return a ratio in three digits."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else NOTHING


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds, to a hundredth or three digits."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def bytes_text(count: int | None) -> str:
    """Return bytes in the unit that suits them."""
    if count is None:
        return NOTHING
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return (
                f"{count / size:.3g} {unit}"
                if count < 1000 * size
                else f"{count / size:,.0f} {unit}"
            )
    return f"{count} B"
