"""Nero: an optimiser that trains networks by turning balanced neurons.

>>> import torch, nero
>>> model = torch.nn.Linear(8, 4)
>>> optimizer = nero.Nero(model.parameters(), lr=0.01)

Names that need torch are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nero.neurons import NeuronLayout

if TYPE_CHECKING:
    from nero import geometry
    from nero.optimizer import Nero

__version__ = "0.1.0.dev0"
__all__ = ["Nero", "NeuronLayout", "geometry"]


def __getattr__(name: str) -> Any:
    if name == "Nero":
        return importlib.import_module("nero.optimizer").Nero
    if name == "geometry":
        return importlib.import_module("nero.geometry")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
