"""The command line: `nero`."""

from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:  # the library is installed without the lab
    raise SystemExit('nero: the command needs the lab: pip install "nero-optim[lab]"') from None

from nero_lab.cli import bench, data, paper, report, study, sweep, train
from nero_lab.plugins.extras import how_to_install

# What takes long to import (torch, scikit-learn, Plotly) is imported by the commands that need it,
# so that `nero --help` answers at once.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Experiments with **Nero**, the optimiser that trains a network by turning its "
    "neurons.\n\n"
    "Start with `nero demo --quick`; then open `runs/demo/report.html`.",
)
app.add_typer(study.app, name="study")
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command()(sweep.sweep)
app.command()(paper.paper)
app.command()(report.report)
app.command()(bench.bench)


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="A cut of it in under a minute; says what it left out.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Directory for records, pictures and report.", file_okay=False)
    ] = Path("runs/demo"),
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that train. Default: one per core.", show_default=False
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train everything again; old records are set aside.")
    ] = False,
    preset: Annotated[str, typer.Option(hidden=True)] = "demo",
) -> None:
    """Train 50- and 100-layer plain networks with Nero, SGD, Adam and LAMB, and compare.

    On scikit-learn's digits, without a download. Takes a few minutes on two cores. Prints one
    table and writes `report.html`, `curves.png`, `curves.svg`, `table.md`, `summary.json` and
    `records.jsonl`.

    Ctrl-C keeps what is finished; the same command again resumes.

    For example:

    - `nero demo --quick` shows how it goes, in under a minute

    - `nero demo` runs the whole comparison

    - `nero demo --out /tmp/demo --jobs 1` elsewhere, on one core
    """
    from rich.console import Console

    from nero_lab.demo import run_demo
    from nero_lab.presets import PRESETS
    from nero_lab.sweeps.jobs import default_jobs

    if preset not in PRESETS:
        raise typer.BadParameter(f"choose from {', '.join(PRESETS)}", param_hint="--preset")
    chosen = PRESETS["quick" if quick else preset]
    try:
        code = run_demo(chosen, out, jobs or default_jobs(), fresh, Console())
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        code = 1
    raise typer.Exit(code)


@app.command()
def describe(
    model: Annotated[
        str,
        typer.Argument(help="A torchvision model, or the path of a Hugging Face config.json."),
    ],
    preset: Annotated[str, typer.Option(help="balanced, paper or finetune.")] = "balanced",
    head: Annotated[
        str | None, typer.Option(help="Name of the module that makes the output.")
    ] = None,
) -> None:
    """Show what each parameter of a model is to Nero, and what state it costs beside Adam's.

    Builds the model without weights or memory, and changes nothing.

    For example:

    - `nero describe resnet50 --head fc`

    - `nero describe path/to/config.json --preset finetune`
    """
    import nero
    from nero_lab.models.zoo import load_model

    try:
        table = nero.describe(load_model(model), preset=preset, head=head)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(table))


@app.command()
def tasks() -> None:
    """List the experiments, and the figure of the paper that each belongs to."""
    from nero_lab.tasks import TASKS
    from nero_lab.tasks.table import PAPER_TASKS, load_task

    paper = [load_task(name) for name in PAPER_TASKS]
    rows = [(task.name, task.figure, ", ".join(task.presets), task.title) for task in paper]
    # The tasks of the demo and the studies, which come in the sizes that these have.
    rows += [(info.name, info.figure, "-", info.summary) for info in TASKS.values()]
    _print_table(("task", "figure", "presets", "what it is"), rows)


@app.command()
def optimizers() -> None:
    """List the optimisers that are compared, and what each of them is given."""
    from nero_lab.optimizers import OPTIMIZERS

    _print_table(
        ("name", "default lr", "lr grid", "other settings", "built by"),
        [
            (
                spec.name,
                f"{spec.default_lr:g}",
                " ".join(f"{lr:g}" for lr in spec.lr_grid),
                spec.settings(),
                spec.factory.replace(":", "."),
            )
            for spec in OPTIMIZERS.values()
        ],
    )


def _print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main() -> None:
    """Run the command line; what the console script `nero` calls."""
    try:
        app()
    except ModuleNotFoundError as error:
        if (how := how_to_install(error)) is None:
            raise
        raise SystemExit(f"error: {how}") from None


if __name__ == "__main__":
    main()
