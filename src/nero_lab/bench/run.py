"""The whole benchmark: what it measures, in which order, and what it writes."""

import gc
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

import nero
from nero_lab.bench import memory
from nero_lab.bench.devices import CPU, Device, gpu_facts
from nero_lab.bench.grids import Cells, all_grids, compact_grid, target_grid
from nero_lab.bench.measure import Settings, Tick, measure, what_failed
from nero_lab.bench.page import write_page
from nero_lab.bench.results import Report
from nero_lab.bench.targets import verdicts
from nero_lab.bench.training import MODELS, measure_training
from nero_lab.bench.workloads import DTYPES, Workload
from nero_lab.records.environment import commit, processor

QUICK_SETTINGS = Settings(rounds=3, least=2, seconds=0.1, quick=True)


@dataclass(frozen=True)
class Part:
    """One bar's worth of the benchmark: measures, and adds to the report."""

    name: str
    run: Callable[[Report, Tick], Report]


def run_bench(
    out: Path,
    json: Path | None,
    only: Sequence[str],
    settings: Settings,
    command: str,
    console: Console,
    device: Device = CPU,
) -> Report:
    """Measure, print the tables and write the page; return what was found.

    Args:
        out: directory of the page and its picture; made if missing.
        json: file for everything that was measured; None for none.
        only: which of the device's parts; none for all.
        settings: how long to measure.
        command: what was called, for the page.
        console: where to print.
        device: where to measure.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):  # what cannot be written is known before it is measured
        pass
    report = new_report(settings, command, device)
    todo = list(parts(only or device.parts, settings, device))
    for part in with_progress(todo, console):
        known = len(report.tables)
        report = part(report)
        report = replace(report, targets=verdicts(report), seconds=time.monotonic() - start)
        # A later part may bring the process down, or be interrupted.
        if report.device == "cuda":
            print_grids(map(compact_grid, report.tables[known:]), console, compact=True)
        if json is not None:  # first of all, lest a picture that fails cost the figures
            json.parent.mkdir(parents=True, exist_ok=True)
            json.write_text(report.to_json(), encoding="utf-8")
        write_page(report, out)
    for failure in report.failures:
        console.print(f"not measured: {failure}", markup=False, soft_wrap=True)
    if report.device == "cuda":
        print_grids([target_grid(report)], console, compact=True)
    else:
        print_grids(all_grids(report), console)
    page = write_page(report, out)
    console.print(f"Wrote {page}. It took {report.seconds:.0f} s.", markup=False, soft_wrap=True)
    return report


def parts(only: Sequence[str], settings: Settings, device: Device) -> Iterator[Part]:
    """Yield what is to be measured; the tensors of one part are gone before the next."""
    for key, build in (device.quick if settings.quick else device.full).items():
        for dtype in DTYPES if key in only else ():
            yield Part(f"{key}, {dtype}", partial(_tables, build, dtype, settings, device))
    for model in MODELS if "training" in only else ():
        yield Part(f"training, {model}", partial(_training, model, settings))


def _tables(
    build: Callable[[], Workload],
    dtype: str,
    settings: Settings,
    device: Device,
    report: Report,
    tick: Tick,
) -> Report:
    work = build()
    try:
        table = measure(work, dtype, settings, tick, device)
    except RuntimeError as error:  # of memory, or of a GPU: other workloads' figures stay
        failure = f"{work.label}, {dtype}: {what_failed(error)}"
        return replace(report, failures=(*report.failures, failure))
    return replace(report, tables=(*report.tables, table))


def _training(model: str, settings: Settings, report: Report, tick: Tick) -> Report:
    rows = measure_training(model, settings, tick)
    return replace(report, training=(*report.training, *rows))


def with_progress(todo: list[Part], console: Console) -> Iterator[Callable[[Report], Report]]:
    """Yield each part, to be called in turn, and show how far it is."""
    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    # Drawing takes time from what is measured: twice a second is enough.
    with Progress(
        *columns, TextColumn("{task.description}"), console=console, refresh_per_second=2
    ) as progress:
        bar = progress.add_task("", total=len(todo))

        def tick(doing: str) -> None:
            progress.update(bar, description=doing)

        for index, part in enumerate(todo):
            start = time.monotonic()
            yield lambda report, part=part: part.run(report, tick)
            gc.collect()  # some optimisers refer to themselves, and would outlive their part
            progress.update(bar, completed=index + 1)
            if not console.is_terminal:  # there is no bar
                console.print(
                    f"{index + 1}/{len(todo)} {part.name}: {time.monotonic() - start:.0f} s"
                )


def new_report(settings: Settings, command: str, device: Device = CPU) -> Report:
    """Return a report without figures: where, when and how."""
    return Report(
        machine=machine(device),
        settings={
            **vars(settings),
            "device": device.key,
            "threads": torch.get_num_threads(),
            "resident_memory": memory.resident_rise(lambda: None) is not None,
        },
        commit=commit(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
    )


def machine(device: Device) -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {"Python": platform.python_version()}
    for package in device.packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    parameter = torch.nn.Parameter(torch.randn(3, 4, device=device.torch_device))
    path = nero.Nero([parameter]).path
    return {
        **({"gpu": gpu_facts()} if device.torch_device == "cuda" else {}),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "platform": platform.platform(),
        "path": path.partition(": 1 parameters")[0],
        "versions": versions,
    }


def print_grids(grids: Iterable[Cells], console: Console, compact: bool = False) -> None:
    """Print tables; a pipe, which has no width, gets them whole."""
    wide = console if console.is_terminal else Console(file=console.file, width=200)
    bare: dict[str, Any] = {"box": None, "padding": (0, 1, 0, 0)} if compact else {}
    for grid in grids:
        table = RichTable(title=grid.title, title_justify="left", **bare)
        for heading in grid.headings:
            table.add_column(heading)
        for row in grid.rows:
            table.add_row(*row)
        wide.print(table)
        for note in grid.notes:
            wide.print(note, highlight=False, markup=False)
