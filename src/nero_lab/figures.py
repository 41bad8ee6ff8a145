"""Pictures of a comparison: Matplotlib for files, Plotly for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nero_lab.plan import CHANCE, LEARNED, Arm, FindRecord, Plan
from nero_lab.results import records_at

# Okabe and Ito's colours, told apart with any colour vision; dashes mark the control besides.
COLOURS = {"nero": "#0072B2", "sgd": "#D55E00", "adam": "#E69F00", "lamb": "#009E73"}
COLUMNS = ("out of the box", "best of its grid")


@dataclass(frozen=True)
class Curve:
    """Validation accuracy by epoch: the mean over seeds, and the worst and best seed."""

    arm: Arm
    lr: float
    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]

    @property
    def label(self) -> str:
        """Return the name in a legend."""
        return self.arm.label

    @property
    def colour(self) -> str:
        """Return the optimiser's colour."""
        return COLOURS[self.arm.optimizer]

    @property
    def control(self) -> bool:
        """Return whether it started from other than default weights."""
        return self.arm.init != "default"


def curves(plan: Plan, depth: int, column: str, find: FindRecord) -> list[Curve]:
    """Return the curves of one panel: all arms of a depth, at one kind of learning rate."""
    drawn = []
    for arm in plan.arms:
        lr = arm.spec.default_lr if column == COLUMNS[0] else plan.best_lr(arm, find)
        if arm.depth != depth or lr is None:
            continue
        runs = [
            [value for value in record.result.curves["val_metric"] if value is not None]
            for record in records_at(plan, arm, lr, find)
        ]
        # A diverged run ends early: from there on its seed is missing from mean and range.
        by_epoch = [
            [run[epoch] for run in runs if epoch < len(run)]
            for epoch in range(max(map(len, runs), default=0))
        ]
        if by_epoch:
            drawn.append(
                Curve(
                    arm=arm,
                    lr=lr,
                    epochs=list(range(1, len(by_epoch) + 1)),
                    mean=[sum(values) / len(values) for values in by_epoch],
                    low=[min(values) for values in by_epoch],
                    high=[max(values) for values in by_epoch],
                )
            )
    return drawn


def save_curves(plan: Plan, find: FindRecord, paths: Sequence[Path]) -> None:
    """Draw validation accuracy by epoch, one panel per depth and kind of learning rate.

    Args:
        plan: what was compared.
        find: looks a run up.
        paths: the files to write; their endings decide the formats.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depths = plan.preset.depths
    figure = Figure(figsize=(9, 1.4 + 2.9 * len(depths)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(depths), len(COLUMNS), sharex="row", sharey=True, squeeze=False)
    legend = {}
    for depth, row in zip(depths, panels, strict=True):
        for column, panel in zip(COLUMNS, row, strict=True):
            panel.set_title(f"{depth} layers, {column}", fontsize=11, loc="left")
            panel.axhline(CHANCE, color="0.6", linewidth=0.8, linestyle=":")
            drawn = curves(plan, depth, column, find)
            for curve in drawn:
                style = "--" if curve.control else "-"
                (line,) = panel.plot(
                    curve.epochs, curve.mean, style, color=curve.colour, linewidth=1.8
                )
                panel.fill_between(
                    curve.epochs, curve.low, curve.high, color=curve.colour, alpha=0.15, linewidth=0
                )
                legend.setdefault(curve.label, line)
            # Lines that stay at chance lie on top of each other: say which these are.
            flat = [curve.label for curve in drawn if max(curve.mean) < LEARNED]
            if flat:
                panel.text(
                    0.98,
                    0.03,
                    f"at chance: {', '.join(flat)}",
                    transform=panel.transAxes,
                    ha="right",
                    fontsize=8.5,
                    color="0.35",
                )
            panel.set_ylim(0, 1)
            panel.set_xlim(1, plan.preset.schedules[depth].epochs)
            panel.grid(color="0.92")
            panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    for panel in panels[:, 0]:
        panel.set_ylabel("validation accuracy")
    if legend:
        figure.legend(
            legend.values(), legend.keys(), loc="outside upper center", ncols=6, frameon=False
        )
    for path in paths:
        figure.savefig(path, dpi=150)


def curves_html(plan: Plan, find: FindRecord) -> str:
    """Return the curves as a Plotly figure, without the library itself."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    depths = plan.preset.depths
    figure = make_subplots(
        rows=len(depths),
        cols=2,
        shared_yaxes=True,
        subplot_titles=[f"{depth} layers, {column}" for depth in depths for column in COLUMNS],
        vertical_spacing=0.25 / (len(depths) + 1),
        horizontal_spacing=0.04,
    )
    shown: set[str] = set()
    for row, depth in enumerate(depths, start=1):
        for col, column in enumerate(COLUMNS, start=1):
            for curve in curves(plan, depth, column, find):
                band = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
                group = {"legendgroup": curve.label, "x": curve.epochs}
                fill = {"fill": "tonexty", "fillcolor": _translucent(curve.colour)}
                traces = [
                    go.Scatter(y=curve.high, mode="lines", **group, **band),
                    go.Scatter(y=curve.low, mode="lines", **group, **band, **fill),
                    go.Scatter(
                        y=curve.mean,
                        mode="lines",
                        name=curve.label,
                        showlegend=curve.label not in shown,
                        line={"color": curve.colour, "dash": "dash" if curve.control else "solid"},
                        hovertemplate=f"{curve.label}, lr {curve.lr:g}<br>"
                        "epoch %{x}: %{y:.3f}<extra></extra>",
                        **group,
                    ),
                ]
                shown.add(curve.label)
                for trace in traces:
                    figure.add_trace(trace, row=row, col=col)
    figure.update_yaxes(range=[0, 1])
    figure.update_yaxes(title_text="validation accuracy", col=1)
    figure.update_xaxes(title_text="epoch", row=len(depths))
    return _to_html(figure, height=180 + 300 * len(depths))


def sensitivity_html(plan: Plan, find: FindRecord) -> str:
    """Return final validation accuracy by learning rate on the first seed, as a Plotly figure."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    depths = plan.preset.depths
    figure = make_subplots(
        cols=len(depths),
        shared_yaxes=True,
        subplot_titles=[f"{depth} layers" for depth in depths],
        horizontal_spacing=0.04,
    )
    for arm in plan.arms:
        lrs = sorted({*plan.lr_grid(arm), arm.spec.default_lr})
        found = [(lr, find(plan.config(arm, lr, plan.preset.seeds[0]))) for lr in lrs]
        points = [(lr, record.result) for lr, record in found if record is not None]
        figure.add_trace(
            go.Scatter(
                x=[lr for lr, _ in points],
                y=[result.val_metric for _, result in points],
                text=[result.status for _, result in points],
                mode="lines+markers",
                name=arm.label,
                legendgroup=arm.label,
                showlegend=arm.depth == depths[0],
                line={
                    "color": COLOURS[arm.optimizer],
                    "dash": "solid" if arm.init == "default" else "dash",
                },
                marker={
                    "size": 9,
                    "symbol": [
                        "x-open" if result.status == "diverged" else "circle"
                        for _, result in points
                    ],
                },
                hovertemplate=f"{arm.label}, lr %{{x}}: %{{y:.3f}} (%{{text}})<extra></extra>",
            ),
            row=1,
            col=depths.index(arm.depth) + 1,
        )
    figure.update_xaxes(type="log", title_text="learning rate", exponentformat="power", dtick=1)
    figure.update_yaxes(range=[0, 1])
    figure.update_yaxes(title_text="validation accuracy", col=1)
    return _to_html(figure, height=430)


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _to_html(figure, height: int) -> str:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + 45 / height, "x": 0},
    )
    return figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
