"""The optimisers that the paper compares, as variants of a preset."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nero_lab.experiments.task import Published, Variant

PAPER_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The learning rates that the paper tries in most of its experiments."""


def standard_variants(
    *,
    grid: tuple[float, ...] = PAPER_GRID,
    groups: Mapping[str, Any] | None = None,
    published: Mapping[str, tuple[Published, ...]] | None = None,
) -> tuple[Variant, ...]:
    """Return Nero, SGD, Adam and LAMB; SGD without momentum, as in the paper.

    Args:
        grid: the learning rates of all of them.
        groups: arguments of `nero.param_groups`, such as the head.
        published: figures of the paper, by variant.
    """
    figures = published or {}
    rows = (
        ("nero", "Nero", {}),
        ("sgd", "SGD", {"momentum": 0.0}),
        ("adam", "Adam", {}),
        ("lamb", "LAMB", {}),
    )
    return tuple(
        Variant(
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


def with_grids(
    variants: Iterable[Variant], grids: Mapping[str, tuple[float, ...]]
) -> tuple[Variant, ...]:
    """Return variants with other learning rates to try, by the name of their optimiser."""
    return tuple(
        replace(variant, lr_grid=grids.get(variant.optimizer, variant.lr_grid))
        for variant in variants
    )


def with_more_rates(
    variants: Iterable[Variant], rates: Mapping[str, tuple[float, ...]]
) -> tuple[Variant, ...]:
    """Return variants that try further learning rates, by the variants' names."""
    return tuple(
        replace(each, lr_grid=tuple(sorted({*(each.lr_grid or ()), *rates.get(each.name, ())})))
        for each in variants
    )


def on_model(
    variants: Iterable[Variant], suffix: str, label: str, **model: Any
) -> tuple[Variant, ...]:
    """Return variants under options of the model, with a suffix to their names.

    Args:
        variants: whose names do not say which model they are on.
        suffix: joined to the name with a dash.
        label: of the model, which is joined to theirs.
        **model: its options.
    """
    return tuple(
        replace(
            variant,
            name=f"{variant.name}-{suffix}",
            label=f"{variant.label}, {label}",
            model={**variant.model, **model},
        )
        for variant in variants
    )
