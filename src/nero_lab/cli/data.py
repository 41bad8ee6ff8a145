"""The command line of the data sets: `nero data` and `nero data get`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode="markdown")


@app.callback(invoke_without_command=True)
def data(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Look here, and in folders here that have a data set's name, instead of the usual "
            "places.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the data sets: what each is, what is used for it here, and how to get it.

    A data set is looked for under `$NERO_DATA` or in the cache of `nero data get`, then where a
    Debian package puts it; without it, its stand-in is. Results go by the name of what was used.

    For example:

    - `nero data`

    - `nero data --data ~/datasets`

    - `nero data get cifar-10`
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    console = Console()
    console.print(_table(folder), soft_wrap=True)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name from `nero data`.")],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to put it in. Default: where `nero train` will find it.",
            file_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Download a data set, with torchvision or Hugging Face datasets.

    Mind its licence, which `nero data` states.

    For example:

    - `nero data get wikitext-2`

    - `nero data get mnist --to ~/datasets/mnist`
    """
    from nero_lab.data.fetch import fetch
    from nero_lab.data.parts import MissingData
    from nero_lab.data.sources import cache_folder, find_source

    folder = to or cache_folder() / name
    try:
        fetch(name, folder)
        found = find_source(name, folder)
    except (ValueError, MissingData, OSError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{found.name} is in {found.folder} (digest {found.digest})")


def _table(folder: Path | None):
    from rich.table import Table
    from rich.text import Text

    from nero_lab.data.parts import MissingData
    from nero_lab.data.sources import SOURCES, find_source

    # As text: a path may hold square brackets, which are markup.
    table = Table("name", "what it is", "licence", "here", "get it", show_lines=True)
    for source in SOURCES.values():
        try:
            found = find_source(source.name, folder)
            stands = f", for {found.stand_in_for}" if found.stand_in_for else ""
            here = f"{found.name}{stands}\n{found.folder}\ndigest {found.digest}"
        except MissingData:
            here = "no"
        except (ValueError, OSError) as error:
            here = f"cannot be read: {error}"
        what = f"{source.title}: {source.what}\nfiles: {source.format}"
        table.add_row(*map(Text, (source.name, what, source.licence, here, source.get)))
    return table
