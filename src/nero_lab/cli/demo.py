"""The command line of the demo: `nero demo`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nero_lab.cli import options


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="A cut of it in under a minute; compares little.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Directory for records, pictures and report.", file_okay=False)
    ] = Path("runs/demo"),
    jobs: options.Jobs = None,
    fresh: options.Fresh = False,
    preset: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train 50- and 100-layer plain networks with nero.for_model, Adam, Nero and SGD, and compare.

    On scikit-learn's digits, without a download. Takes a few minutes on two cores. Prints the
    tables and writes `report.html`, `curves.png`, `curves.svg`, `table.md` and the records,
    `digits-mlp.jsonl`.

    Ctrl-C keeps what is finished; the same command again resumes.

    For example:

    - `nero demo --quick` shows how it goes, in under a minute

    - `nero demo` runs the whole comparison

    - `nero demo --out /tmp/demo --jobs 1` elsewhere, on one core
    """
    from nero_lab.cli.study import run
    from nero_lab.studies.demo import QUICK, WHOLE
    from nero_lab.studies.demo import demo as demo_study
    from nero_lab.studies.run import run_study

    try:
        study = demo_study(*([preset] if preset else QUICK if quick else WHOLE))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--preset") from None
    run(partial(run_study, study), out, None, jobs, fresh)
