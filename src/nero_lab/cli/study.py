"""The command line of the studies: `nero study ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from nero_lab.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from nero_lab.studies.run import Study
    from nero_lab.sweeps.grid import OpenPool

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Settle a question by measurement, on several tasks.",
)

Quick = Annotated[
    bool, typer.Option("--quick", help="Every step of it in under a minute; compares nothing.")
]
Out = Annotated[
    Path, typer.Option(help="Directory for records, tables and pictures.", file_okay=False)
]


@app.command()
def heads(
    quick: Quick = False,
    out: Out = Path("runs/study-heads"),
    data: options.Data = None,
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
) -> None:
    """Compare constraints for heads and embeddings, with balanced hidden weights.

    On `fashion-mnist`, a language model on `anarchism` (see `nero data`) and scikit-learn's digits.
    Prints tables and writes `report.html`, `table.md`, `curves.png` and a file of records for each
    task.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.heads import heads_study

    run(heads_study(quick), out, data, jobs, fresh)


@app.command()
def finetune(
    quick: Quick = False,
    out: Out = Path("runs/study-finetune"),
    data: options.Data = None,
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
) -> None:
    """Fine-tune networks that AdamW has trained, with Nero's presets and with AdamW.

    From five classes of `fashion-mnist` to the other five, and from `anarchism` to
    `debian-reference` (see `nero data`). Prints tables and writes `report.html`, `table.md`,
    `curves.png`, a file of records for each task, and the trained weights.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.finetune import finetune_study

    run(finetune_study(quick), out, data, jobs, fresh)


@app.command()
def precision(
    quick: Quick = False,
    out: Out = Path("runs/study-precision"),
    data: options.Data = None,
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
) -> None:
    """Train in bfloat16 with stochastic rounding and to nearest, against float32.

    A small language model on `anarchism` (see `nero data`), at two learning rates: the smaller the
    steps, the more of them the nearest rounding loses. Prints a table and writes `report.html`,
    `table.md`, `curves.png` and a file of records.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.precision import precision_study

    run(precision_study(quick), out, data, jobs, fresh)


@app.command()
def generalisation(
    quick: Quick = False,
    out: Out = Path("runs/study-generalisation"),
    data: options.Data = None,
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
) -> None:
    """Test which measures of balanced networks predict how well they generalise.

    Trains 432 networks on even against odd classes of `fashion-mnist` (see `nero data`) until all
    labels are fitted, and measures them; an hour or two on two cores. Prints tables and writes
    `table.md`, `measures.png`, `turning.png` and the records.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.generalisation.command import run_generalisation
    from nero_lab.studies.generalisation.grid import QUICK, WHOLE

    grid = QUICK if quick else WHOLE
    _exit(lambda pool, console: run_generalisation(grid, out, data, pool, fresh, console), jobs)


@app.command()
def margins(
    quick: Quick = False,
    out: Out = Path("runs/study-margins"),
    data: options.Data = None,
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
) -> None:
    """Repeat published comparisons of networks whose margin the targets set.

    On `fashion-mnist` (see `nero data`) in the place of MNIST. Prints a table with the published
    figures and writes `table.md` and the records.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.generalisation.command import run_margins
    from nero_lab.studies.generalisation.margins import cases
    from nero_lab.tasks.controlled_margin import TINY

    chosen = cases(TINY, voters=3, attack_size=40) if quick else cases()
    _exit(lambda pool, console: run_margins(chosen, out, data, pool, fresh, console), jobs)


def run(study: "Study", out: Path, data: Path | None, jobs: int | None, fresh: bool) -> None:
    """Run a study, and exit with its code."""
    from nero_lab.studies.run import run_study

    _exit(lambda pool, console: run_study(study, out, data, pool, fresh, console), jobs)


def _exit(work: "Callable[[OpenPool, Console], int]", jobs: int | None) -> NoReturn:
    """Do the work with a pool of processes of this machine, and exit with its code."""
    from rich.console import Console

    from nero_lab.sweeps.grid import open_pool
    from nero_lab.sweeps.jobs import default_jobs

    try:
        code = work(open_pool("local", jobs or default_jobs()), Console())
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        code = 1
    raise typer.Exit(code)
