"""The pictures of the study: measure against gap, flatness curves, and how far neurons turn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nero_lab.records.store import Record
from nero_lab.studies.generalisation.findings import Findings, Prediction
from nero_lab.studies.generalisation.grid import setting
from nero_lab.training.until_fitted import QUANTILES

_COLOURS = ("#0072B2", "#E69F00", "#CC79A7")
"""of the values of a hyperparameter, in their order; Okabe and Ito's"""
_LOGARITHMIC = {"parameters", "sharpness", "margin", "spectral", "cap-cost"}
_COLUMNS = 5


def save_measures(findings: Findings, path: Path) -> None:
    """Draw each measure against the gap, a point for each network, coloured by label noise."""
    predictions = findings.predictions
    rows = -(-len(predictions) // _COLUMNS)
    figure = _figure(3.2 * _COLUMNS, 3.1 * rows)
    panels = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).flatten()
    for panel, each in zip(panels, predictions, strict=False):
        _draw_measure(panel, each, findings)
    for panel in panels[len(predictions) :]:
        panel.remove()
    for panel in panels[::_COLUMNS]:
        panel.set_ylabel("gap")
    panels[0].legend(title="label noise", fontsize=8)
    figure.savefig(path, dpi=110)


def _draw_measure(panel: Any, prediction: Prediction, findings: Findings) -> None:
    name = prediction.measure.name
    for noise, colour in _coloured(each.setting["noise"] for each in findings.networks).items():
        some = [each for each in findings.networks if each.setting["noise"] == noise]
        values, gaps = [each.measures[name] for each in some], [each.gap for each in some]
        panel.plot(values, gaps, "o", color=colour, markersize=3, alpha=0.6, label=f"{noise:g}")
    if name in _LOGARITHMIC:
        _logarithmic(panel)
    panel.set_title(
        f"{prediction.measure.title}\ntau {prediction.tau}, Psi {prediction.psi}", fontsize=8
    )
    _tidy(panel)


def save_turning(records: Sequence[Record], path: Path) -> None:
    """Draw accuracy against the angle of random turns, and the neurons' angles over training.

    On the left every network that was measured, coloured by target scale; then a panel for the
    deepest and widest network of each scale at the most label noise, first seed, with the median
    and the 10th to 90th percentile of each layer's angles.
    """
    measured = [record for record in records if "turned" in record.result.metrics]
    colours = _coloured(setting(record.run)["scale"] for record in measured)
    chosen = {scale: _largest(measured, scale) for scale in colours}
    figure = _figure(4.2 * (1 + len(chosen)), 3.6)
    first, *panels = figure.subplots(1, 1 + len(chosen), squeeze=False)[0]
    labelled = set()
    for record in measured:
        scale = setting(record.run)["scale"]
        turned = record.result.metrics["turned"]
        label = None if scale in labelled else f"{scale:g}"
        labelled.add(scale)
        angles = [float(angle) for angle in turned]
        first.plot(
            angles, list(turned.values()), color=colours[scale], alpha=0.3, lw=0.8, label=label
        )
    first.set_xlabel("turn of all neurons, radians")
    first.set_ylabel("training accuracy")
    first.legend(title="target scale", fontsize=8)
    _tidy(first)
    for panel, (scale, record) in zip(panels, chosen.items(), strict=True):
        _draw_angles(panel, record)
        where = setting(record.run)
        panel.set_title(
            f"{where['depth']} x {where['width']}, noise {where['noise']:g}, scale {scale:g}",
            fontsize=9,
        )
    figure.savefig(path, dpi=110)


def _largest(records: Sequence[Record], scale: float) -> Record:
    def rank(record: Record) -> tuple[float, ...]:
        where = setting(record.run)
        return where["noise"], where["depth"], where["width"], -where["seed"]

    return max((r for r in records if setting(r.run)["scale"] == scale), key=rank)


def _draw_angles(panel: Any, record: Record) -> None:
    curves = record.result.curves
    low, middle, high = QUANTILES
    layers = [n.removesuffix(f"_{middle:g}") for n in curves if n.endswith(f"_{middle:g}")]
    for index, layer in enumerate(layers):
        band = [curves[f"{layer}_{quantile:g}"] for quantile in (low, high)]
        colour = f"C{index}"
        panel.fill_between(curves["epoch"], *band, color=colour, alpha=0.15, lw=0)
        label = f"layer {index + 1}"
        panel.plot(curves["epoch"], curves[f"{layer}_{middle:g}"], color=colour, label=label)
    panel.set_xlabel("epoch")
    panel.set_ylabel("angle from the initial weights, radians")
    panel.legend(fontsize=8)
    _tidy(panel)


def _coloured(values: Any) -> Mapping[float, str]:
    return dict(zip(sorted(set(values)), _COLOURS, strict=False))


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _logarithmic(panel: Any) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    panel.set_xscale("log")
    low, high = panel.get_xlim()
    few = high < 100 * low  # room for labels between the powers of ten
    panel.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panel.xaxis.set_minor_formatter(FormatStrFormatter("%.3g") if few else NullFormatter())
    panel.xaxis.set_major_formatter(FormatStrFormatter("%.3g"))
    panel.tick_params(axis="x", which="both", labelsize=7)


def _tidy(panel: Any) -> None:
    panel.grid(color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
