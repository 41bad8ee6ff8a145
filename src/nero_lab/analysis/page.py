"""Records -> one HTML page that opens without a network."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nero_lab.analysis import interactive, table
from nero_lab.analysis.claims import Claim
from nero_lab.analysis.layers import layer_panels
from nero_lab.analysis.measured import Measured, Series
from nero_lab.analysis.verdicts import Answer
from nero_lab.records.store import Record


def results_page(
    experiments: Sequence[Measured], source: str, claims: Sequence[tuple[Claim, Answer]] = ()
) -> str:
    """Return the page.

    Args:
        experiments: what is shown, in this order.
        source: where the records are, for the reader.
        claims: the paper's claims and what the records say about them.
    """
    # Imported here: Plotly takes a second, and only the page needs it.
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("nero_lab.analysis")
    template = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("results.html.j2")
    records = [record for measured in experiments for record in measured.records]
    return template.render(
        plotly_js=Markup(get_plotlyjs()),
        source=source,
        runs=len(records),
        diverged=sum(measured.diverged for measured in experiments),
        claims=claims,
        experiments=[_experiment(measured, index) for index, measured in enumerate(experiments)],
        environments=environments(records),
    )


def heading(measured: Measured) -> str:
    """Return an experiment's name, figure, title and data."""
    figure, title = measured.comparison.task.figure, measured.comparison.preset.title
    name = measured.name + (f" (figure {figure})" if figure != "-" else "")
    name += f", {title}" if title else ""
    return f"{name} on {measured.data_name}" if measured.data_name else name


def _experiment(measured: Measured, index: int) -> dict[str, Any]:
    from markupsafe import Markup

    about = table.about(measured)
    every = [(s, record) for s in measured.series for _, record in sorted(s.records.items())]
    return {
        "id": f"experiment-{index}",
        "heading": heading(measured),
        "stand_in": about.pop(0) if measured.stands_in_for else None,
        "panels": [(title, Markup(html)) for title, html in interactive.panels(measured)],
        "legend": interactive.legend(measured),
        "headings": table.headings(measured),
        "cells": table.cells(measured),
        "about": about,
        "records": [_record(series, record) for series, record in every],
        "watched": [
            (_record(series, record), [(title, Markup(html)) for title, html in found])
            for series, record in every
            if (found := layer_panels(record))
        ],
    }


def _record(series: Series, record: Record) -> dict[str, str]:
    run, result = record.run, record.result
    split, value = series.chosen_by(record)
    measured = "no finite number" if value is None else f"{split} {series.metric.name} {value:.4g}"
    return {
        "anchor": interactive.anchor(record),
        "summary": f"{series.label}, lr {run.lr:g}, seed {run.seed}: {result.status}, {measured}",
        "text": _text(record),
    }


def _text(record: Record) -> str:
    """Return a record as indented JSON, each curve on one line, without what is drawn of layers."""
    fields = asdict(record)
    columns = fields["result"].pop("curves")
    del fields["result"]["layers"]
    text = json.dumps({"id": record.run.run_id, **fields}, indent=2)
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(c)}" for name, c in columns.items())
    return f'{text[:-2]},\n  "curves": {{\n{lines}\n  }}\n}}'


def environments(records: Sequence[Record]) -> list[str]:
    """Return the distinct machines and commits that runs were computed on, in words."""
    counts: dict[str, int] = {}
    for record in records:
        words = ", ".join(f"{key} {value}" for key, value in record.environment.items())
        counts[words] = counts.get(words, 0) + 1
    commits = sorted({record.commit or "unknown" for record in records})
    found = [f"{count} runs: {words}." for words, count in counts.items()]
    return [*found, f"Commits: {', '.join(commits)}."] if commits else found
