"""Who takes part: optimisers, each with one grid for all tasks, and what they start from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nero_lab.experiments.task import Variant


@dataclass(frozen=True)
class Contestant:
    """An optimiser, and the initial weights that it has where the network is a plain chain."""

    name: str
    label: str
    optimizer: str
    lr_grid: tuple[float, ...]
    """the same on every task, in half decades; holds the default learning rate. Where the best rate
    is the last one, a task has further ones"""
    init: str
    """on plain chains, an option of `PlainMLP`; all other networks start as their tasks say"""
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)

    def variant(self, chain: bool) -> Variant:
        """Return the variant for a task whose network is a plain chain, or is none."""
        return Variant(
            name=self.name,
            label=self.label,
            optimizer=self.optimizer,
            lr_grid=self.lr_grid,
            optimizer_options=self.optimizer_options,
            model={"init": self.init} if chain else {},
        )

    def with_rate_beyond(self, lr: float) -> "Contestant":
        """Return the contestant with a further half decade beyond `lr`, if it ends its grid."""
        (first, second), (last_but_one, last) = self.lr_grid[:2], self.lr_grid[-2:]
        further = {first: second / 10, last: last_but_one * 10}.get(lr)
        more = () if further is None else (float(f"{further:.2g}"),)
        return replace(self, lr_grid=tuple(sorted({*self.lr_grid, *more})))


_PEERS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "adamw": ("AdamW", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    "sgd": ("SGD, momentum 0.9", (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    "lamb": ("LAMB", (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    "muon": ("Muon with AdamW", (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "schedule-free": ("Schedule-Free AdamW", (2.5e-4, 8e-4, 2.5e-3, 8e-3, 2.5e-2)),
}

# What nero.for_model starts from on plain chains is its own choice.
_NERO = (
    ("nero", "Nero, the paper", (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    ("nero-for-model", "Nero, recommended", (5e-3, 1.5e-2, 5e-2, 1.5e-1, 5e-1)),
    ("nero-for-model-plain", "Nero, recommended, no momentum", (5e-3, 1.5e-2, 5e-2, 1.5e-1, 5e-1)),
)

CONTESTANTS = (
    *(Contestant(name, label, name, grid, "default") for name, label, grid in _NERO),
    *(
        Contestant(name + suffix, label + also, name, grid, init)
        for suffix, also, init in (
            ("", "", "kaiming"),
            ("-isometric", ", isometric weights", "isometric"),
        )
        for name, (label, grid) in _PEERS.items()
    ),
)

_PARTS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "not orthogonal": {"orthogonal": False},
    "no cap": {"max_turn": None},
    "cap 1": {"max_turn": 1.0},
    "cap 2": {"max_turn": 2.0},
    "not centred": {"center": False},
    "momentum 0.8": {"momentum": 0.8},
    "momentum 0.95": {"momentum": 0.95},
    "beta 0.99": {"beta": 0.99},
}

PARTS = tuple(
    Contestant(
        f"nero-for-model {part}".strip(),
        f"Nero, recommended, {part}".removesuffix(", "),
        "nero-for-model",
        (1.5e-2, 5e-2, 1.5e-1),
        "default",
        options,
    )
    for part, options in _PARTS.items()
)
"""nero.for_model, and one part of it left out or otherwise"""

DRAWN = ("nero-for-model", "nero-for-model-plain", "adamw", "adamw-isometric")
"""whose best rates are drawn over depth and width, where they take part; else everyone's"""
