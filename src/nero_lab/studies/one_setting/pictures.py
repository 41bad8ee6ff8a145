"""The pictures of the benchmark: best rates over depth and width, profiles of time to target."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nero_lab.studies.one_setting.cases import Case
from nero_lab.studies.one_setting.scores import LONGEST, SLACK, Result, profile, ratios

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":")


def save_best_rates(
    results: Sequence[Result],
    cases: Sequence[Case],
    labels: Mapping[str, str],
    defaults: Mapping[str, float],
    path: Path,
) -> None:
    """Draw the best rate, as a multiple of the default, over each series of depths or widths.

    A bar stands on all rates of the grid that are as good.

    Args:
        results: of the tasks that are complete, at least one of a series.
        cases: the tasks, for which series they belong to.
        labels: of the contestants that are drawn, by name.
        defaults: the default learning rate of each, by name.
        path: of the picture.
    """
    known = {each.case: each for each in results}
    found: dict[str, dict[int, Result]] = {}
    for case in cases:
        if case.series is not None and case.name in known:
            axis, place = case.series
            found.setdefault(axis, {})[place] = known[case.name]
    figure = _figure(2 + 4 * len(found), 3.6)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, (axis, by_place) in zip(panels, found.items(), strict=True):
        places = sorted(by_place)
        rows = [by_place[place] for place in places]
        for index, ((name, label), style) in enumerate(
            zip(labels.items(), _styles(), strict=False)
        ):
            beside = [place * 1.04**index for place in places]
            rates = [each.peak_lr(name) / defaults[name] for each in rows]
            panel.plot(beside, rates, marker="o", label=label, **style)
            good = [[lr / defaults[name] for lr in each.good_lrs(name)] for each in rows]
            ends = [min(each) for each in good], [max(each) for each in good]
            panel.vlines(beside, *ends, color=style["color"], linewidth=4, alpha=0.3)
        _logarithmic(panel, places)
        panel.set_xlabel(axis)
        panel.grid(color="0.92")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    panels[0].set_ylabel(f"best rate / default rate; bars: regret within {SLACK:g}", fontsize=8)
    figure.savefig(path, dpi=110)


def save_profiles(
    results: Sequence[Result],
    labels: Mapping[str, str],
    defaults: Mapping[str, float],
    path: Path,
) -> None:
    """Draw on which share of tasks each took at most r times the fastest's steps to the target.

    Args:
        results: of the tasks that are complete, at least one.
        labels: of the contestants, by name.
        defaults: the default learning rate of each, by name.
        path: of the picture.
    """
    settings = {
        "at the default rate": {n: {each.case: defaults[n] for each in results} for n in labels},
        "at the best rate of the grid": {
            n: {each.case: each.best_lr(n) for each in results} for n in labels
        },
    }
    figure = _figure(11, 4)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (title, lrs) in zip(panels, settings.items(), strict=True):
        found = ratios(results, lrs)
        for (name, label), style in zip(labels.items(), _styles(), strict=False):
            jumps = sorted({1.0, *(each for each in found[name] if each <= LONGEST), LONGEST})
            shares = [profile(found[name], r) for r in jumps]
            panel.step(jumps, shares, where="post", label=label, **style)
        panel.set_xlim(1, LONGEST)
        panel.set_ylim(-0.02, 1.02)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("times the steps of the fastest")
        panel.grid(color="0.92")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    panels[0].set_ylabel("share of the tasks")
    figure.savefig(path, dpi=110)


def _styles() -> list[dict[str, Any]]:
    return [{"color": colour, "ls": dash} for dash in _DASHES for colour in _COLOURS]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _logarithmic(panel: Any, places: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.xaxis.set_major_locator(FixedLocator(places))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:g}")
