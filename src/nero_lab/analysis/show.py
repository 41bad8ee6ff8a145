"""Tables and claims in a terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nero_lab.analysis import table
from nero_lab.analysis.catalogue import evidence, measured
from nero_lab.analysis.claims import answers
from nero_lab.analysis.measured import Measured
from nero_lab.analysis.page import heading
from nero_lab.records.store import Records
from nero_lab.sweeps.comparison import Comparison

_COLOURS = {
    "holds": "green",
    "holds in part": "yellow",
    "does not hold": "red",
    "not measured": "dim",
}


def print_tables(comparisons: Sequence[Comparison], records: Records, console: Console) -> None:
    """Print the table of each experiment, and what was tuned and what not."""
    for each in measured(comparisons, records):
        _print_table(heading(each), table.headings(each), table.cells(each), console)
        _print_about(each, console)


def print_together(title: str, experiments: Sequence[Measured], console: Console) -> None:
    """Print one table of several experiments, and what was tuned in each and what not."""
    _print_table(title, *table.together(experiments), console)
    for each in experiments:
        console.print(f"{heading(each)}:", highlight=False, markup=False, soft_wrap=True)
        _print_about(each, console)


def print_by_lr(comparison: Comparison, records: Records, console: Console) -> None:
    """Print the metric of an experiment at every learning rate, over the seeds."""
    for each in measured([comparison], records):
        _print_table(heading(each), *table.over_seeds(each), console)


def _print_table(
    title: str, headings: Iterable[str], rows: Iterable[Sequence[str]], console: Console
) -> None:
    shown = Table(title=Text(title), title_justify="left")
    for name in headings:
        # As text: what is in brackets is a range, not markup.
        shown.add_column(Text(name))
    for cells in rows:
        shown.add_row(*map(Text, cells))
    console.print(shown)


def _print_about(each: Measured, console: Console) -> None:
    for sentence in table.about(each):
        console.print(f"- {sentence}", highlight=False, markup=False, soft_wrap=True)
    console.print()


def print_claims(comparisons: Sequence[Comparison], records: Records, console: Console) -> None:
    """Print each claim, the answer, what it rests on, and the criterion."""
    for claim, answer in answers(evidence(measured(comparisons, records))):
        colour = _COLOURS[answer.verdict]
        console.print(
            f"[bold]{claim.key}[/] {claim.says} [bold {colour}]{answer.verdict}[/]",
            highlight=False,
            soft_wrap=True,
        )
        for figure in answer.figures:
            console.print(f"  - {figure}", highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"  {claim.criterion}", style="dim", highlight=False, markup=False, soft_wrap=True
        )
