"""A table of what every parameter of a model is to Nero, and what the optimiser will keep for it.

The function is public as `nero.describe`; a module of that name would hide it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from nero.geometry import working_dtype
from nero.model.assignment import Assignment, Options
from nero.model.depth import layers_by_parameter, rate_factor
from nero.model.heads import Named
from nero.model.param_groups import plan
from nero.model.registry.rows import PER_ENTRY_ROLES
from nero.model.report import size
from nero.model.trace import TracedLayer, trace

NUMERIC = ("neurons", "fan_in", "state_bytes", "row", "rate")
STEP_BYTES = 4  # a step count is a float32 scalar, in Nero as in Adam


@dataclass(frozen=True)
class DescriptionRow:
    """One trainable parameter.

    Attributes:
        name: its first name in the model; tied names follow after " = ".
        owner: the type of the module that owns it, without its package.
        role: "weight", "embedding", "head", "gain" or "bias".
        shape: the tensor's.
        neurons: how many; each entry of a gain or bias counts as one here, but not in the summary.
        fan_in: entries in each.
        constraint: what each neuron obeys: "mean 0, norm 1", "own norm", "free".
        state_bytes: what Nero keeps for it.
        row: how many layers stand in a row with it, without a skip connection or a normalisation
            (`nero.model.trace`); None without a batch, and where it is part of no layer.
        rate: its learning rate under `nero.for_model`, in multiples of `turn`, as far as that
            follows from the row; less where `nero.initialize_` draws the layer anew. None
            without a batch.
    """

    name: str
    owner: str
    role: str
    shape: tuple[int, ...]
    neurons: int
    fan_in: int
    constraint: str
    state_bytes: int
    row: int | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Description:
    """What `nero.describe` returns: a table as text, as HTML in notebooks, and as data.

    Attributes:
        rows: one for each trainable parameter, in the model's order.
        entries: trainable numbers in the model.
        state_bytes: what Nero keeps for all of them.
        adam_bytes: what torch.optim.Adam would.

    Examples:
        >>> import torch, nero
        >>> table = nero.describe(torch.nn.Linear(64, 10))
        >>> [(row.name, row.neurons, row.fan_in) for row in table.rows]
        [('weight', 10, 64), ('bias', 10, 1)]
        >>> table.state_bytes, table.adam_bytes
        (96, 5208)
    """

    rows: tuple[DescriptionRow, ...]
    entries: int
    state_bytes: int
    adam_bytes: int

    @property
    def summary(self) -> str:
        """The totals in one line."""
        neurons = sum(row.neurons for row in self.rows if row.role not in PER_ENTRY_ROLES)
        line = (
            f"{len(self.rows)} parameters, {self.entries:,} entries, {neurons:,} neurons; "
            f"state: Nero {size(self.state_bytes)}, Adam {size(self.adam_bytes)}"
        )
        if not self.state_bytes:
            return line
        return f"{line} ({self.adam_bytes / self.state_bytes:,.1f} times as much)"

    def __str__(self) -> str:
        header, cells = self._cells()
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        numeric = [name.replace(" ", "_") in NUMERIC for name in header]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
            for line in [header, ["-" * width for width in widths], *cells]
        ]
        return "\n".join([*lines, self.summary])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        header, cells = self._cells()
        numeric = [name.replace(" ", "_") in NUMERIC for name in header]
        styles = [f"text-align:{'right' if right else 'left'}" for right in numeric]

        def line(tag: str, texts: Iterable[str]) -> str:
            return "".join(
                f'<{tag} style="{style}">{html.escape(text)}</{tag}>'
                for text, style in zip(texts, styles, strict=True)
            )

        body = "".join(f"<tr>{line('td', texts)}</tr>" for texts in cells)
        return (
            f"<table><caption>{html.escape(self.summary)}</caption>"
            f"<thead><tr>{line('th', header)}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        names = [field.name for field in fields(DescriptionRow)]
        if all(row.rate is None for row in self.rows):
            names = [name for name in names if name not in ("row", "rate")]
        header = [name.replace("_", " ") for name in names]
        return header, [[_cell(getattr(row, name)) for name in names] for row in self.rows]


def describe(
    model: nn.Module,
    *,
    preset: str = "balanced",
    head: Named | Iterable[Named] | None = None,
    embedding: Named | Iterable[Named] | None = None,
    overrides: Mapping[str, Options] | None = None,
    batch: Any = None,
    unknown: str = "raise",
) -> Description:
    """A table of every trainable parameter: owner, role, neurons, constraint, bytes of state.

    Shows what `nero.param_groups` gives the optimiser, whose arguments and errors it has, and
    changes nothing. The bytes are those of the state that `nero.Nero` keeps (with momentum only
    where an override sets it), beside those of `torch.optim.Adam`. With a batch the table also has
    how many layers stand in a row, and the rates that `nero.for_model` gives them for that.

    Returns:
        A `Description`: print it, let a notebook show it, or read its `rows`.

    Examples:
        >>> import torch, nero
        >>> nero.describe(torch.nn.Linear(64, 10))
        name    owner   role    shape    neurons  fan in  constraint      state bytes
        ------  ------  ------  -------  -------  ------  --------------  -----------
        weight  Linear  weight  10 x 64       10      64  mean 0, norm 1           48
        bias    Linear  bias    10            10       1  free                     48
        2 parameters, 650 entries, 10 neurons; state: Nero 96 B, Adam 5.2 kB (54.2 times as much)
    """
    assignments = plan(
        model,
        preset=preset,
        head=head,
        embedding=embedding,
        overrides=overrides,
        batch=batch,
        unknown=unknown,
    )
    layers = None if batch is None else layers_by_parameter(model, trace(model, batch))
    rows = tuple(_row(each, layers) for each in assignments)
    return Description(
        rows=rows,
        entries=sum(each.parameter.numel() for each in assignments),
        state_bytes=sum(row.state_bytes for row in rows),
        adam_bytes=sum(_adam_bytes(each.parameter) for each in assignments),
    )


def _row(each: Assignment, layers: Mapping[int, TracedLayer] | None) -> DescriptionRow:
    layer = None if layers is None else layers.get(id(each.parameter))
    row = None if layer is None else layer.row
    return DescriptionRow(
        name=" = ".join(each.names),
        owner=each.owner.rpartition(".")[2],
        role=each.role,
        shape=each.layout.shape,
        neurons=each.layout.neurons,
        fan_in=each.layout.fan_in,
        constraint=_constraint(each),
        state_bytes=_nero_bytes(each),
        row=row,
        rate=None if layers is None else rate_factor(row or 1),
    )


def _holds(each: Assignment) -> bool:
    """Whether the fan-in is large enough for the neurons to turn under their constraint."""
    center, radius = each.options["center"], each.options["radius"]
    return each.layout.can_hold(center=center, normalize=radius is not None)


def _constraint(each: Assignment) -> str:
    center, radius = each.options["center"], each.options["radius"]
    if not _holds(each):
        return "free (fan-in too small)"
    norm = {None: "", "unit": "norm 1", "initial": "own norm"}.get(radius, f"norm {radius}")
    return ", ".join(filter(None, ["mean 0" if center else "", norm])) or "free"


def _nero_bytes(each: Assignment) -> int:
    size = working_dtype(each.parameter.dtype).itemsize
    own_radius = each.options["radius"] == "initial" and _holds(each)
    numbers = each.layout.neurons * (1 + own_radius) + 1  # rms, radius; scale
    if each.options.get("momentum", 0) > 0:
        numbers += each.parameter.numel()
    return STEP_BYTES + size * numbers


def _adam_bytes(p: nn.Parameter) -> int:
    return STEP_BYTES + 2 * p.numel() * p.element_size()


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value)) or "scalar"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
