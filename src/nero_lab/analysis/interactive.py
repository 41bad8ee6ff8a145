"""The panels of the page, by Plotly. Each point carries the place of its record on the page."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nero_lab.analysis.curves import (
    COLUMNS,
    Curve,
    beyond,
    curve_name,
    curves,
    limits,
    logarithmic,
    x_name,
)
from nero_lab.analysis.measured import Measured, Series
from nero_lab.analysis.palette import Style, styles
from nero_lab.analysis.table import headline
from nero_lab.records.store import Record

# Of the page's own: a template of Plotly's would be repeated with every panel.
AXIS = {"gridcolor": "#ececec", "linecolor": "#888", "zeroline": False, "ticks": "outside"}
LAYOUT = {
    # The page's own legend switches a variant in all panels of its experiment at once.
    "showlegend": False,
    "height": 340,
    "margin": {"l": 52, "r": 12, "t": 12, "b": 48},
    "plot_bgcolor": "#fff",
    "paper_bgcolor": "#fff",
    "font": {"size": 12, "family": "system-ui, sans-serif"},
    "template": "none",
    "hovermode": "closest",
}


def anchor(record: Record) -> str:
    """Return the id of a record's part of the page."""
    return f"run-{record.run.run_id}"


def panels(measured: Measured) -> list[tuple[str, str]]:
    """Return headings and HTML of an experiment's panels; none where nothing is recorded."""
    if not measured.records:
        return []
    looks = styles(measured.series)
    what = (curve_name(measured) or "").replace("val_", "validation ").replace("_", " ")
    found = [
        (
            f"{what} by {x_name(measured)}, {column}",
            _curves_html(measured, column, looks),
        )
        for column in COLUMNS
    ]
    return [*found, ("at the end, by learning rate", _by_lr_html(measured, looks))]


def _curves_html(measured: Measured, column: str, looks: dict[str, Style]) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    drawn = curves(measured, column)
    for curve in drawn:
        _add_curve(figure, curve, looks[curve.series.name])
    if column == COLUMNS[1]:
        end = max((x for curve in drawn for x, *_ in curve.points), default=1.0) * 1.05
        for series in measured.series:
            _add_published(figure, series, end, looks[series.name], measured.stands_in_for)
    figure.update_xaxes(title_text=x_name(measured))
    return _to_html(figure, measured)


def _add_curve(figure: Any, curve: Curve, style: Style) -> None:
    """Add the range, each seed's run, thin, and the mean, thick."""
    import plotly.graph_objects as go

    label, variant = curve.series.label, curve.series.name
    x, mean, low, high = (list(column) for column in zip(*curve.points, strict=True))
    figure.add_trace(
        go.Scatter(
            x=x + x[::-1],
            y=high + low[::-1],
            fill="toself",
            fillcolor=style.translucent,
            line={"width": 0},
            hoverinfo="skip",
            mode="lines",
            meta=variant,
        )
    )
    for seed in curve.seeds:
        last = ["circle"] * (len(seed.x) - 1) + ["x" if seed.diverged else "circle"]
        figure.add_trace(
            go.Scatter(
                x=seed.x,
                y=seed.y,
                mode="lines+markers",
                line={"color": style.colour, "width": 0.7, "dash": style.dash},
                marker={"size": [9 if mark == "x" else 3 for mark in last], "symbol": last},
                opacity=0.6,
                customdata=[anchor(seed.record)] * len(seed.x),
                hovertemplate=f"{label}, lr {curve.lr:g}, seed {seed.record.run.seed}<br>"
                "%{x}: %{y:.4g}<extra></extra>",
                meta=variant,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=mean,
            mode="lines",
            line={"color": style.colour, "width": 2.5, "dash": style.dash},
            hoverinfo="skip",
            name=label,
            meta=variant,
        )
    )


def _add_published(
    figure: Any, series: Series, x: float, style: Style, stands_in_for: str | None
) -> None:
    import plotly.graph_objects as go

    figures = headline(series.published, series.metric)
    on = f" on {stands_in_for}" if stands_in_for else ""
    if figures:
        figure.add_trace(
            go.Scatter(
                x=[x] * len(figures),
                y=[each.value for each in figures],
                mode="markers",
                marker={"symbol": "star", "size": 10, "color": style.colour},
                text=[f"{each.what}, lr {each.lr:g}" for each in figures],
                hovertemplate=f"{series.label}, published{on}<br>%{{y:.4g}} (%{{text}})"
                "<extra></extra>",
                meta=series.name,
            )
        )


def _by_lr_html(measured: Measured, looks: dict[str, Style]) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    edge = _edge(measured)
    for series in measured.series:
        _add_by_lr(figure, series, looks[series.name], edge, partial(beyond, measured))
    figure.update_xaxes(type="log", title_text="learning rate", exponentformat="power", dtick=1)
    return _to_html(figure, measured)


def _add_by_lr(
    figure: Any, series: Series, style: Style, edge: float, far: Callable[[float], bool]
) -> None:
    """Add a line through the means over the seeds, and a marker for every run."""
    import plotly.graph_objects as go

    means = series.means_by_lr()
    figure.add_trace(
        go.Scatter(
            x=[lr for lr, _ in means],
            y=[value for _, value in means],
            mode="lines",
            line={"color": style.colour, "width": 1.5, "dash": style.dash},
            hoverinfo="skip",
            name=series.label,
            meta=series.name,
        )
    )
    runs = sorted(series.records.items())
    final = [series.selection(lr, seed) for (lr, seed), _ in runs]
    figure.add_trace(
        go.Scatter(
            x=[lr for (lr, _), _ in runs],
            y=[edge if value is None or far(value) else value for value in final],
            cliponaxis=False,
            mode="markers",
            marker={
                "size": 9,
                "color": style.colour,
                "symbol": [
                    "x" if record.result.status == "diverged" else style.symbol
                    for _, record in runs
                ],
            },
            text=[
                f"seed {seed}: {'no finite number' if value is None else f'{value:.4g}'}"
                f", {record.result.status}"
                for ((_, seed), record), value in zip(runs, final, strict=True)
            ],
            customdata=[anchor(record) for _, record in runs],
            hovertemplate=f"{series.label}, lr %{{x}}<br>%{{text}}<extra></extra>",
            meta=series.name,
        )
    )


def _to_html(figure: Any, measured: Measured) -> str:
    figure.update_xaxes(**AXIS)
    figure.update_yaxes(**AXIS)
    low, high = limits(measured)
    if logarithmic(measured):
        figure.update_yaxes(type="log", range=[math.log10(low) - 0.08, math.log10(high) + 0.08])
    else:
        margin = 0.05 * ((high - low) or 1.0)
        figure.update_yaxes(range=[low - margin, high + margin])
    figure.update_layout(**LAYOUT)
    return to_html(figure)


def to_html(figure: Any) -> str:
    """Return a figure as a part of the page, which has Plotly's script already."""
    return figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )


def _edge(measured: Measured) -> float:
    """Return where to mark a run without a number: a little beyond the worst of the others."""
    low, high = limits(measured)
    if logarithmic(measured):
        return high * 1.12
    beyond = 0.03 * (high - low)
    return low - beyond if measured.metric.better == "higher" else high + beyond


def legend(measured: Measured) -> Sequence[tuple[Series, Style]]:
    """Return the variants that have records, with what their lines look like."""
    looks = styles(measured.series)
    return [(series, looks[series.name]) for series in measured.series if series.records]
