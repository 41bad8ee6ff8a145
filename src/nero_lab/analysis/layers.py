"""What the layers of a watched run did, by Plotly: a heat map against steps, and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from nero_lab.analysis.interactive import AXIS, LAYOUT, to_html
from nero_lab.records.store import Record

Column = Sequence[float | None]

QUANTITIES: Mapping[str, str] = {
    "angle_in_lr/mean": "turn of a step in lr, mean",
    "angle_in_lr/max": "turn of a step in lr, largest",
    "angle/mean": "turn of a step in radians, mean",
    "angle/max": "turn of a step in radians, largest",
    "angle_from_start/mean": "angle from the start, mean",
    "angle_from_start/max": "angle from the start, largest",
    "effective_rank": "effective rank of the turns",
    "capped": "share of neurons capped",
    "skipped": "share of neurons skipped",
    "norm_error": "norm error, largest",
    "lr": "learning rate",
}
"""what is drawn, in the order of the menus, the first one at first"""

# Of these 0 means that a layer stood still, which has to be seen at a glance.
_STILL = ("angle_in_lr", "angle", "effective_rank")
_STILL_COLOUR = "#D55E00"
# So many lines have room for a legend; what others are, they say under the mouse.
_NAMED = 8
_SCALE = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")  # viridis


def layer_panels(record: Record) -> list[tuple[str, str]]:
    """Return headings and HTML of a run's panels; none of a run that was not watched."""
    steps = record.result.layers.get("step", ())
    found = by_quantity(record.result.layers)
    if not found:
        return []
    return [
        ("layers against steps; orange: stood still", _heat_map(steps, found)),
        ("the same as curves, a line for each layer", _curves(steps, found)),
    ]


def by_quantity(columns: Mapping[str, Column]) -> dict[str, dict[str, Column]]:
    """Return the columns of each layer by what they measure, layers in the network's order."""
    found: dict[str, dict[str, Column]] = {}
    for quantity in QUANTITIES:
        of_layers = {
            key.removeprefix(f"{quantity}/"): column
            for key, column in columns.items()
            if key.rpartition("/")[0] == quantity
        }
        if of_layers:
            found[quantity] = of_layers
    return found


def _heat_map(steps: Column, found: Mapping[str, Mapping[str, Column]]) -> str:
    import plotly.graph_objects as go

    looks = {
        quantity: {
            "z": [list(column) for column in layers.values()],
            "y": list(layers),
            "colorscale": _colours(quantity),
            "zmax": max((z for c in layers.values() for z in c if z is not None), default=0) or 1,
        }
        for quantity, layers in found.items()
    }
    first = next(iter(found))
    figure = go.Figure(
        go.Heatmap(
            x=list(steps),
            **looks[first],
            zmin=0,
            hoverongaps=False,
            hovertemplate="%{y}, step %{x}: %{z:.4g}<extra></extra>",
            colorbar={"thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    arguments = {name: [{key: [x] for key, x in look.items()}] for name, look in looks.items()}
    return _to_html(figure, arguments, rows=len(found[first]))


def _colours(quantity: str) -> list[list[Any]]:
    scale = [[index / (len(_SCALE) - 1), colour] for index, colour in enumerate(_SCALE)]
    if quantity.partition("/")[0] in _STILL:
        return [[0, _STILL_COLOUR], [1e-6, _STILL_COLOUR], [1e-6, _SCALE[0]], *scale[1:]]
    return scale


def _curves(steps: Column, found: Mapping[str, Mapping[str, Column]]) -> str:
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale

    first = next(iter(found))
    layers = list(dict.fromkeys(layer for each in found.values() for layer in each))
    # From the first layer to the last, as the network has them.
    shades = sample_colorscale(
        list(_SCALE), [i / max(1, len(layers) - 1) for i in range(len(layers))]
    )
    missing = [None] * len(steps)
    columns = {
        quantity: [list(each.get(layer, missing)) for layer in layers]
        for quantity, each in found.items()
    }
    figure = go.Figure(
        [
            go.Scatter(
                x=list(steps),
                y=column,
                name=layer,
                mode="lines+markers",
                marker={"size": 4},
                line={"color": shade, "width": 1.5},
                hovertemplate=f"{layer}, step %{{x}}: %{{y:.4g}}<extra></extra>",
            )
            for layer, column, shade in zip(layers, columns[first], shades, strict=True)
        ]
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": -0.3, "yanchor": "top"})
    return _to_html(figure, {name: [{"y": each}] for name, each in columns.items()}, rows=0)


def _to_html(figure: Any, arguments: Mapping[str, list[Any]], rows: int) -> str:
    """Return a panel with a menu of quantities; `rows`: of a heat map, or 0."""
    figure.update_xaxes(title_text="step", **AXIS)
    figure.update_yaxes(automargin=True, **AXIS)
    buttons = [
        {"label": QUANTITIES[name], "method": "restyle", "args": each}
        for name, each in arguments.items()
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    menu["pad"] = {"b": 6}
    height = min(1200, max(340, 150 + 18 * rows))
    figure.update_layout(**{**LAYOUT, "height": height}, updatemenus=[menu])
    few = not rows and len(figure.data) <= _NAMED
    figure.update_layout(margin={"l": 52, "r": 12, "t": 48, "b": 48}, showlegend=few)
    return to_html(figure)
