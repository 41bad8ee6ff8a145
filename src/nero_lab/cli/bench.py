"""The command line of the benchmark: `nero bench`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="All of it on tiny tensors; the figures mean nothing.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="Directory for benchmarks.md and its picture.", file_okay=False),
    ] = Path("runs/bench"),
    json: Annotated[
        Path | None, typer.Option(help="File for everything that was measured.", dir_okay=False)
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            help="Parts, with commas between: gpt2, resnet50, small, matrix, training. "
            "Default: all.",
            show_default=False,
        ),
    ] = "",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: PyTorch's.", show_default=False)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=2, help="Steps of each optimiser.", show_default="45")
    ] = None,
) -> None:
    """Measure time and memory of an optimiser step against its peers, in one run.

    Over the tensors of GPT-2 124M, of ResNet-50, of a model of many small tensors and of one large
    matrix; and the share of whole training steps. Wants a machine with nothing else to do, and
    takes about a quarter of an hour on two cores.

    For example:

    - `nero bench --quick` shows how it goes

    - `nero bench --only gpt2,training --json gpt2.json`
    """
    from dataclasses import replace

    import torch
    from rich.console import Console

    from nero_lab.bench.measure import Settings
    from nero_lab.bench.run import PARTS, QUICK_SETTINGS, run_bench
    from nero_lab.training.context import INTERRUPTED

    chosen = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in PARTS]:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: choose from {', '.join(PARTS)}", param_hint="--only"
        )
    settings = QUICK_SETTINGS if quick else Settings()
    if rounds is not None:
        settings = replace(settings, rounds=rounds)
    if threads is not None:
        torch.set_num_threads(threads)
    command = shlex.join(["nero", *sys.argv[1:]])
    try:
        run_bench(out, json, chosen, settings, command, Console())
    except KeyboardInterrupt:
        typer.echo("Interrupted: nothing is written.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
