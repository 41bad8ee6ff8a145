"""What an optimiser does to each group of a model's parameters, as a table of text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nero.groups import layout_of
from nero.state import constraints

HEADER = (
    *("role", "parameters", "neurons x fan-in", "lr", "at most"),
    *("turns by", "holds", "momentum", "state"),
)
SHOWN = 2  # of names or shapes in a cell


def table(optimizer: Optimizer) -> str:
    """A line for each group: what it is, how it turns, what it holds, what is kept for it."""
    lines = [HEADER, *(_line(group, optimizer.state) for group in optimizer.param_groups)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in ruled
    )


def size(count: float) -> str:
    """A number of bytes for people: 1,234,567 is "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


def _line(group: Mapping[str, Any], state: Mapping[Tensor, Any]) -> tuple[str, ...]:
    params = group["params"]
    layouts = [layout_of(p, group) for p in params]
    of_neurons = [layout for layout in layouts if layout.fan_in > 1]
    shapes = [f"{layout.neurons} x {layout.fan_in}" for layout in layouts]
    kept = sum(
        value.numel() * value.element_size()
        for p in params
        for value in state.get(p, {}).values()
        if isinstance(value, Tensor)
    )
    return (
        group.get("role", ""),
        _some([_pattern(name) for name in group.get("param_names", ())]),
        _some(shapes) if of_neurons else f"{sum(layout.neurons for layout in layouts)} entries",
        f"{float(group['lr']):.3g}",
        "" if (most := group["max_turn"]) is None else f"{float(group['lr']) * most:.3g}",
        _direction(group) if of_neurons else "its own gradient",
        _constraint(group, of_neurons),
        f"{group['momentum']:g}",
        size(kept),
    )


def _direction(group: Mapping[str, Any]) -> str:
    if not group["orthogonal"]:
        return "its own gradient"
    blocks = group["blocks"]
    return "orthogonal directions" + (f", {blocks} blocks" if blocks > 1 else "")


def _constraint(group: Mapping[str, Any], layouts: Iterable[Any]) -> str:
    held = {constraints(layout, group["center"], group["radius"]) for layout in layouts}
    center, normalize = any(pair[0] for pair in held), any(pair[1] for pair in held)
    radius = group["radius"]
    norm = {"unit": "norm 1", "initial": "own norm"}.get(
        radius, f"norm {radius:.3g}" if isinstance(radius, float) else f"norm {radius}"
    )
    relative = ["relative steps"] * (group["relative"] and not normalize)
    return ", ".join(["mean 0"] * center + [norm] * normalize + relative) or "free"


def _pattern(name: str) -> str:
    """The name with its numbers as stars, which many layers have in common."""
    return re.sub(r"\b\d+\b", "*", name)


def _some(texts: Iterable[str]) -> str:
    """The first few different ones, with how often each comes, and how many more there are."""
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    shown = [text + (f" ({n})" if n > 1 else "") for text, n in list(counts.items())[:SHOWN]]
    more = len(counts) - SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
