"""How many runs of an experiment remain, and how long they may take, from recorded times."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from nero_lab.experiments.run import Run
from nero_lab.records.store import Record
from nero_lab.sweeps.comparison import Comparison, FindRun


@dataclass(frozen=True)
class Remaining:
    """What an experiment still needs."""

    comparison: Comparison
    runs: int
    """at most: grids that are not in yet may each find another best rate"""
    seconds: float | None
    """of training, in one process; None while nothing is recorded to estimate by"""
    recorded: int

    def __str__(self) -> str:
        """Return it in words."""
        name, title = self.comparison.task.name, self.comparison.preset.title
        name += f", {title}" if title else ""
        if not self.runs:
            return f"{name}: all {self.recorded} runs are recorded"
        time = "time not known yet" if self.seconds is None else f"about {minutes(self.seconds)}"
        return f"{name}: up to {self.runs} runs to train ({time}), {self.recorded} recorded"


def remaining(comparison: Comparison, find: FindRun) -> Remaining:
    """Return what an experiment still needs."""
    due = comparison.due(find)
    known = [record for run in due if (record := find(run)) is not None]
    left = [run for run in due if find(run) is None]
    left += [run for run in comparison.undecided(find) if find(run) is None]
    seconds = None
    if known:
        seconds = sum(_seconds(run, known) for run in left)
    return Remaining(comparison, len(left), seconds, len(known))


def _seconds(run: Run, known: Iterable[Record]) -> float:
    """Return the mean time of the recorded runs of the same variant, or else of all."""
    finished = [record for record in known if record.result.status == "finished"] or list(known)
    same = [record for record in finished if record.run.variant == run.variant]
    return fmean(record.result.seconds for record in same or finished)


def cheapest_first(every: Iterable[Remaining]) -> list[Remaining]:
    """Return the experiments by what a run takes; those that nothing is known of keep their place.

    Those without a record come last, in the order given.
    """

    def cost(each: Remaining) -> float:
        if each.seconds is None or not each.runs:
            return 0.0 if not each.runs else float("inf")
        return each.seconds / each.runs

    return sorted(every, key=cost)


def minutes(seconds: float) -> str:
    """Return a time for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
