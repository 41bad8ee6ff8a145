"""The command line of the benchmark: `nero bench`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nero_lab.bench.devices import Device
    from nero_lab.bench.measure import Settings


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="All of it on tiny tensors; the figures mean nothing.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(help="Directory for the page and its picture.", file_okay=False),
    ] = Path("runs/bench"),
    json: Annotated[
        Path | None, typer.Option(help="File for everything that was measured.", dir_okay=False)
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            help="Parts, with commas between: gpt2, resnet50, small, matrix, training; on CUDA "
            "gpt2, billion, resnet50, small. Default: all.",
            show_default=False,
        ),
    ] = "",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: PyTorch's.", show_default=False)
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=2, help="Steps of each optimiser.", show_default="45, on CUDA 50"),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: an NVIDIA GPU, without whole training steps.")
    ] = "cpu",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="With those that compile something for every shape, which takes minutes.",
        ),
    ] = True,
) -> None:
    """Measure time and memory of an optimiser step against its peers, in one run.

    Over the tensors of GPT-2 124M, of ResNet-50, of a model of many small tensors and of one large
    matrix; and the share of whole training steps. Wants a machine with nothing else to do, and
    takes about a quarter of an hour on two cores.

    On a GPU (`--device cuda`) a model of a billion parameters takes the place of the matrix, whole
    training steps are left out, and the page is benchmarks-cuda.md; it takes some minutes, most of
    them for what compiles.

    For example:

    - `nero bench --quick` shows how it goes

    - `nero bench --only gpt2,training --json gpt2.json`

    - `nero bench --device cuda --no-compile`
    """
    from rich.console import Console

    from nero_lab.bench.run import run_bench
    from nero_lab.training.context import INTERRUPTED

    where = _found_device(device)
    chosen = _chosen_parts(only, where)
    settings = _settings(where, quick, rounds, compile)
    _use_threads(threads)
    command = shlex.join(["nero", *sys.argv[1:]])
    try:
        report = run_bench(out, json, chosen, settings, command, Console(), where)
    except KeyboardInterrupt:
        typer.echo("Interrupted: what is written is of the parts that were done.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if report.failures:
        raise typer.Exit(1)


def _found_device(name: str) -> "Device":
    from nero_lab.bench.devices import DEVICES, why_not

    device = DEVICES.get(name)
    if device is None:
        raise typer.BadParameter(f"{name}: choose from {', '.join(DEVICES)}", param_hint="--device")
    if reason := why_not(device):
        raise typer.BadParameter(reason, param_hint="--device")
    return device


def _chosen_parts(only: str, device: "Device") -> list[str]:
    chosen = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in device.parts]:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: choose from {', '.join(device.parts)}", param_hint="--only"
        )
    return chosen


def _settings(device: "Device", quick: bool, rounds: int | None, compile: bool) -> "Settings":
    from dataclasses import replace

    from nero_lab.bench.measure import Settings
    from nero_lab.bench.run import QUICK_SETTINGS

    settings = QUICK_SETTINGS if quick else Settings(device.rounds, seconds=device.seconds)
    return replace(settings, rounds=rounds or settings.rounds, compile=compile)


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
