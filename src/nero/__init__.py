"""Nero: an optimiser that trains networks by turning balanced neurons.

>>> import torch, nero
>>> model = torch.nn.Linear(8, 4)
>>> optimizer = nero.Nero(model.parameters(), lr=0.01)

Names that need torch are loaded when they are first used. `nero.__version__` is that of the
installed distribution.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nero.neurons import NeuronLayout

if TYPE_CHECKING:
    from nero import geometry, integrations, measures
    from nero.backward import step_in_backward
    from nero.model.describe import Description, describe
    from nero.model.for_model import for_model
    from nero.model.initialize import initialize_
    from nero.model.param_groups import balance_, param_groups
    from nero.model.registry.lookup import register
    from nero.optimizer import Nero
    from nero.telemetry import watch

    __version__: str

__all__ = [
    "Description",
    "Nero",
    "NeuronLayout",
    "balance_",
    "describe",
    "for_model",
    "geometry",
    "initialize_",
    "integrations",
    "measures",
    "param_groups",
    "register",
    "step_in_backward",
    "watch",
]

_MODULES = ("geometry", "integrations", "measures")

# Where each name that needs torch lives.
_HOMES = {
    "Description": "nero.model.describe",
    "Nero": "nero.optimizer",
    "balance_": "nero.model.param_groups",
    "describe": "nero.model.describe",
    "for_model": "nero.model.for_model",
    "initialize_": "nero.model.initialize",
    "param_groups": "nero.model.param_groups",
    "register": "nero.model.registry.lookup",
    "step_in_backward": "nero.backward",
    "watch": "nero.telemetry",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nero-optim")
    if name not in _MODULES and name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOMES.get(name, f"nero.{name}"))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = f'nero.{name} needs PyTorch: pip install "nero-optim[torch]"'
        raise ModuleNotFoundError(message, name="torch") from None
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
