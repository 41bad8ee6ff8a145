"""A grid of runs of one task at the command line, and what happens when it is interrupted."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from rich.console import Console

from nero_lab.data.parts import MissingData
from nero_lab.experiments.run import Run, find_variant, plan_run, variant_spec
from nero_lab.experiments.task import Task
from nero_lab.records.store import Records
from nero_lab.sweeps.jobs import JobMaker, Pool, run_jobs
from nero_lab.sweeps.view import SweepView
from nero_lab.training.checkpoints import CheckpointError
from nero_lab.training.context import INTERRUPTED
from nero_lab.training.messages import say_error


def grid_runs(
    task: Task,
    preset_name: str,
    optimizers: Sequence[str],
    lrs: Sequence[float] | Literal["grid", "default"],
    seeds: int,
) -> list[Run]:
    """Return the runs of a task that were asked for, on data not looked for yet.

    Args:
        task: what is trained.
        preset_name: at which preset.
        optimizers: names of variants or optimisers, or import paths; none: all variants.
        lrs: for all optimisers, or each one's own grid, or its default rate alone.
        seeds: how many, from 0 on.

    Raises:
        ValueError: there is no such preset or optimiser.
    """
    preset = task.preset(preset_name)
    runs = []
    for name in optimizers or [variant.name for variant in preset.variants]:
        variant = find_variant(preset, name)
        spec = variant_spec(variant)
        own = {"grid": spec.lr_grid, "default": (spec.default_lr,)}
        rates = own[lrs] if isinstance(lrs, str) else lrs
        runs += [plan_run(task, preset, variant, lr, s) for s in range(seeds) for lr in rates]
    return runs


OpenPool = Callable[[], AbstractContextManager[Pool]]


def open_pool(executor: str, jobs: int, address: str | None = None) -> OpenPool:
    """Return what opens a pool of workers.

    Args:
        executor: "local" for processes of this machine, "ray" for a Ray cluster.
        jobs: how many runs at once.
        address: of the Ray cluster; None: $RAY_ADDRESS, or one that is started here.

    Raises:
        ValueError: there is no such executor.
    """
    if executor == "local":
        from nero_lab.sweeps.local_pool import local_pool

        return lambda: local_pool(jobs)
    if executor == "ray":
        from nero_lab.sweeps.ray_pool import ray_pool

        return lambda: ray_pool(jobs, address=address)
    raise ValueError(f"unknown executor {executor!r}: choose local or ray")


def train_missing_runs(
    due: Callable[[], Sequence[Run]],
    records: Records,
    tasks: dict[str, Task],
    maker: JobMaker,
    pool: OpenPool,
    console: Console,
) -> int:
    """Train what is due and not recorded, with a live table.

    Args:
        due: the runs known to be needed; asked again whenever one was recorded.
        records: where the records are, and go.
        tasks: those of the runs, by name.
        maker: makes jobs of runs.
        pool: opens the workers; only where there is something to train.
        console: for the table.

    Returns:
        The exit code: 0; 1 where runs failed or were lost; 130 after Ctrl-C. What is finished is
        recorded in any case.
    """
    done = sum(records.get(run) is not None for run in due())
    if done == len(due()):
        console.print(f"All {done} runs are recorded already.", highlight=False)
        return 0
    metrics = {name: task.metric for name, task in tasks.items()}
    try:
        with pool() as workers, SweepView(due, records, metrics, console) as view:
            lost = run_jobs(due, records, workers, maker, view.show)
    except KeyboardInterrupt:
        done = sum(records.get(run) is not None for run in due())
        say_error(console, f"{done} runs are recorded.", "Interrupted.")
        console.print("The same command again trains the rest.")
        return INTERRUPTED
    except (CheckpointError, MissingData, OSError) as error:
        say_error(console, error)
        return 1
    for event in lost:
        say_error(console, f"{event.job.run}: {event.error}", f"{event.kind}:")
    return 1 if lost else 0
