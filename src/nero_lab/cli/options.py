"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Task = Annotated[
    str, typer.Argument(help="A name from `nero tasks`, or your own: FILE.py or MODULE:CLASS.")
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at once. Default: one per core.", show_default=False),
]
Executor = Annotated[
    str, typer.Option(help="local: processes of this machine; ray: a Ray cluster.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Of the cluster. Default: $RAY_ADDRESS, else one that is started here.",
        show_default=False,
    ),
]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the data, or with a folder for each data set. Default: where they "
        "usually are.",
        show_default=False,
    ),
]
Preset = Annotated[
    str,
    typer.Option(help="paper: as published; cpu: cut to minutes; tiny: for tests; or another."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Train everything again; old records are set aside.")
]
