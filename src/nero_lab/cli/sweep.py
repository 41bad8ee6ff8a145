"""The command line of many runs: `nero sweep`."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from nero_lab.cli import options


def sweep(
    task: options.Task,
    optimizers: Annotated[
        str,
        typer.Option(
            help="With commas between: names from `nero optimizers`, variants of the preset, or "
            "your own (MODULE:CLASS or FILE.py:CLASS). Default: all variants of the preset.",
            show_default=False,
        ),
    ] = "",
    lrs: Annotated[
        str,
        typer.Option(
            help="Learning rates with commas between; or grid: each optimiser's own; or default: "
            "its default rate."
        ),
    ] = "grid",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1 and so on.")] = 3,
    preset: options.Preset = "cpu",
    jobs: options.Jobs = None,
    executor: options.Executor = "local",
    ray_address: options.RayAddress = None,
    accelerator: options.Accelerator = "auto",
    data: options.Data = None,
    out: Annotated[Path, typer.Option(help="Directory of the records.", file_okay=False)] = Path(
        "runs/sweep"
    ),
) -> None:
    """Train a task with several optimisers, over learning rates and seeds, and compare.

    What is recorded is not trained again: the same command goes on after Ctrl-C, which keeps what
    is finished. A run whose worker died is tried again, twice at most. One thread for each run.

    For example:

    - `nero sweep deep-mlp --optimizers nero,adam,adam-kaiming --seeds 1`

    - `nero sweep cifar --optimizers nero,my_optimizers.py:MyOpt --lrs 0.001,0.01`

    - `nero sweep deep-mlp --preset paper --executor ray --jobs 16`
    """
    from rich.console import Console

    from nero_lab.sweeps.grid import Grid, open_pool
    from nero_lab.sweeps.grid import sweep as run_sweep
    from nero_lab.sweeps.jobs import default_jobs

    grid = Grid(
        task=task,
        optimizers=tuple(name for name in optimizers.split(",") if name),
        lrs=_lrs(lrs),
        seeds=tuple(range(seeds)),
        preset=preset,
    )
    try:
        pool = open_pool(executor, jobs or default_jobs(), ray_address)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--executor") from None
    raise typer.Exit(run_sweep(grid, out, data, accelerator, pool, Console()))


def _lrs(text: str) -> tuple[float, ...] | Literal["grid", "default"]:
    if text == "grid" or text == "default":
        return text
    try:
        lrs = tuple(float(lr) for lr in text.split(","))
    except ValueError:
        lrs = ()
    if not lrs or not all(0 <= lr < math.inf for lr in lrs):
        raise typer.BadParameter(
            f"{text!r} is neither grid nor default nor learning rates: 0.001,0.01",
            param_hint="--lrs",
        )
    return lrs
