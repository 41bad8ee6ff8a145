"""The command line of the page of results: `nero report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    records: Annotated[
        Path, typer.Argument(help="Folder with records, such as results/cpu.", file_okay=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page. Default: report.html in the folder.", dir_okay=False, show_default=False
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task of your own with records there: FILE.py or MODULE:CLASS."),
    ] = None,
) -> None:
    """Write one HTML page of all records in a folder; it opens without a network.

    It has training curves, the metric by learning rate, tables, the paper's claims, and the
    configuration and environment of each run. A click on a point leads to its record.

    For example:

    - `nero report results/cpu`

    - `nero report runs/mine --task my_task.py --out page.html`
    """
    from nero_lab.analysis.catalogue import evidence, measured, recorded
    from nero_lab.analysis.claims import answers
    from nero_lab.analysis.page import results_page
    from nero_lab.tasks.table import load_task

    if not records.is_dir():
        raise typer.BadParameter(f"{records} is no folder", param_hint="RECORDS")
    try:
        own = [load_task(name) for name in task or ()]
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--task") from None
    comparisons, store, missing = recorded(records, own)
    experiments = measured(comparisons, store)
    for path, lines in store.unreadable():
        typer.echo(f"{lines} unreadable lines in {path} are passed over.", err=True)
    for sentence in missing:
        typer.echo(f"Not shown: {sentence}", err=True)
    page = out or records / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    html = results_page(experiments, str(records), answers(evidence(experiments)))
    page.write_text(html, "utf-8")
    runs = sum(len(each.records) for each in experiments)
    typer.echo(f"Open {page} (works without a network): {runs} runs of {len(experiments)} tasks.")
