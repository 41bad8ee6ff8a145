"""The optimisers that the paper compares, as arms of a preset."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nero_lab.tasks.base import Arm, Published

PAPER_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The learning rates that the paper tries in most of its experiments."""


def standard_arms(
    *,
    grid: tuple[float, ...] = PAPER_GRID,
    groups: Mapping[str, Any] | None = None,
    published: Mapping[str, tuple[Published, ...]] | None = None,
) -> tuple[Arm, ...]:
    """Return Nero, SGD, Adam and LAMB; SGD without momentum, as in the paper.

    Args:
        grid: the learning rates of all of them.
        groups: arguments of `nero.param_groups`, such as the head.
        published: figures of the paper, by arm.
    """
    figures = published or {}
    rows = (
        ("nero", "Nero", {}),
        ("sgd", "SGD", {"momentum": 0.0}),
        ("adam", "Adam", {}),
        ("lamb", "LAMB", {}),
    )
    return tuple(
        Arm(
            name=name,
            label=label,
            optimizer=name,
            lr_grid=grid,
            optimizer_options=options,
            groups=groups,
            published=figures.get(name, ()),
        )
        for name, label, options in rows
    )


def with_grids(arms: Iterable[Arm], grids: Mapping[str, tuple[float, ...]]) -> tuple[Arm, ...]:
    """Return arms with other learning rates to try, by the name of their optimiser."""
    return tuple(replace(arm, lr_grid=grids.get(arm.optimizer, arm.lr_grid)) for arm in arms)


def on_model(arms: Iterable[Arm], suffix: str, told: str, **model: Any) -> tuple[Arm, ...]:
    """Return arms under options of the model, with a suffix to their names.

    Args:
        arms: whose names are not yet told apart by the model.
        suffix: joined to the name with a dash.
        told: of the model, for the label.
        **model: its options.
    """
    return tuple(
        replace(
            arm,
            name=f"{arm.name}-{suffix}",
            label=f"{arm.label}, {told}",
            model={**arm.model, **model},
        )
        for arm in arms
    )
