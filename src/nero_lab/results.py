"""Records -> the rows of the comparison's table, and what they say in words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nero_lab.plan import Arm, FindRecord, Plan
from nero_lab.records.old import RunRecord


@dataclass(frozen=True)
class Score:
    """Test accuracy at one learning rate, over the seeds that are in."""

    lr: float
    accuracies: tuple[float, ...]
    seeds_wanted: int
    diverged: int

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def low(self) -> float:
        """Return the worst seed's accuracy."""
        return min(self.accuracies)

    @property
    def high(self) -> float:
        """Return the best seed's accuracy."""
        return max(self.accuracies)

    def __str__(self) -> str:
        """Return "mean [worst, best]", and what the reader must know about it."""
        text = f"{self.mean:.3f}"
        if len(self.accuracies) > 1:
            text += f" [{self.low:.3f}, {self.high:.3f}]"
        remarks = []
        if self.diverged:
            remarks.append(f"{self.diverged} diverged")
        if len(self.accuracies) < self.seeds_wanted:
            remarks.append(f"{len(self.accuracies)} of {self.seeds_wanted} seeds")
        return text + (f" ({', '.join(remarks)})" if remarks else "")


@dataclass(frozen=True)
class Row:
    """One arm of the comparison; a score is None while none of its runs is in."""

    arm: Arm
    out_of_the_box: Score | None
    best: Score | None
    steps: int
    seconds: float
    """mean training time of one run"""


def records_at(plan: Plan, arm: Arm, lr: float, find: FindRecord) -> list[RunRecord]:
    """Return the records of an arm at a learning rate, in the order of the seeds."""
    found = (find(plan.config(arm, lr, seed)) for seed in plan.preset.seeds)
    return [record for record in found if record is not None]


def table_rows(plan: Plan, find: FindRecord) -> list[Row]:
    """Return one row per arm of the plan, from whatever is recorded."""
    rows = []
    for arm in plan.arms:
        best_lr = plan.best_lr(arm, find)
        lrs = {*plan.lr_grid(arm), arm.spec.default_lr}
        trained = [record for lr in lrs for record in records_at(plan, arm, lr, find)]
        rows.append(
            Row(
                arm=arm,
                out_of_the_box=_score(plan, arm, arm.spec.default_lr, find),
                best=None if best_lr is None else _score(plan, arm, best_lr, find),
                steps=max((record.result.steps for record in trained), default=0),
                seconds=_mean([r.result.seconds for r in trained]) if trained else 0.0,
            )
        )
    return rows


def _score(plan: Plan, arm: Arm, lr: float, find: FindRecord) -> Score | None:
    results = [record.result for record in records_at(plan, arm, lr, find)]
    if not results:
        return None
    return Score(
        lr=lr,
        accuracies=tuple(result.test_metric for result in results),
        seeds_wanted=len(plan.preset.seeds),
        diverged=sum(result.status == "diverged" for result in results),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


HEADINGS = (
    "layers",
    "optimiser",
    "initial weights",
    "out-of-the-box lr",
    "test accuracy",
    "best lr of grid",
    "test accuracy",
    "steps",
    "time of a run",
)


def table_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the text of every cell, one tuple per row, under HEADINGS."""
    return [
        (
            str(row.arm.depth),
            row.arm.spec.label,
            row.arm.init,
            f"{row.arm.spec.default_lr:g}",
            str(row.out_of_the_box or "-"),
            f"{row.best.lr:g}" if row.best else "-",
            str(row.best or "-"),
            str(row.steps or "-"),
            f"{row.seconds:.1f} s" if row.steps else "-",
        )
        for row in rows
    ]


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *table_cells(rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def json_rows(rows: Sequence[Row]) -> list[dict]:
    """Return the table as plain numbers, for programs."""

    def score(value: Score | None) -> dict | None:
        if value is None:
            return None
        return asdict(value) | {"mean": value.mean, "low": value.low, "high": value.high}

    return [
        {
            "depth": row.arm.depth,
            "optimizer": row.arm.optimizer,
            "init": row.arm.init,
            "out_of_the_box": score(row.out_of_the_box),
            "best": score(row.best),
            "steps": row.steps,
            "seconds": round(row.seconds, 2),
        }
        for row in rows
    ]
