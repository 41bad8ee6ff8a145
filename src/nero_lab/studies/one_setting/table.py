"""The tables of the benchmark, in Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean

from nero_lab.analysis.table import markdown
from nero_lab.studies.one_setting.scores import (
    LONGEST,
    TOLERANCE,
    Regret,
    Result,
    area,
    best_single_lr,
    profile,
    ratios,
    regret_over,
)

_COMPARED = "adamw"
"""whose step the others' are compared with, where it takes part; else the first"""


def tables(
    results: Sequence[Result],
    labels: Mapping[str, str],
    defaults: Mapping[str, float],
    state: Mapping[str, float],
    series: Mapping[str, str],
) -> str:
    """Return all tables, each under its heading.

    Args:
        results: of the tasks that are complete, at least one.
        labels: of the contestants, by name.
        defaults: the default learning rate of each, by name.
        state: bytes of state of each for a weight, by name.
        series: of tasks that belong to one, the name of their series of depths or widths.
    """
    about = (
        f"Tasks of which every grid is recorded: {len(results)}. Regret: the share of what can be "
        "learned (from chance to the best of all at its best rate) that is not learned; 1 is "
        "chance or worse. Rates are chosen on validation, regrets are on the test part. Time to "
        f"target: steps to a regret of at most {TOLERANCE:g} on validation; the area of its "
        f"profile up to {LONGEST:g} times the fastest, and the share of tasks on which it is the "
        "fastest."
    )
    return "\n".join(
        [
            f"# One setting for every network\n\n{about}\n",
            _scores(results, labels, defaults, state),
            "## Regret at the default rate\n",
            _by_case(results, labels, lambda at, name: f"{at.regret(name, defaults[name]):.3f}"),
            "## Regret at the best rate of the grid; in brackets that rate, * at the grid's end\n",
            _by_case(results, labels, _at_best),
            "## The metric on the test part, at the default and at the best rate\n",
            _by_case(results, labels, lambda at, name: _metrics(at, name, defaults[name])),
            *_peaks(results, labels, series),
            *_every_seed(results, labels, defaults),
        ]
    )


def _scores(
    results: Sequence[Result],
    labels: Mapping[str, str],
    defaults: Mapping[str, float],
    state: Mapping[str, float],
) -> str:
    compared = _COMPARED if _COMPARED in labels else next(iter(labels))
    head = (
        "optimiser",
        "default rate",
        "worst regret",
        "mean regret",
        "time to target",
        "best single rate",
        "worst regret",
        "mean regret",
        "best rates, worst regret",
        "mean regret",
        "bytes of state a weight",
        f"time of a step, of that of {labels[compared]}",
    )
    at_default = {name: {each.case: defaults[name] for each in results} for name in labels}
    times = ratios(results, at_default)
    rows = []
    for name, label in labels.items():
        single = best_single_lr(results, name)
        best = {each.case: each.best_lr(name) for each in results}
        rows.append(
            (
                label,
                f"{defaults[name]:g}",
                *_regret(regret_over(results, name, at_default[name])),
                f"{area(times[name]):.2f}, {profile(times[name], 1):.0%}",
                f"{single:g}",
                *_regret(regret_over(results, name, {each.case: single for each in results})),
                *_regret(regret_over(results, name, best)),
                f"{state[name]:.2f}",
                f"{_step_time(results, name, compared):.2f}",
            )
        )
    return markdown(head, rows)


def _regret(found: Regret) -> tuple[str, str]:
    return f"{found.worst:.3f} ({found.where})", f"{found.mean:.3f}"


def _step_time(results: Sequence[Result], name: str, compared: str) -> float:
    """Return the geometric mean over tasks of the seconds of a step, of another's."""
    return geometric_mean(_seconds(each, name) / _seconds(each, compared) for each in results)


def _seconds(result: Result, name: str) -> float:
    return geometric_mean(
        cell.seconds for cell in result.cells[name].values() if math.isfinite(cell.seconds)
    )


def _by_case(
    results: Sequence[Result], labels: Mapping[str, str], text: Callable[[Result, str], str]
) -> str:
    """Return a table of a row for each contestant and a column for each task."""
    head = ("optimiser", *(each.case for each in results))
    rows = [(label, *(text(each, name) for each in results)) for name, label in labels.items()]
    return markdown(head, rows)


def _at_best(result: Result, name: str) -> str:
    lr = result.best_lr(name)
    ends = min(result.cells[name]), max(result.cells[name])
    return f"{result.regret(name, lr):.3f} ({lr:g}{'*' if lr in ends else ''})"


def _metrics(result: Result, name: str, default: float) -> str:
    at = (result.cells[name][lr].test for lr in (default, result.best_lr(name)))
    return " / ".join(map(_number, at))


def _peaks(
    results: Sequence[Result], labels: Mapping[str, str], series: Mapping[str, str]
) -> list[str]:
    """Return how far the best rates of a series of networks are apart, and of all of them."""
    found: dict[str, list[Result]] = {}
    for each in results:
        if each.case in series:
            found.setdefault(series[each.case], []).append(each)
    found = {name: some for name, some in found.items() if len(some) > 1}
    if not found:
        return []
    found["all of these"] = [each for some in found.values() for each in some]
    rows = [
        (label, *(_between([each.peak_lr(name) for each in some]) for some in found.values()))
        for name, label in labels.items()
    ]
    return [
        "## The best rate over depth and width: least to greatest, and their ratio\n\n"
        "Where the parabola through the best rate of the grid and its two neighbours, validation "
        "metric over the logarithm of the rate, has its peak.\n",
        markdown(("optimiser", *found), rows),
    ]


def _between(lrs: Sequence[float]) -> str:
    least, greatest = min(lrs), max(lrs)
    ratio = greatest / least
    return f"{least:.2g} to {greatest:.2g}, {ratio:.{1 if ratio < 10 else 0}f}"


def _every_seed(
    results: Sequence[Result], labels: Mapping[str, str], defaults: Mapping[str, float]
) -> list[str]:
    """Return the metric of each seed, of tasks and contestants with more than one."""

    def tests(result: Result, name: str) -> Sequence[float | None]:
        return result.cells[name][defaults[name]].tests

    tasks = [each for each in results if any(len(tests(each, name)) > 1 for name in labels)]
    if not tasks:
        return []
    several = {
        name: label
        for name, label in labels.items()
        if any(len(tests(each, name)) > 1 for each in tasks)
    }
    return [
        "## The metric on the test part at the default rate, seed by seed\n",
        _by_case(tasks, several, lambda at, name: ", ".join(map(_number, tests(at, name)))),
    ]


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4g}"
