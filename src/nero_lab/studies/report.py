"""Records of a study -> its tables, their numbers as JSON, and a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nero_lab.analysis.scores import Scores
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.records.environment import commit, environment, software
from nero_lab.records.lines import finite
from nero_lab.records.old import RunResult
from nero_lab.studies.plan import Arm, Case, Study
from nero_lab.sweeps.progress import FindRecord


@dataclass(frozen=True)
class Row:
    """What an arm measured."""

    arm: Arm
    by_lr: dict[float, tuple[Scores, Scores]]
    """validation and test"""
    best_lr: float | None
    source: Scores
    """validation metric on the source once the optimiser was built; of no seeds without a source"""
    start: Scores
    """validation metric before the first step"""
    steps: int
    seconds: float


def table_rows(study: Study, case: Case, find: FindRecord) -> list[Row]:
    """Return one row per arm of a case, from whatever is recorded."""
    return [_row(study, case, arm, find) for arm in case.arms]


def _row(study: Study, case: Case, arm: Arm, find: FindRecord) -> Row:
    by_lr = {}
    trained: list[RunResult] = []

    def scores(results: Sequence[RunResult], field: str) -> Scores:
        return Scores(
            values=tuple(getattr(result, field) for result in results),
            wanted=len(study.seeds),
            diverged=sum(result.status == "diverged" for result in results),
            metric=case.task.metric,
        )

    for lr in arm.lrs:
        results = [record.result for record in study.records_at(arm, lr, find)]
        by_lr[lr] = scores(results, "val_metric"), scores(results, "test_metric")
        trained += results
    sources = [find(config) for seed in study.seeds if (config := arm.source_config(seed))]
    at_default = [record.result for record in study.records_at(arm, arm.default_lr, find)]
    return Row(
        arm=arm,
        by_lr=by_lr,
        best_lr=study.best_lr(case, arm, find),
        source=scores([record.result for record in sources if record is not None], "start_metric"),
        # What happened after the first step has no place in what was measured before it.
        start=replace(scores(at_default, "start_metric"), diverged=0),
        steps=max((result.steps for result in trained), default=0),
        seconds=sum(result.seconds for result in trained) / len(trained) if trained else 0.0,
    )


def headings(case: Case) -> tuple[str, ...]:
    """Return the headings of a case's table."""
    metric = case.task.metric.name
    transfer = (f"source val {metric} after building", f"val {metric} before the first step")
    return (
        "what varies",
        "option",
        *(transfer if _is_transfer(case) else ()),
        "default lr",
        f"val {metric}",
        f"test {metric}",
        "best lr by val",
        f"val {metric}",
        f"test {metric}",
        f"val {metric} by lr",
        *((f"test {metric} against {case.reference}, by lr",) if case.reference else ()),
        "time of a run",
    )


def table_cells(case: Case, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the text of every cell, one tuple per row, under `headings`."""
    cells = []
    for row in rows:
        val, test = row.by_lr[row.arm.default_lr]
        best = ("-", "-", "-")
        if row.best_lr is not None:
            best = (f"{row.best_lr:g}", *map(str, row.by_lr[row.best_lr]))
        cells.append(
            (
                row.arm.varies,
                row.arm.label,
                *((str(row.source), str(row.start)) if _is_transfer(case) else ()),
                f"{row.arm.default_lr:g}",
                str(val),
                str(test),
                *best,
                ", ".join(f"{lr:g}: {_short(v)}" for lr, (v, _) in sorted(row.by_lr.items())),
                *((_against(row, rows, case.reference),) if case.reference else ()),
                f"{row.seconds:.1f} s" if row.steps else "-",
            )
        )
    return cells


def _is_transfer(case: Case) -> bool:
    return case.arms[0].on_source is not None


def _against(row: Row, rows: Sequence[Row], label: str) -> str:
    """Return by how much a row's mean test metric differs from the reference's, rate by rate."""
    reference = next(other for other in rows if other.arm.label == label)
    if row is reference:
        return "-"
    told = []
    for lr, (_, test) in sorted(row.by_lr.items()):
        ours, theirs = test.mean, reference.by_lr[lr][1].mean
        told.append(f"{lr:g}: {ours / theirs - 1:+.2%}" if ours and theirs else f"{lr:g}: -")
    return ", ".join(told)


def _short(scores: Scores) -> str:
    return "-" if scores.mean is None else f"{scores.mean:.3f}"


def settings(study: Study, case: Case, rows: Sequence[Row]) -> list[str]:
    """Return what all runs of a case share, and what was tuned, in sentences."""
    run, metric = case.arms[0].template, case.task.metric
    digests = run.data.get("digests") or {"data": run.data.get("digest")}
    named = ", ".join(f"{name} {value}" for name, value in digests.items() if value)
    told_by_arms = ("tied", "dtype")
    model = ", ".join(
        f"{key} {value}" for key, value in run.model.items() if key not in told_by_arms
    )
    told = [
        f"Data: {case.task.data}{f'; digest of the files: {named}' if named else ''}.",
        f"Model: {model}.",
        f"{max(row.steps for row in rows) or '-'} steps, batch {run.batch_size}, learning rate "
        f"falling in a straight line to 0; seeds {', '.join(map(str, study.seeds))}.",
        f"Metric: {metric.name} ({metric.unit}), {metric.better} is better; mean over seeds "
        "[worst, best].",
        "Tuned: the learning rate alone, by the mean validation metric over all seeds. Not tuned: "
        "anything else, steps and batch size included.",
    ]
    for name in dict.fromkeys(arm.template.optimizer for arm in case.arms):
        arm = next(arm for arm in case.arms if arm.template.optimizer == name)
        grid = ", ".join(f"{lr:g}" for lr in sorted(arm.lrs))
        told.append(f"{OPTIMIZERS[name].label}: lr {grid}; {OPTIMIZERS[name].settings()}.")
    return told + list(case.notes)


def markdown(study: Study, find: FindRecord, finished: bool) -> str:
    """Return all tables, with their settings, in Markdown."""
    parts = [f"# {study.title}\n"]
    if study.left_out:
        parts.append(f"Quick: {study.left_out}\n")
    if not finished:
        parts.append("Not all runs are in yet.\n")
    for case in study.cases:
        rows = table_rows(study, case, find)
        head = headings(case)
        lines = [head, tuple("---" for _ in head), *table_cells(case, rows)]
        parts.append(f"## {case.title}\n")
        parts.append("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
        parts.append("".join(f"- {line}\n" for line in settings(study, case, rows)))
    return "\n".join(parts)


def summary(study: Study, find: FindRecord, finished: bool) -> dict:
    """Return all numbers, for programs."""
    return {
        "study": study.name,
        "left_out": study.left_out,
        "finished": finished,
        "seeds": study.seeds,
        "cases": [_case_summary(study, case, find) for case in study.cases],
        "commit": commit(),
        "environment": environment(),
        "software": software(),
    }


def _case_summary(study: Study, case: Case, find: FindRecord) -> dict:
    def numbers(scores: Scores) -> dict:
        return {"mean": scores.mean, "values": scores.values, "diverged": scores.diverged}

    rows = table_rows(study, case, find)
    return {
        "name": case.name,
        "title": case.title,
        "metric": asdict(case.task.metric),
        "settings": settings(study, case, rows),
        "rows": [
            {
                "varies": row.arm.varies,
                "option": row.arm.label,
                "optimizer": row.arm.template.optimizer,
                "groups": row.arm.template.groups,
                "default_lr": row.arm.default_lr,
                "best_lr": row.best_lr,
                "by_lr": {
                    f"{lr:g}": {"val": numbers(val), "test": numbers(test)}
                    for lr, (val, test) in row.by_lr.items()
                },
                "source_after_building": numbers(row.source),
                "before_first_step": numbers(row.start),
                "steps": row.steps,
                "seconds": round(row.seconds, 2),
            }
            for row in rows
        ],
    }


def write_report(study: Study, find: FindRecord, out: Path, finished: bool) -> list[Path]:
    """Write table.md, summary.json and scores.png from whatever is recorded; return their paths."""
    table, numbers, picture = (out / name for name in ("table.md", "summary.json", "scores.png"))
    table.write_text(markdown(study, find, finished), "utf-8")
    text = json.dumps(finite(summary(study, find, finished)), indent=2, allow_nan=False)
    numbers.write_text(text + "\n", "utf-8")
    _draw(study, find, picture)
    return [table, numbers, picture]


def _draw(study: Study, find: FindRecord, path: Path) -> None:
    """Draw the test metric of every seed at each arm's best rate, a panel for each case."""
    # Not pyplot, which would look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [len(case.arms) for case in study.cases]
    figure = Figure(figsize=(8, 0.3 * sum(heights) + len(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, case in zip(panels, study.cases, strict=True):
        rows = table_rows(study, case, find)
        for index, row in enumerate(rows):
            if row.best_lr is None:
                continue
            test = row.by_lr[row.best_lr][1]
            panel.plot(test.finite, [index] * len(test.finite), "o", color="C0", alpha=0.6)
            if test.mean is not None:
                panel.plot([test.mean], [index], "|", color="black", markersize=14)
        panel.set_yticks(range(len(rows)), [f"{row.arm.varies}: {row.arm.label}" for row in rows])
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_title(case.title, fontsize=10)
        metric = case.task.metric
        panel.set_xlabel(f"test {metric.name} ({metric.unit}; {metric.better} is better)")
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=130)
