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

    from nero_lab.analysis.show import print_by_lr
    from nero_lab.data.parts import MissingData
    from nero_lab.records.store import Records
    from nero_lab.sweeps.comparison import Comparison
    from nero_lab.sweeps.grid import grid_runs, open_pool, train_missing_runs
    from nero_lab.sweeps.jobs import JobMaker, default_jobs
    from nero_lab.tasks.table import load_task
    from nero_lab.training.checkpoints import CheckpointError, check_writable
    from nero_lab.training.messages import say, say_error

    names, rates = [name for name in optimizers.split(",") if name], _lrs(lrs)
    try:
        pool = open_pool(executor, jobs or default_jobs(), ray_address)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--executor") from None
    console, records = Console(), Records(out)
    try:
        found = load_task(task)
        maker = JobMaker(out, {found.name: data} if data else {}, accelerator)
        maker.where[found.name] = task
        runs = [maker.make(run).run for run in grid_runs(found, preset, names, rates, seeds)]
        check_writable(out, "records")
    except (MissingData, ValueError, CheckpointError) as error:
        say_error(console, error)
        raise typer.Exit(1) from None
    code = train_missing_runs(lambda: runs, records, {found.name: found}, maker, pool, console)
    wide = console if console.is_terminal else Console(width=150)
    print_by_lr(Comparison(found, found.preset(preset)), records, wide)
    say(console, f"Records: {out / found.name}.jsonl")
    raise typer.Exit(code)


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
