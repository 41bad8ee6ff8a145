"""What comparisons leave in their folder besides the records."""

from collections.abc import Sequence
from pathlib import Path

from nero_lab.analysis.document import experiment
from nero_lab.analysis.measured import Measured
from nero_lab.analysis.page import results_page
from nero_lab.analysis.pictures import save_figure
from nero_lab.analysis.table import markdown, together


def write_files(experiments: Sequence[Measured], folder: Path) -> list[Path]:
    """Write a page, the tables in Markdown and, of what was trained, the curves; return the paths.

    Args:
        experiments: what is recorded.
        folder: where to write; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, table = folder / "report.html", folder / "table.md"
    page.write_text(results_page(experiments, str(folder)), "utf-8")
    parts = [markdown(*together(experiments)), *map(experiment, experiments)]
    table.write_text("\n".join(parts), "utf-8")
    pictures = [folder / f"curves.{ending}" for ending in ("png", "svg")]
    trained = [each for each in experiments if each.records and each.comparison.preset.epochs]
    if trained:
        save_figure(trained, pictures)
    return [page, table, *(pictures if trained else ())]
