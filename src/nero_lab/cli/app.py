"""The command line: `nero`."""

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


def main() -> None:
    """Run the command line; what the console script `nero` calls."""
    try:
        app()
    except ModuleNotFoundError as error:
        if (how := how_to_install(error)) is None:
            raise
        raise SystemExit(f"error: {how}") from None
