"""What the layers of a run do in every n-th step, by `nero.watch`, as columns for its record."""

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

import nero


class Layers:
    """A watch on each optimiser of a run, and what they have reported.

    Args:
        optimizers: by name.
        every: how many steps of an optimiser from one report to the next.

    Raises:
        ValueError: an optimiser is not Nero.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer], every: int) -> None:
        self.columns: dict[str, list[float | None]] = {}
        """columns of equal length, a row for each report: "step", of the run, and the keys of
        `nero.telemetry.Watch.report`; None where a layer was not stepped or has no number"""
        self._watches: dict[str, nero.telemetry.Watch] = {}
        for name, optimizer in optimizers.items():
            if not isinstance(optimizer, nero.Nero):
                kind = type(optimizer).__name__
                raise ValueError(f"only Nero's layers can be watched, and this run has {kind}")
            self._watches[name] = nero.watch(optimizer, every=every, start=True)

    def collect(self, step: int) -> None:
        """Add what was observed in a step of the run to the columns."""
        row: dict[str, float] = {"step": step}
        for name, watch in self._watches.items():
            report = watch.report()
            for key, value in ({} if report is None else report).items():
                quantity, slash, layer = key.rpartition("/")
                # Networks that are trained side by side may call their layers alike.
                prefix = f"{name}." if len(self._watches) > 1 else ""
                if slash and math.isfinite(value):
                    row[f"{quantity}/{prefix}{layer}"] = value
        if len(row) == 1:
            return
        rows = len(self.columns.get("step", ()))
        for key in row:
            self.columns.setdefault(key, [None] * rows)
        for key, column in self.columns.items():
            column.append(row.get(key))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to end with the same columns."""
        watches = {name: watch.state_dict() for name, watch in self._watches.items()}
        return {"columns": self.columns, "watches": watches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.columns = state["columns"]
        for name, saved in state["watches"].items():
            self._watches[name].load_state_dict(saved)
