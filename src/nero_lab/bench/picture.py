"""The picture of a report: time against AdamW, and the share of a training step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nero_lab.bench.contestants import ADAMW, FLOOR, NERO, RECOMMENDED
from nero_lab.bench.devices import DEVICES
from nero_lab.bench.results import Report, Table
from nero_lab.bench.workloads import DTYPES

# Okabe and Ito's colours; what the page is about stands out from its peers.
COLOURS = {
    NERO: "#0072B2",
    RECOMMENDED: "#56B4E9",
    ADAMW: "#E69F00",
    FLOOR: "#000000",
    "sgd": "#D55E00",
}
PEER = "0.55"
MARKERS = ("o", "s", "^", "D")


def save_picture(report: Report, path: Path) -> None:
    """Draw what the report has figures for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    device = DEVICES[report.device]
    figure: Any = Figure(figsize=(11, 10 if device.training else 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper = figure
    if device.training:
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.1, 1))
        _draw_training(lower.subplots(), report)
    labels = {key: contestant.label for key, contestant in device.contestants.items()}
    panels = upper.subplots(1, len(DTYPES), sharey=True)
    for panel, dtype in zip(panels, DTYPES, strict=True):
        tables = [table for table in report.tables if table.dtype == dtype]
        what = "time of a step" if device.key == "cpu" else "device time of a step"
        _draw_times(panel, tables, labels, f"{what} / AdamW fused, {dtype}")
    legend = {}
    for panel in panels:
        handles, names = panel.get_legend_handles_labels()
        legend |= dict(zip(names, handles, strict=True))
    upper.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_times(
    panel: Any, tables: list[Table], contestants: Mapping[str, str], title: str
) -> None:
    """Draw each contestant's time as a multiple of AdamW's; a marker is a workload."""
    keys = list(contestants)[::-1]
    for table, marker in zip(tables, MARKERS, strict=False):
        points = [(table.ratio(key, ADAMW), height) for height, key in enumerate(keys)]
        seen = [(x, y) for x, y in points if x is not None]
        panel.scatter(
            [x for x, _ in seen],
            [y for _, y in seen],
            marker=marker,
            s=34,
            c=[COLOURS.get(keys[y], PEER) for _, y in seen],
            alpha=0.85,
            label=table.label,
        )
    panel.axvline(1, color=COLOURS[ADAMW], linewidth=0.8)
    panel.set_yticks(range(len(keys)), [contestants[key] for key in keys], fontsize=8)
    panel.set_title(title, fontsize=10, loc="left")
    _tidy(panel)
    if tables:
        panel.set_xscale("log")


def _draw_training(panel: Any, report: Report) -> None:
    rows = report.training[::-1]
    names = [f"{row.label.split(',')[0]}, {row.optimizer_label}" for row in rows]
    colours = [COLOURS.get(row.optimizer, PEER) for row in rows]
    panel.barh(names, [100 * row.share for row in rows], color=colours)
    for height, row in enumerate(rows):
        panel.text(100 * row.share, height, f" {row.share:.1%}", va="center", fontsize=8)
    panel.tick_params(axis="y", labelsize=8)
    panel.margins(x=0.12)
    panel.set_title("the optimiser's share of a training step, %", fontsize=10, loc="left")
    _tidy(panel)


def _tidy(panel: Any) -> None:
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
