"""The command line of single runs: `nero train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nero_lab.cli import options

Optimizer = Annotated[
    str,
    typer.Option(
        help="A name from `nero optimizers`, a variant of the preset such as adam-kaiming, or "
        "your own: MODULE:CLASS or FILE.py:CLASS."
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(min=0, help="Learning rate. Default: the optimiser's own.", show_default=False),
]
Model = Annotated[
    list[str] | None,
    typer.Option(help="An option of the task's model: init=kaiming. May be given again."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of each process. The last bits of a result depend on it. "
        "Default: all cores.",
        show_default=False,
    ),
]

Precision = Annotated[
    str | None,
    typer.Option(
        help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true. Default: the preset's.",
        show_default=False,
    ),
]

SaveEvery = Annotated[float, typer.Option(min=0, help="Seconds from one checkpoint to the next.")]
Watch = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Record what each layer's neurons do in every N-th step of Nero (nero.watch); "
        "`nero report` draws it.",
        metavar="N",
        show_default=False,
    ),
]


def train(
    task: options.Task,
    optimizer: Optimizer = "nero",
    lr: LearningRate = None,
    preset: options.Preset = "cpu",
    seed: Annotated[int, typer.Option(help="Of initial weights, batches and dropout.")] = 0,
    model: Model = None,
    data: options.Data = None,
    out: Annotated[
        Path, typer.Option(help="Directory for record, checkpoints and weights.", file_okay=False)
    ] = Path("runs/train"),
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that train together, one on each device.")
    ] = 1,
    accelerator: options.Accelerator = "auto",
    precision: Precision = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model.")] = False,
    threads: Threads = None,
    save_every: SaveEvery = 60.0,
    watch: Watch = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start again, even where there is a record.")
    ] = False,
) -> None:
    """Train one network, with checkpoints, and record the result.

    The same command again goes on where it was stopped or killed, and ends with the same weights,
    bit for bit on CPUs, as if it had not been. SIGTERM saves and exits with 0, Ctrl-C with 130.

    For example:

    - `nero train deep-mlp --optimizer nero --lr 0.001`

    - `nero train deep-mlp --optimizer adam --model init=balanced`

    - `nero train deep-mlp --watch 50`

    - `nero train my_task.py --optimizer my_optimizers.py:MyOpt --preset tiny`

    - `nero train cifar --preset paper --devices 2 --precision bf16-mixed --compile`

    - `torchrun --nproc-per-node 2 -m nero_lab train deep-mlp`
    """
    from rich.console import Console

    from nero_lab.tasks.table import load_task
    from nero_lab.training.messages import say_error
    from nero_lab.training.one_run import Wanted, is_first_process, torchrun_devices, train_one

    started = torchrun_devices()
    local, nodes = (devices, 1) if started is None else started
    wanted = Wanted(
        optimizer=optimizer,
        lr=lr,
        preset=preset,
        seed=seed,
        model=dict(map(_option, model or [])),
        data=data,
        out=out,
        devices=local,
        nodes=nodes,
        accelerator=accelerator,
        precision=precision,
        compile=compile,
        threads=threads,
        save_every=save_every,
        watch=watch,
        fresh=fresh,
    )
    console = Console(quiet=not is_first_process())
    try:
        loaded = load_task(task)
    except ValueError as error:
        say_error(console, error)
        raise typer.Exit(1) from None
    raise typer.Exit(train_one(loaded, wanted, console))


def _option(text: str) -> tuple[str, Any]:
    """Return the name and value in "name=value", the value as JSON has it, or else as text."""
    import json

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--model")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
