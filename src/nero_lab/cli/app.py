"""The command line: `nero`."""

import os

try:
    import typer
except ModuleNotFoundError:  # the library is installed without the lab
    raise SystemExit('nero: the command needs the lab: pip install "nero-optim[lab]"') from None

from nero_lab.cli import (
    bench,
    data,
    demo,
    describe,
    optimizers,
    paper,
    report,
    study,
    sweep,
    tasks,
    train,
)
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
for command in (
    train.train,
    sweep.sweep,
    paper.paper,
    report.report,
    bench.bench,
    demo.demo,
    describe.describe,
    tasks.tasks,
    optimizers.optimizers,
):
    app.command()(command)


_BROKEN_PIPE = 128 + 13
"""the status of whom SIGPIPE ended"""


def main() -> None:
    """Run the command line; what the console script `nero` calls."""
    # In the processes that a command starts, modules of the folder where it is given, which may be
    # anyone's, take the place of nobody else's.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # `nero tasks | head -1`
            raise SystemExit(_BROKEN_PIPE) from None
        raise
    except Exception as error:
        if (line := _expected(error)) is None:
            raise
        raise SystemExit(f"error: {line}") from None


def _expected(error: Exception) -> str | None:
    """Return what to print of an error that is none of the program's, None of others."""
    if isinstance(error, ModuleNotFoundError):
        return how_to_install(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    from nero_lab.data.parts import MissingData
    from nero_lab.training.checkpoints import CheckpointError

    return str(error) if isinstance(error, OSError | MissingData | CheckpointError) else None
