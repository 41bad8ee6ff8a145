"""Records -> the files that a person reads: a page, pictures, a table and its numbers."""

import json
from dataclasses import dataclass
from pathlib import Path

from nero_lab import figures
from nero_lab.findings import findings
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.plan import FindRecord, Plan
from nero_lab.records.environment import commit, environment, software
from nero_lab.records.old import RunRecord
from nero_lab.results import HEADINGS, json_rows, markdown_table, table_cells, table_rows


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report stand, all in one directory."""

    directory: Path

    @property
    def page(self) -> Path:
        """Return the self-contained page."""
        return self.directory / "report.html"

    @property
    def pictures(self) -> list[Path]:
        """Return the curves, as pixels and as vectors."""
        return [self.directory / "curves.png", self.directory / "curves.svg"]

    @property
    def table(self) -> Path:
        """Return the table in Markdown."""
        return self.directory / "table.md"

    @property
    def summary(self) -> Path:
        """Return the table and the findings as JSON."""
        return self.directory / "summary.json"


def write_report(plan: Plan, find: FindRecord, directory: Path, finished: bool) -> ReportFiles:
    """Write all parts of the report from whatever is recorded.

    Args:
        plan: what is compared.
        find: looks a run up.
        directory: where to write; it exists.
        finished: whether every run is in; a page of an interrupted comparison says so.
    """
    files = ReportFiles(directory)
    rows = table_rows(plan, find)
    files.table.write_text(markdown_table(rows), "utf-8")
    summary = {
        "preset": plan.preset.name,
        "left_out": plan.preset.left_out,
        "finished": finished,
        "rows": json_rows(rows),
        "findings": findings(rows),
        "commit": commit(),
        "environment": environment(),
        "software": software(),
    }
    files.summary.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    figures.save_curves(plan, find, files.pictures)
    files.page.write_text(_page(plan, find, finished), "utf-8")
    return files


def _page(plan: Plan, find: FindRecord, finished: bool) -> str:
    # Imported here: Plotly takes a second, and only the page needs it.
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    rows = table_rows(plan, find)
    records = _records(plan, find)
    template = Environment(
        loader=PackageLoader("nero_lab.analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
    return template.render(
        plotly_js=Markup(get_plotlyjs()),
        finished=finished,
        preset=plan.preset,
        findings=findings(rows),
        headings=HEADINGS,
        table=table_cells(rows),
        curves=Markup(figures.curves_html(plan, find)),
        sensitivity=Markup(figures.sensitivity_html(plan, find)),
        optimizers=[
            (spec, [f"{lr:g}" for lr in plan.preset.lr_grids.get(spec.name, spec.lr_grid)])
            for spec in OPTIMIZERS.values()
            if spec.name in {optimizer for optimizer, _ in plan.preset.arms}
        ],
        runs=len(records),
        commits=sorted({record.commit or "unknown" for record in records}),
        environments=_environments(records),
        software=software(),
    )


def _records(plan: Plan, find: FindRecord) -> list[RunRecord]:
    found = (find(config) for config in plan.due(find))
    return [record for record in found if record is not None]


def _environments(records: list[RunRecord]) -> list[str]:
    """Return the distinct machines that the runs were computed on, in words."""
    return sorted(
        {
            ", ".join(f"{key} {value}" for key, value in record.environment.items())
            for record in records
        }
    )
