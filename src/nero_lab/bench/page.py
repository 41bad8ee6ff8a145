"""The page docs/evidence/benchmarks.md, from a report."""

from collections.abc import Iterator
from pathlib import Path

from nero_lab.bench.grids import (
    Cells,
    bytes_text,
    step_grid,
    target_grid,
    training_grid,
)
from nero_lab.bench.picture import save_picture
from nero_lab.bench.results import Report

PICTURE = "assets/benchmarks.png"


def write_page(report: Report, out: Path) -> Path:
    """Write benchmarks.md and its picture into a directory, and return the page's path."""
    save_picture(report, out / PICTURE)
    page = out / "benchmarks.md"
    page.write_text(markdown(report), encoding="utf-8")
    return page


def markdown(report: Report) -> str:
    """Return the page."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield f"Written by `{report.command}`; every figure is of that one run."
    if report.settings["quick"]:
        yield "It was a quick run, of tiny tensors: **its figures mean nothing**."
    yield ""
    yield f"![Time of a step, and its share of training]({PICTURE})"
    yield ""
    yield from _how(report)
    if report.targets:
        yield from _grid(target_grid(report))
        yield from (_TARGETS, "")
    if report.tables:
        yield from ("## One step", "")
        for table in report.tables:
            yield from _grid(step_grid(table), level=3)
    if report.training:
        yield from _grid(training_grid(report.training))
        yield from (_TRAINING, "")
    yield from _machine(report)


def _how(report: Report) -> Iterator[str]:
    settings = report.settings
    yield (
        f"Steps are interleaved: in each of {settings['rounds']} rounds every optimiser steps "
        "once, in an order that is drawn anew, after a step or two to warm up. Those whose steps "
        f"would take more than {settings['seconds']:g} s together sit out rounds, down to "
        f"{settings['least']}. A time is a median, with quartiles; a ratio is the median of the "
        "ratios within a round, since a machine's memory may change its speed between rounds. "
        "Gradients are the same for all. `add_` is the "
        "floor: `w.add_(g, alpha=a)` for each tensor, which reads gradient and weight once and "
        "writes the weight once. Only ratios within a table compare."
    )
    yield ""
    yield (
        "State is what the state tensors hold, in bytes. The extra at the peak is the larger of "
        "two figures, each above what stood before the step: what PyTorch allocates, to the byte, "
        "by its profiler; and the rise of the process's resident memory (`VmHWM`, reset by "
        "`/proc/self/clear_refs`, after `malloc_trim`; in pages of 4 KiB, the least of up to three "
        "steps), which sees a compiled kernel's own memory too."
        + ("" if settings["resident_memory"] else " This system does not report the second one.")
    )
    yield ""


_TARGETS = (
    "That the paths agree with each other, and that the number of threads changes no bit, is what "
    "the tests hold."
)
_TRAINING = (
    "The optimisers train models of their own in turns of four steps, of which the first is not "
    "counted; random data. Muon takes orthogonal directions for hidden layers, and so does "
    "`nero.for_model` in the convolutional network and the two transformers; in the perceptron, a "
    "long chain, it takes the paper's rule. What directions cost does not depend on the batch, so "
    "their share falls as the batch grows. The last column compares the backward pass beside each "
    "optimiser with the one beside SGD: above 1, threads of the step would slow it down."
)


def _grid(grid: Cells, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {grid.title}"
    yield ""
    yield _row(grid.headings)
    yield _row(("---",) * len(grid.headings))
    yield from map(_row, grid.rows)
    yield ""
    for note in grid.notes:
        yield note
        yield ""


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _machine(report: Report) -> Iterator[str]:
    machine, settings = report.machine, report.settings
    yield from ("## Where and when", "")
    rows = {
        "processor": f"{machine['cpu']}, {machine['cores']} cores, "
        f"{settings['threads']} threads used",
        "memory": bytes_text(machine["memory"]),
        "system": machine["platform"],
        "Nero's path": machine["path"],
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "commit": report.commit or "unknown",
        "date": report.started,
        "duration": f"{report.seconds:.0f} s",
    }
    yield from (_row(("", "")), _row(("---", "---")))
    for name, text in rows.items():
        yield _row((name, str(text)))
