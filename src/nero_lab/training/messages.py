"""Lines in the terminal, as they are: square brackets in them are not markup.

Long lines are not broken: who copies a path gets it whole.
"""

from rich.console import Console
from rich.text import Text


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def say_error(console: Console, error: object, label: str = "error:") -> None:
    """Print a line in plain text after a label in red."""
    console.print(Text.assemble((label, "bold red"), f" {error}"), soft_wrap=True)
