"""The live table of a sweep."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nero_lab.experiments.run import Run
from nero_lab.experiments.task import Metric
from nero_lab.records.store import Records
from nero_lab.sweeps.jobs import Event

_REFRESH_SECONDS = 0.5


@dataclass
class SweepView:
    """Shows, a row for each task and variant, what is done, what is best and what runs.

    Args:
        due: all runs known to be needed, on data or not.
        records: what is done.
        metrics: of each task by its name.
        console: without a terminal, a line for each run that ends takes the table's place.
    """

    due: Callable[[], Iterable[Run]]
    records: Records
    metrics: dict[str, Metric]
    console: Console
    _running: dict[str, tuple[Run, float]] = field(default_factory=dict)
    _live: Live | None = None
    _drawn: float = 0.0
    _start: float = field(default_factory=time.monotonic)

    def __enter__(self) -> "SweepView":
        if self.console.is_terminal:
            self._live = Live(self.table(), console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
            self._live.stop()

    def show(self, event: Event) -> None:
        """Take in what happened."""
        run = event.job.run
        match event.kind:
            case "started":
                self._running[run.run_id] = run, 0.0
            case "moved":
                assert event.progress is not None
                self._running[run.run_id] = run, event.progress.step / event.progress.steps
            case _:
                self._running.pop(run.run_id, None)
        if event.kind in {"recorded", "failed", "died"}:
            self._print(event)
        now = time.monotonic()
        if self._live is not None and now - self._drawn > _REFRESH_SECONDS:
            self._drawn = now
            self._live.update(self.table(), refresh=True)

    def _print(self, event: Event) -> None:
        run, result = event.job.run, event.result
        if result is not None and self._live is not None:
            return  # it is in the table
        if result is None:
            line = f"{run}: {event.kind}: {event.error}"
        else:
            metric = self.metrics[run.task]
            value = result.metric("test", metric.name)
            shown = "-" if value is None else f"{value:.4g}"
            line = f"{run}: {result.status}, test {metric.name} {shown}, {result.seconds:.0f} s"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def table(self) -> Table:
        """Return the table of this moment."""
        runs = list(self.due())
        done = sum(self.records.get(run) is not None for run in runs)
        minutes = (time.monotonic() - self._start) / 60
        table = Table(title=f"{done} of {len(runs)} runs done, {minutes:.1f} minutes")
        for heading in ("task", "optimiser", "done", "best so far", "running"):
            table.add_column(heading)
        for (task, variant), group in grouped(runs).items():
            records = [record for run in group if (record := self.records.get(run)) is not None]
            table.add_row(
                Text(task),
                Text(variant),
                f"{len(records)}/{len(group)}",
                self._best(task, [(r.run.lr, r.result) for r in records]),
                ", ".join(
                    f"lr {run.lr:g} seed {run.seed}: {part:.0%}"
                    for run, part in self._running.values()
                    if (run.task, run.variant) == (task, variant)
                ),
            )
        return table

    def _best(self, task: str, results: Sequence) -> str:
        metric = self.metrics[task]
        values = [
            (metric.rank(value), value, lr)
            for lr, result in results
            if result.status == "finished"
            and (value := result.metric("val", metric.name) or result.metric("test", metric.name))
            is not None
        ]
        if not values:
            return "-"
        _, value, lr = max(values)
        return f"{value:.4g} at lr {lr:g}"


def grouped(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return runs by their task and variant, in the order in which these come."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.variant), []).append(run)
    return groups
