"""`nero study one-setting`: train what is missing, row after row, and write what is complete."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nero_lab.analysis.memory import state_per_weight
from nero_lab.experiments.run import variant_spec
from nero_lab.records.store import Records
from nero_lab.studies.one_setting.cases import Case, cases
from nero_lab.studies.one_setting.collect import collect, longer_grids
from nero_lab.studies.one_setting.contestants import CONTESTANTS, DRAWN, PARTS, Contestant
from nero_lab.studies.one_setting.pictures import save_best_rates, save_profiles
from nero_lab.studies.one_setting.table import tables
from nero_lab.sweeps.comparison import Comparison
from nero_lab.sweeps.due import train_comparisons
from nero_lab.sweeps.grid import OpenPool
from nero_lab.sweeps.jobs import JobMaker
from nero_lab.training.context import INTERRUPTED
from nero_lab.training.messages import say

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Benchmark:
    """What is run: on which tasks, by whom, how often."""

    cases: tuple[Case, ...]
    contestants: tuple[Contestant, ...]
    seeds: tuple[int, ...]
    quick: bool = False
    """tiny networks and data, at the default rates: far too small to compare anything"""

    def rows(self) -> Iterator[tuple[Case, tuple[int, ...]]]:
        """Yield a row for each task: its grids on the first seed, then what all seeds train."""
        for seeds in dict.fromkeys((self.seeds[:1], self.seeds)):
            for case in self.cases:
                yield case, seeds

    def comparisons(
        self, case: Case, seeds: Sequence[int], contestants: Sequence[Contestant]
    ) -> list[Comparison]:
        """Return what is trained of a task."""
        main = case.comparison(contestants, seeds, self.quick)
        return [*case.preparations(self.quick), main]

    @property
    def starts(self) -> set[str]:
        """Return the plan_ids of the runs whose final weights others start from."""
        rows = (self.comparisons(case, seeds, self.contestants) for case, seeds in self.rows())
        due = (run for row in rows for each in row for run in each.due(lambda run: None))
        return {run.start["run"] for run in due if run.start is not None}


def benchmark(quick: bool, seeds: int, parts: bool) -> Benchmark:
    """Return the whole benchmark, or its quick version.

    Args:
        quick: on one seed, on tiny networks and data.
        seeds: how many.
        parts: of nero.for_model with and without its parts, instead of optimisers.
    """
    contestants = PARTS if parts else CONTESTANTS
    return Benchmark(cases(quick, parts), tuple(contestants), SEEDS[: 1 if quick else seeds], quick)


def run_benchmark(
    plan: Benchmark,
    results: Path,
    minutes: float | None,
    out: Path,
    data: Path | None,
    pool: OpenPool,
    fresh: bool,
    console: Console,
) -> int:
    """Train what is missing, task after task, then write tables and pictures of what is complete.

    Args:
        plan: what is run.
        results: folder of the records; made if missing.
        minutes: after how many no further task is begun; None: never.
        out: folder of tables, pictures, checkpoints and weights; made if missing.
        data: folder with the data; None: wherever they usually are.
        pool: opens the workers.
        fresh: set old records aside and train everything again.
        console: where to print.

    Returns:
        The exit code: 0; 1 where runs failed or data are missing; 130 after Ctrl-C.
    """
    start = time.monotonic()
    records = Records(results)
    tasks = list(dict.fromkeys(case.task for case in plan.cases))
    for name in tasks if fresh else ():
        if kept := records.set_aside(name):
            say(console, f"Set aside: {kept}")
    maker = JobMaker(out, {} if data is None else dict.fromkeys(tasks, data), starts=plan.starts)
    code = 0
    for case, seeds in plan.rows():
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            say(console, f"Stopped before {case.name}: {minutes:g} minutes have passed.")
            break
        trained: tuple[Contestant, ...] = ()
        grids = longer_grids(case, plan.contestants, records, plan.quick)
        while grids != trained and code != INTERRUPTED:
            row = plan.comparisons(case, seeds, grids)
            code = max(code, train_comparisons(row, records, maker, pool, console))
            trained, grids = grids, longer_grids(case, plan.contestants, records, plan.quick)
        if code == INTERRUPTED:
            break
    _write(plan, records, out, console)
    return code


def _write(plan: Benchmark, records: Records, out: Path, console: Console) -> None:
    found = collect(plan.cases, plan.contestants, records, plan.seeds, plan.quick)
    if not found:
        say(console, "No task has all of its grids recorded; no tables yet.")
        return
    labels = {each.name: each.label for each in plan.contestants}
    specs = {each.name: variant_spec(each.variant(chain=False)) for each in plan.contestants}
    defaults = {name: spec.default_lr for name, spec in specs.items()}
    state = {name: state_per_weight(spec) for name, spec in specs.items()}
    out.mkdir(parents=True, exist_ok=True)
    series = {case.name: case.series[0] for case in plan.cases if case.series is not None}
    text = tables(found, labels, defaults, state, series)
    (out / "table.md").write_text(text, "utf-8")
    console.print(text, soft_wrap=True, highlight=False, markup=False)
    written = ["table.md", "profiles.png"]
    save_profiles(found, labels, defaults, out / written[1])
    if any(each.case in series for each in found):
        drawn = {name: labels[name] for name in DRAWN if name in labels}
        written.append("best-rates.png")
        save_best_rates(found, plan.cases, drawn or labels, defaults, out / written[2])
    say(console, f"Written to {out}: {', '.join(written)}.")
