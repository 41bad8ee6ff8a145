"""Train what the paper's experiments still miss, the cheap ones first."""

from collections.abc import Callable, Sequence

from rich.console import Console

from nero_lab.data.parts import MissingData
from nero_lab.experiments.run import Run
from nero_lab.records.store import Record, Records
from nero_lab.sweeps.comparison import Comparison
from nero_lab.sweeps.estimate import Remaining, cheapest_first, minutes, remaining
from nero_lab.sweeps.grid import OpenPool, train_missing_runs
from nero_lab.sweeps.jobs import JobMaker
from nero_lab.training.checkpoints import check_writable
from nero_lab.training.messages import say, say_error


def train_comparisons(
    comparisons: Sequence[Comparison],
    records: Records,
    maker: JobMaker,
    pool: OpenPool,
    console: Console,
) -> int:
    """Train what is missing of some comparisons.

    Args:
        comparisons: the experiments.
        records: where the records are, and go.
        maker: makes jobs of runs; knows where the data are.
        pool: opens the workers.
        console: where to print.

    Returns:
        The exit code: 0; 1 where runs failed or an experiment's data are missing; 130 after Ctrl-C.

    Raises:
        CheckpointError: records or checkpoints cannot be written.
    """
    there = [each for each in comparisons if _has_data(each, maker, console)]
    if there:
        check_writable(records.folder, "records")
        check_writable(maker.out, "checkpoints")
    ordered = cheapest_first(remaining(each, find_on(maker, records)) for each in there)
    for each in ordered:
        say(console, str(each))
    if len(ordered) > 1:
        say(console, total(ordered))
    _match_weights(Due(there, records, maker)(), records, maker)
    due = Due([each.comparison for each in ordered], records, maker)
    tasks = {each.task.name: each.task for each in there}
    code = train_missing_runs(due, records, tasks, maker, pool, console)
    return code or int(len(there) < len(comparisons))


def _match_weights(runs: Sequence[Run], records: Records, maker: JobMaker) -> None:
    """Leave of each run that others start from both its record and its weights, or neither."""
    for run in runs:
        if run.plan_id in maker.starts:
            if records.get(run) is None:
                # Those of the same run on other data, or of one that was set aside.
                maker.weights(run.plan_id).unlink(missing_ok=True)
            elif not maker.weights(run.plan_id).exists():
                records.forget(run)


def _has_data(comparison: Comparison, maker: JobMaker, console: Console) -> bool:
    first = comparison.due(lambda run: None)[0]
    try:
        maker.make(first)
    except (MissingData, ValueError) as error:
        say_error(console, f"{comparison.task.name}: {error}", "left out:")
        return False
    return True


def total(remainders: Sequence[Remaining]) -> str:
    """Return in words what several experiments need together."""
    known = [each.seconds for each in remainders if each.seconds is not None]
    unknown = sum(each.seconds is None and each.runs > 0 for each in remainders)
    text = f"In all up to {sum(each.runs for each in remainders)} runs"
    text += f", about {minutes(sum(known))} of training in one process" if known else ""
    return text + (f", and {unknown} experiments of unknown length." if unknown else ".")


def find_on(maker: JobMaker, records: Records) -> Callable[[Run], Record | None]:
    """Return what looks up a run on the data set that is here."""
    return lambda run: records.get(maker.make(run).run)


class Due:
    """The runs that are due, on the data that are here; worked out again after each new record."""

    def __init__(
        self, comparisons: Sequence[Comparison], records: Records, maker: JobMaker
    ) -> None:
        self._comparisons, self._records, self._maker = comparisons, records, maker
        self._runs: dict[tuple[str, str], tuple[int, list[Run]]] = {}
        """by task and preset, for how many records of the task, the runs"""

    def __call__(self) -> list[Run]:
        """Return all runs that are needed and can be trained, recorded or not."""
        return [run for comparison in self._comparisons for run in self._of(comparison)]

    def _of(self, comparison: Comparison) -> list[Run]:
        key = comparison.task.name, comparison.preset.name
        recorded = len(self._records.of_task(comparison.task.name))
        if key not in self._runs or self._runs[key][0] != recorded:
            due = comparison.due(find_on(self._maker, self._records))
            ready = filter(self._maker.can_start, due)
            self._runs[key] = recorded, [self._maker.make(run).run for run in ready]
        return self._runs[key][1]
