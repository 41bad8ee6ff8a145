"""The pictures of a figure of the paper, by Matplotlib: PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from nero_lab.analysis.catalogue import by_figure
from nero_lab.analysis.catalogue import measured as all_measured
from nero_lab.analysis.curves import (
    COLUMNS,
    Curve,
    beyond,
    curve_name,
    curves,
    flat,
    limits,
    logarithmic,
    x_name,
)
from nero_lab.analysis.measured import Measured
from nero_lab.analysis.palette import Style, styles
from nero_lab.analysis.table import headline
from nero_lab.records.store import Records
from nero_lab.sweeps.comparison import Comparison

_MARGIN = 1.07
"""How much wider than its curves a panel is, for the published figures beside them."""


def save_figure(rows: Sequence[Measured], paths: Sequence[Path]) -> None:
    """Draw curves at the default and at the best rate, and the metric by learning rate.

    Args:
        rows: the experiments of the figure, one row of panels each.
        paths: the files to write; their endings decide the formats.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(13, 4.1 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, measured in zip(parts, rows, strict=True):
        _draw_row(part, measured)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date and with fixed ids, the same records give the same file.
        with rc_context({"svg.hashsalt": "nero"}):
            dated = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=110, metadata=dated)


def _draw_row(part: Any, measured: Measured) -> None:
    data = measured.data_name or "nothing recorded yet"
    if measured.stands_in_for:
        data += f" in the place of {measured.stands_in_for}"
    # Not the task's title, which may name data that these runs did not see.
    title = measured.comparison.preset.title
    name = f"{measured.name}, {title}" if title else measured.name
    part.suptitle(_plain(f"{name}: {data}"), fontsize=12, x=0.01, ha="left")
    panels = part.subplots(1, 3, sharey=True)
    looks = styles(measured.series)
    legend = {}
    for panel, column in zip(panels, COLUMNS, strict=False):
        drawn = curves(measured, column)
        for curve in drawn:
            line = _draw_curve(panel, curve, looks[curve.series.name])
            legend.setdefault(curve.series.name, line)
        panel.set_title(column, fontsize=11, loc="left")
        panel.set_xlabel(_x_label(measured, drawn))
    _draw_published(panels[1], measured, looks)
    _draw_by_lr(panels[2], measured, looks, legend)
    low, high = limits(measured)
    margin = 0.05 * ((high - low) or 1.0)
    for panel in panels:
        if logarithmic(measured):
            panel.set_yscale("log")
            panel.set_ylim(low / 1.2, high * 1.2)
            continue
        panel.set_ylim(low - margin, high + margin)
        if measured.metric.chance is not None:
            panel.axhline(measured.metric.chance, color="0.6", linewidth=0.8, linestyle=":")
    for panel in panels:
        panel.grid(color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
    name = curve_name(measured) or f"val_{measured.metric.name}"
    panels[0].set_ylabel(name.replace("val_", "validation ").replace("_", " "))
    if legend:
        labels = [_plain(series.label) for series in measured.series if series.name in legend]
        lines = [legend[series.name] for series in measured.series if series.name in legend]
        part.legend(lines, labels, loc="outside right upper", frameon=False, fontsize=9)


def _plain(text: str) -> str:
    # What stands between two dollar signs is a formula to matplotlib.
    return text.replace("$", r"\$")


def _draw_curve(panel: Any, curve: Curve, style: Style) -> Any:
    x, mean, low, high = zip(*curve.points, strict=True)
    (line,) = panel.plot(
        x, mean, style.linestyle, color=style.colour, linewidth=1.8, solid_capstyle="butt"
    )
    if len(x) == 1:
        line.set_marker("o")
    panel.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)
    ends = [(seed.x[-1], seed.y[-1]) for seed in curve.seeds if seed.diverged and seed.x]
    if ends:
        panel.plot(*zip(*ends, strict=True), "x", color=style.colour, markersize=7)
    return line


def _x_label(measured: Measured, drawn: Sequence[Curve]) -> str:
    """Return the label of the axis, and which lines lie on top of each other at chance."""
    names = "; ".join(curve.series.label for curve in drawn if flat(curve))
    label = x_name(measured)
    return f"{label}\n{fill(_plain(f'(nothing learned: {names})'), 58)}" if names else label


def _draw_published(panel: Any, measured: Measured, looks: dict[str, Style]) -> None:
    """Draw the published figures of each variant as stars at the end of its curve."""
    end = panel.get_xlim()[1] * _MARGIN
    shown = False
    for series in measured.series:
        values = [each.value for each in headline(series.published, series.metric)]
        if values:
            colour = looks[series.name].colour
            panel.plot([end] * len(values), values, "*", color=colour, markersize=9, mec="white")
            shown = True
    if shown:
        on = f" ({_plain(measured.stands_in_for)})" if measured.stands_in_for else ""
        panel.set_title(f"{panel.get_title(loc='left')}; ★ published{on}", fontsize=11, loc="left")


def _draw_by_lr(
    panel: Any, measured: Measured, looks: dict[str, Style], legend: dict[str, Any]
) -> None:
    """Draw every run's final metric over its learning rate, and a line through the seeds' means.

    A cross is a diverged run.
    """
    for series in measured.series:
        style = looks[series.name]
        runs = {key: series.selection(*key) for key in series.records}
        if means := series.means_by_lr():
            (line,) = panel.plot(
                *zip(*means, strict=True), style.linestyle, color=style.colour, linewidth=1.2
            )
            legend.setdefault(series.name, line)
        for key, value in runs.items():
            diverged = series.records[key].result.status == "diverged"
            marker = "x" if diverged else style.marker
            if value is not None and not beyond(measured, value):
                panel.plot(key[0], value, marker, color=style.colour, markersize=5)
            else:
                # No number to draw it at, or one far off: on the edge where the worst ones are.
                edge = 0.02 if measured.metric.better == "higher" else 0.98
                across = panel.get_xaxis_transform()
                panel.plot(key[0], edge, marker, color=style.colour, markersize=6, transform=across)
    panel.set_xscale("log")
    panel.set_title("at the end, by learning rate", fontsize=11, loc="left")
    panel.set_xlabel("learning rate\n(marks: seeds; lines: their mean)")


def draw(comparisons: Sequence[Comparison], records: Records, folder: Path) -> list[Path]:
    """Draw the figures of some experiments from their records; return the files.

    A figure has all data sets that its experiments ran on. Those without a record have no picture.
    """
    written = []
    recorded = [each for each in all_measured(comparisons, records) if each.records]
    for figure, rows in by_figure(recorded).items():
        paths = [folder / f"{figure}.{ending}" for ending in ("png", "svg")]
        save_figure(rows, paths)
        written += paths
    return written
