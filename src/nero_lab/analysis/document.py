"""Records -> docs/evidence/results.md and its pictures."""

from collections.abc import Sequence
from pathlib import Path

from nero_lab.analysis import table
from nero_lab.analysis.catalogue import by_figure, evidence
from nero_lab.analysis.claims import answers
from nero_lab.analysis.measured import Measured, Series
from nero_lab.analysis.page import environments, heading
from nero_lab.analysis.pictures import save_figure

_INTRODUCTION = """\
# Results

<!-- Made by `nero paper docs --preset {preset}`: change the records or the command, not this file.
-->

Every experiment of the paper at the preset `{preset}`, computed from the records in `{source}`
(one JSONL file for each experiment) by `nero paper docs`. `nero paper all --preset {preset}` makes
the records, and `nero report {source}` shows them with every run's configuration. Failures and
divergences are shown as they are, and a run that is missing is said to be missing. The time of a
run is by the clock, with whatever else the machine did, and compares nothing.
"""


def write_document(
    experiments: Sequence[Measured], preset: str, source: str, page: Path, pictures: Path
) -> list[Path]:
    """Write the page and a picture for each figure; return their paths.

    Args:
        experiments: what is recorded, in the order of figures.
        preset: at which all of it ran.
        source: where the records are, for the reader.
        page: the Markdown file.
        pictures: the folder of the pictures, which has to be below the page's.
    """
    parts = [_INTRODUCTION.format(preset=preset, source=source), "## The paper's claims\n"]
    parts.append(_claims(experiments))
    parts += ["## All experiments\n", _overview(experiments)]
    written = [page]
    for figure, rows in by_figure(experiments).items():
        recorded = [measured for measured in rows if measured.records]
        if recorded:
            path = pictures / f"{figure}.png"
            save_figure(recorded, [path])
            written.append(path)
            parts.append(f"## {_title(figure)}\n")
            parts.append(_picture(figure, path, page))
        else:
            parts.append(f"## {_title(figure)}\n")
        parts += [experiment(measured) for measured in rows]
    records = [record for measured in experiments for record in measured.records]
    parts += ["## Machines and versions\n", _list(environments(records) or ["No runs yet."])]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), "utf-8")
    return written


def _title(figure: str) -> str:
    return figure.replace("fig", "Figure ") if figure.startswith("fig") else figure


def _picture(figure: str, path: Path, page: Path) -> str:
    where = path.relative_to(page.parent).as_posix()
    return (
        f"![{_title(figure)}: curves at the default and the best learning rate, and the metric by "
        f"learning rate]({where})\n\n"
        "Lines: mean over seeds; bands: worst to best seed; crosses: runs that diverged.\n"
    )


def _list(sentences: Sequence[str]) -> str:
    return "".join(f"- {table.plain(sentence)}\n" for sentence in sentences)


def _claims(experiments: Sequence[Measured]) -> str:
    found = answers(evidence(experiments))
    rows = [(claim.key, claim.says, f"**{answer.verdict}**") for claim, answer in found]
    parts = [table.markdown(("", "claim", "answer"), rows)]
    for claim, answer in found:
        parts.append(f"**{claim.key}: {answer.verdict}.** {claim.criterion}\n")
        parts.append(_list(answer.figures))
    return "\n".join(parts)


def _overview(experiments: Sequence[Measured]) -> str:
    head = ("experiment", "data", "test metric", "Nero, default lr", "Nero, best of grid")
    rows = [
        (
            measured.name,
            _data(measured),
            f"{measured.metric.name}, {measured.metric.better} is better",
            *_nero(measured),
            _best_peer(measured),
            f"{len(measured.records)} ({measured.diverged} diverged)",
            str(measured.missing),
        )
        for measured in experiments
    ]
    return table.markdown((*head, "best peer, best of its grid", "runs", "missing"), rows)


def _data(measured: Measured) -> str:
    if measured.data_name is None:
        return "not run"
    stands_in = f" for {measured.stands_in_for}" if measured.stands_in_for else ""
    return f"{measured.data_name}{stands_in}"


def _nero(measured: Measured) -> tuple[str, str]:
    """Return what Nero with both constraints reached, in the first variant that has it."""
    for series in measured.series:
        if series.optimizer == "nero":
            lr = "" if series.best_lr is None else f" at lr {series.best_lr:g}"
            return str(series.at_default), f"{series.best}{lr}"
    return "-", "-"


def is_nero(series: Series) -> bool:
    """Return whether a variant is Nero or one of its ablations."""
    return series.optimizer.startswith("nero")


def _best_peer(measured: Measured) -> str:
    peers = [
        (measured.metric.rank(mean), f"{series.label}: {series.best} at lr {series.best_lr:g}")
        for series in measured.series
        if not is_nero(series)
        and series.best_lr is not None
        and not series.best.diverged
        and (mean := series.best.mean) is not None
    ]
    return max(peers)[1] if peers else "-"


def experiment(measured: Measured) -> str:
    """Return what is recorded of one experiment, in Markdown."""
    parts = [f"### {table.plain(heading(measured))}\n"]
    if not measured.records:
        parts.append(f"Nothing is recorded: all {measured.missing} runs are missing.\n")
        return "\n".join(parts)
    parts.append(table.markdown(table.headings(measured), table.cells(measured)))
    several = measured.comparison.preset.grid_seeds > 1
    parts.append(f"By learning rate{'' if several else ', on validation, first seed'}:\n")
    parts.append(table.markdown(*table.by_lr(measured)))
    parts.append(_list(table.about(measured)))
    figures = [
        f"{series.label}: {table.published(series.published)}"
        for series in measured.series
        if series.published
    ]
    if figures:
        parts += ["Published:\n", _list(figures)]
    return "\n".join(parts)
