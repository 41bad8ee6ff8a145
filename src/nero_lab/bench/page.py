"""The pages docs/evidence/benchmarks.md and benchmarks-cuda.md, from a report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nero_lab.bench.grids import (
    Cells,
    bytes_text,
    cuda_step_grid,
    step_grid,
    target_grid,
    training_grid,
)
from nero_lab.bench.picture import save_picture
from nero_lab.bench.results import Report

NAMES = {"cpu": "benchmarks", "cuda": "benchmarks-cuda"}
"""of a page and of its picture, by device"""


def write_page(report: Report, out: Path) -> Path:
    """Write the page and its picture into a directory, and return the page's path."""
    save_picture(report, out / _picture(report))
    page = out / f"{NAMES[report.device]}.md"
    page.write_text(markdown(report), encoding="utf-8")
    return page


def markdown(report: Report) -> str:
    """Return the page."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _picture(report: Report) -> str:
    return f"assets/{NAMES[report.device]}.png"


def _lines(report: Report) -> Iterator[str]:
    cuda = report.device == "cuda"
    yield "# Benchmarks on a GPU" if cuda else "# Benchmarks"
    yield ""
    yield f"Written by `{report.command}`; every figure is of that one run."
    if report.settings["quick"]:
        yield "It was a quick run, of tiny tensors: **its figures mean nothing**."
    yield ""
    drawn = "Time of a step on a GPU" if cuda else "Time of a step, and its share of training"
    yield f"![{drawn}]({_picture(report)})"
    yield ""
    for failure in report.failures:
        yield from (f"**Not measured:** {failure}.", "")
    yield from _how_on_cuda(report) if cuda else _how(report)
    if report.targets:
        yield from _grid(target_grid(report))
        yield from (_TARGETS_ON_CUDA if cuda else _TARGETS, "")
    if report.tables:
        yield from ("## One step", "")
        for table in report.tables:
            yield from _grid((cuda_step_grid if cuda else step_grid)(table), level=3)
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


def _how_on_cuda(report: Report) -> Iterator[str]:
    settings = report.settings
    yield (
        f"Steps are interleaved: in each of {settings['rounds']} rounds every optimiser takes two, "
        "in an order that is drawn anew, after some to warm up. Those whose turns would take more "
        f"than {settings['seconds']:g} s together sit out rounds, down to {settings['least']}. A "
        "time is a median, with quartiles; a ratio is the median of the ratios within a round. "
        "Gradients are the same for all."
    )
    yield ""
    yield (
        "A GPU runs behind Python, so there are three times. **Device**: what the step's kernels "
        "take, by CUDA events, when all of them are queued: the device is kept busy with products "
        "of matrices that have nothing to do with the step until Python is done with it. In "
        "training it is so where the GPU is still at the backward pass. **Alone**: from "
        "an idle device until it is idle again. **Python**: how long `step()` takes to return, "
        "beginning with an idle device."
    )
    yield ""
    yield (
        "`add_` is the floor: one `torch._foreach_add_(weights, gradients, alpha=a)`, which reads "
        "gradient and weight once and writes the weight once. Only ratios within a table compare. "
        "The products go through 216 MiB, more than the 50 MiB of an H100's L2 cache, so the "
        "device's time begins with most weights in memory, as after a backward pass. The step "
        "alone follows another step of the same weights: those of the small tensors, and in part "
        "those of ResNet-50, are in the cache then, as for any step that is taken by itself."
    )
    yield ""
    yield (
        "State is what the state tensors hold, in bytes. The extra at the peak is what PyTorch's "
        "allocator holds at most during a step above what it held before "
        "(`torch.cuda.max_memory_allocated`)."
    )
    yield ""


_TARGETS = (
    "That the paths agree with each other, and that the number of threads changes no bit, is what "
    "the tests hold."
)
_TARGETS_ON_CUDA = "That the paths agree with each other is what the tests hold."
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
        **_gpu(machine.get("gpu")),
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


def _gpu(gpu: Mapping[str, Any] | None) -> dict[str, str]:
    if gpu is None:
        return {}
    return {
        "GPU": f"{gpu['name']}, capability {gpu['capability']}, {gpu['multiprocessors']} "
        f"multiprocessors, {bytes_text(gpu['memory'])}, cache {bytes_text(gpu['cache'])}",
        "CUDA": f"runtime {gpu['runtime']}, driver {gpu['driver']}",
    }
