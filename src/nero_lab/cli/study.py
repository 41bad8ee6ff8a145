"""The command line of the studies: `nero study ...`."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from nero_lab.cli import options

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

Work = Callable[..., int]
"""(out, data, pool, fresh, console) -> exit code: trains what is missing, shows what is recorded"""


def _study(find: Callable[[bool], Work]) -> Callable[[bool], Work]:
    """Add the command of a study: its name and help are those of what finds it, quick or whole."""
    name = find.__name__

    def command(
        quick: Quick = False,
        out: Out = Path(f"runs/study-{name}"),
        data: options.Data = None,
        jobs: options.Jobs = None,
        fresh: options.Fresh = False,
    ) -> None:
        run(find(quick), out, data, jobs, fresh)

    resumes = "Ctrl-C keeps what is finished; the same command again resumes."
    app.command(name, help=f"{inspect.getdoc(find)}\n\n{resumes}")(command)
    return find


@_study
def heads(quick: bool) -> Work:
    """Compare constraints for heads and embeddings, with balanced hidden weights.

    On `fashion-mnist`, a language model on `anarchism` (see `nero data`) and scikit-learn's digits.
    Prints tables and writes `report.html`, `table.md`, `curves.png` and a file of records for each
    task.
    """
    from nero_lab.studies.heads import heads_study
    from nero_lab.studies.run import run_study

    return partial(run_study, heads_study(quick))


@_study
def finetune(quick: bool) -> Work:
    """Fine-tune networks that AdamW has trained, with Nero's presets and with AdamW.

    From five classes of `fashion-mnist` to the other five, and from `anarchism` to
    `debian-reference` (see `nero data`). Prints tables and writes `report.html`, `table.md`,
    `curves.png`, a file of records for each task, and the trained weights.
    """
    from nero_lab.studies.finetune import finetune_study
    from nero_lab.studies.run import run_study

    return partial(run_study, finetune_study(quick))


@_study
def precision(quick: bool) -> Work:
    """Train in bfloat16 with stochastic rounding and to nearest, against float32.

    A small language model on `anarchism` (see `nero data`), at two learning rates: the smaller the
    steps, the more of them the nearest rounding loses. Prints a table and writes `report.html`,
    `table.md`, `curves.png` and a file of records.
    """
    from nero_lab.studies.precision import precision_study
    from nero_lab.studies.run import run_study

    return partial(run_study, precision_study(quick))


@_study
def generalisation(quick: bool) -> Work:
    """Test which measures of balanced networks predict how well they generalise.

    Trains 432 networks on even against odd classes of `fashion-mnist` (see `nero data`) until all
    labels are fitted, and measures them; an hour or two on two cores. Prints tables and writes
    `table.md`, `measures.png`, `turning.png` and the records.
    """
    from nero_lab.studies.generalisation.command import run_generalisation
    from nero_lab.studies.generalisation.grid import QUICK, WHOLE

    return partial(run_generalisation, QUICK if quick else WHOLE)


@_study
def margins(quick: bool) -> Work:
    """Repeat published comparisons of networks whose margin the targets set.

    On `fashion-mnist` (see `nero data`) in the place of MNIST. Prints a table with the published
    figures and writes `table.md` and the records.
    """
    from nero_lab.studies.generalisation.command import run_margins
    from nero_lab.studies.generalisation.margins import cases
    from nero_lab.tasks.controlled_margin import TINY

    return partial(run_margins, cases(TINY, voters=3, attack_size=40) if quick else cases())


@app.command("one-setting")
def one_setting(
    quick: Quick = False,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the records. Default: results/one-setting; of --quick, that of --out.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    out: Out = Path("runs/study-one-setting"),
    seeds: Annotated[int, typer.Option(min=1, max=3, help="How many seeds: 0, 1 and 2.")] = 3,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0, help="Minutes after which no further task is begun.", show_default=False
        ),
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="nero.for_model without each of its parts, instead.")
    ] = False,
    data: options.Data = None,
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
) -> None:
    """Compare optimisers at one setting for all tasks: depths, widths, kinds of networks.

    Each optimiser tries one grid of learning rates on every task. Tasks come one after another, the
    cheap ones first, each with all of its grids; then further seeds at the default rate and at the
    best one. The whole takes many hours. Prints regrets and times to target and writes `table.md`,
    `profiles.png` and `best-rates.png`, of the tasks that are complete.

    Ctrl-C keeps what is finished; the same command again resumes.
    """
    from nero_lab.studies.one_setting.command import benchmark, run_benchmark

    folder = results or (out if quick else Path("results/one-setting"))
    work = partial(run_benchmark, benchmark(quick, seeds, parts), folder, budget)
    run(work, out, data, jobs, fresh)


def run(work: Work, out: Path, data: Path | None, jobs: int | None, fresh: bool) -> NoReturn:
    """Do the work with a pool of processes of this machine, and exit with its code."""
    from rich.console import Console

    from nero_lab.sweeps.grid import open_pool
    from nero_lab.sweeps.jobs import default_jobs

    pool = open_pool("local", jobs or default_jobs())
    try:
        code = work(out, data, pool, fresh, Console())
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        code = 1
    raise typer.Exit(code)
