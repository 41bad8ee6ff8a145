"""The command line of the paper's experiments: `nero paper`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nero_lab.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from nero_lab.records.store import Records
    from nero_lab.sweeps.comparison import Comparison
    from nero_lab.sweeps.jobs import JobMaker

SHOWN = ("table", "claims", "docs")
"""What trains nothing."""

What = Annotated[
    list[str],
    typer.Argument(
        help="fig1 to fig9, names from `nero tasks`, or all: train what is missing and draw. "
        "table, claims or docs, and figures or names after it: show what is recorded.",
        show_default=False,
    ),
]


def paper(
    what: What,
    preset: options.Preset = "cpu",
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the records. Default: results/PRESET.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures and checkpoints. Default: runs/paper/PRESET. For docs, the "
            "folder of results.md. Default: docs/evidence.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    jobs: options.Jobs = None,
    executor: options.Executor = "local",
    ray_address: options.RayAddress = None,
    accelerator: options.Accelerator = "auto",
    data: options.Data = None,
) -> None:
    """Run the paper's experiments, and show what they say.

    Each optimiser tries its learning rates on the first seed; its best one by validation and
    the default one are trained on all seeds. What is recorded is not trained again: the same
    command goes on after Ctrl-C. Cheap experiments come first.

    For example:

    - `nero paper fig3 --jobs 2` trains what is missing of figure 3 and draws it

    - `nero paper all --preset paper --executor ray` everything at the paper's own settings

    - `nero paper table fig3 wikitext2` prints what is recorded of some experiments

    - `nero paper claims` answers the paper's claims from the records

    - `nero paper docs` writes docs/evidence/results.md and its pictures
    """
    from rich.console import Console

    from nero_lab.analysis.catalogue import select
    from nero_lab.records.store import Records

    shown = what[0] if what[0] in SHOWN else None
    names = what[1:] if shown else what
    try:
        comparisons = select(names, preset)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="WHAT") from None
    folder = results or Path("results") / preset
    records = Records(folder)
    # A pipe has no width: give the tables their own, so that few cells are broken.
    console = Console(width=None if Console().is_terminal else 200)
    if shown:
        _show(shown, comparisons, records, out, console)
    else:
        from nero_lab.sweeps.due import train_comparisons
        from nero_lab.sweeps.grid import open_pool

        try:
            pool = open_pool(executor, jobs or _default_jobs(), ray_address)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--executor") from None
        pictures = out or Path("runs/paper") / preset
        maker = _maker(comparisons, pictures, data, accelerator)
        code = train_comparisons(comparisons, records, maker, pool, console)
        _draw(comparisons, records, pictures, console)
        raise typer.Exit(code)


def _default_jobs() -> int:
    from nero_lab.sweeps.jobs import default_jobs

    return default_jobs()


def _maker(
    comparisons: "list[Comparison]", out: Path, data: Path | None, accelerator: str
) -> "JobMaker":
    """Return what makes jobs; checkpoints go beside the pictures, not to the records."""
    from nero_lab.sweeps.jobs import JobMaker

    folders = {} if data is None else {each.task.name: data for each in comparisons}
    return JobMaker(out, folders, accelerator)


def _draw(
    comparisons: "list[Comparison]", records: "Records", folder: Path, console: "Console"
) -> None:
    from nero_lab.analysis.pictures import draw
    from nero_lab.analysis.show import print_tables
    from nero_lab.training.messages import say

    print_tables(comparisons, records, console)
    for path in draw(comparisons, records, folder):
        say(console, f"Picture: {path}")


def _show(
    what: str,
    comparisons: "list[Comparison]",
    records: "Records",
    out: Path | None,
    console: "Console",
) -> None:
    from nero_lab.analysis.catalogue import measured
    from nero_lab.analysis.show import print_claims, print_tables
    from nero_lab.training.messages import say

    if what == "table":
        print_tables(comparisons, records, console)
    elif what == "claims":
        print_claims(comparisons, records, console)
    else:
        from nero_lab.analysis.document import write_document

        folder = out or Path("docs/evidence")
        written = write_document(
            measured(comparisons, records),
            comparisons[0].preset.name,
            records.folder.as_posix(),
            folder / "results.md",
            folder / "assets" / "results",
        )
        for path in written:
            say(console, f"Written: {path}")
    for path, lines in records.unreadable():
        say(console, f"{lines} unreadable lines in {path} are passed over.")
