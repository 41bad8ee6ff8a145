"""The table of one experiment: its cells, the same for terminal, Markdown and page."""

import html
from collections.abc import Iterable, Sequence
from itertools import groupby

from nero_lab.analysis.measured import Measured, Series
from nero_lab.experiments.task import Metric, Published
from nero_lab.sweeps.comparison import learned_from


def headings(measured: Measured) -> tuple[str, ...]:
    """Return the headings."""
    test = f"test {measured.metric.name}"
    return (
        "variant",
        "default lr",
        test,
        "best lr of grid",
        test,
        "grid",
        "published",
        "time of a run",
    )


def cells(measured: Measured) -> list[tuple[str, ...]]:
    """Return the text of every cell, one tuple for each variant, under `headings`."""
    return [_row(series) for series in measured.series]


def _row(series: Series) -> tuple[str, ...]:
    best = series.best_lr
    seconds = series.seconds
    return (
        series.label,
        "-" if series.default_lr is None else f"{series.default_lr:g}",
        str(series.at_default),
        "-" if best is None else f"{best:g}",
        "grid not finished" if best is None and series.records else str(series.best),
        _grid(series.lrs),
        published(headline(series.published, series.metric)) or "-",
        "-" if seconds is None else f"{seconds:.1f} s",
    )


def _grid(lrs: Sequence[float]) -> str:
    if len(lrs) < 4:
        return ", ".join(f"{lr:g}" for lr in lrs)
    return f"{lrs[0]:g} to {lrs[-1]:g} ({len(lrs)})"


def together(experiments: Sequence[Measured]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and cells of one table of several experiments."""
    metrics = sorted({f"test {each.metric.name}" for each in experiments})
    test = f"{' or '.join(metrics)} [worst, best seed]"
    head = ("experiment", "variant", "default lr", test, "best lr of grid", test, "steps")
    rows = []
    for each in experiments:
        for series, cells in zip(each.series, map(_row, each.series), strict=True):
            steps = max((record.result.steps for record in series.records.values()), default=None)
            title = each.comparison.preset.title or each.name
            rows.append((title, *cells[:5], "-" if steps is None else str(steps)))
    return head, rows


def by_lr(measured: Measured) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and cells of the metric at every learning rate.

    On validation, of the first seed; on the test part too, and over all seeds, where every rate is
    tried on more than one.
    """
    if measured.comparison.preset.grid_seeds > 1:
        return over_seeds(measured)
    lrs = sorted({lr for series in measured.series for lr in series.lrs})
    rows = [
        (series.label, *(_at(series, lr) for lr in lrs))
        for series in measured.series
        if series.records
    ]
    return ("variant", *(f"{lr:g}" for lr in lrs)), rows


def over_seeds(measured: Measured) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and cells of the metric at every learning rate, over all seeds."""
    metric = measured.metric.name
    rows = [
        (series.label, f"{lr:g}", str(series.scores(lr, "val")), str(series.scores(lr)))
        for series in measured.series
        for lr in series.lrs
        if series.at(lr)
    ]
    return ("variant", "lr", f"validation {metric}", f"test {metric}"), rows


def _at(series: Series, lr: float) -> str:
    if lr not in series.lrs:
        return ""
    record = series.records.get((lr, series.seeds[0]))
    if record is None:
        return "not run"
    value = series.selection(lr, series.seeds[0])
    text = "not finite" if value is None else series.scores(lr).number(value)
    return f"{text} (diverged)" if record.result.status == "diverged" else text


def headline(figures: Iterable[Published], metric: Metric) -> list[Published]:
    """Return the published figures of the metric that the table shows, not those on training."""
    return [each for each in figures if metric.name in each.what and "train" not in each.what]


def published(figures: Sequence[Published]) -> str:
    """Return published figures in words, those that differ in the seed alone together."""

    def alike(each: Published) -> tuple[float, str]:
        return each.lr, each.what.partition(", seed")[0]

    parts = []
    for (lr, what), group in groupby(figures, key=alike):
        same = list(group)
        values = ", ".join(f"{each.value:g}" for each in same)
        parts.append(f"{values} (lr {lr:g}, {what if len(same) > 1 else same[0].what})")
    return "; ".join(parts)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([plain(cell).replace("|", "\\|") for cell in cells] for cells in lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)


def plain(text: str) -> str:
    """Return text for a page in Markdown, in which names from elsewhere make no tag and no link."""
    return html.escape(text, quote=False).replace("](", "]\\(")


def about(measured: Measured) -> list[str]:
    """Return what all runs of an experiment share, and what was tuned, in sentences."""
    preset = measured.comparison.preset
    sentences = []
    if measured.stands_in_for:
        sentences.append(
            f"Data: {measured.data_name}, in the place of {measured.stands_in_for}: the published "
            f"figures are of {measured.stands_in_for} and no measure for these."
        )
    elif measured.data_name:
        sentences.append(f"Data: {measured.data_name}.")
    if preset.deviations:
        sentences.append(f"Less than the paper's: {preset.deviations}")
    sentences += preset.notes
    schedule = preset.schedule
    training = (
        f"{preset.epochs} epochs in batches of {preset.batch_size}; learning rate {schedule.kind}"
        + (f", times {schedule.gamma:g}" if schedule.gamma != 1 else "")
        + (f", warm-up {schedule.warmup_epochs:g} epochs" if schedule.warmup_epochs else "")
    )
    seeds = f"seeds {', '.join(map(str, preset.seeds))}"
    sentences.append(f"{training if preset.epochs else 'No step is made'}; {seeds}.")
    metric = measured.metric
    sentences.append(
        f"Metric: {metric.name} ({metric.unit}), {metric.better} is better; mean over seeds "
        "[worst, best]."
        + (f" Nothing learned: {metric.chance:g}." if metric.chance is not None else "")
    )
    chosen_by = (
        "validation metric"
        if not measured.records
        or any("val" in record.result.metrics for record in measured.records)
        else "test metric, since there is no validation part,"
    )
    by = (
        f"by the mean {chosen_by} over seeds"
        if preset.grid_seeds > 1
        else f"by the {chosen_by} on the first seed, and between the winner and the default rate "
        "by the mean over seeds"
    )
    if any(len(series.lrs) > 1 for series in measured.series):
        sentences.append(f"Tuned: the learning rate alone, {by}. Not tuned: anything else.")
    sentences += _at_the_end_of_the_grid(measured)
    sentences += _settings(measured)
    if measured.missing:
        sentences.append(
            f"Not run yet: {measured.missing} of {comparison_size(measured)} runs known to be "
            "needed."
        )
    if measured.diverged:
        sentences.append(
            f"Diverged: {measured.diverged} of {len(measured.records)} runs. Such a run stops when "
            "its loss is no longer finite or above a limit, and counts with the network it left."
        )
    return sentences


def _at_the_end_of_the_grid(measured: Measured) -> list[str]:
    """Return which variants might do better at a rate that was not tried, if any."""
    names = [
        f"{series.label} ({series.best_lr:g})"
        for series in measured.series
        if series.best_lr is not None
        and series.best.mean is not None
        and measured.metric.rank(series.best.mean) > learned_from(measured.metric)
        and len(series.lrs) > 1
        and series.best_lr in (min(series.lrs), max(series.lrs))
    ]
    if not names:
        return []
    return [f"Won at an end of the grid, beyond which may be better rates: {', '.join(names)}."]


def _settings(measured: Measured) -> list[str]:
    """Return the settings of each optimiser besides its learning rate, equal ones once."""
    labels: dict[str, list[str]] = {}
    for series in measured.series:
        labels.setdefault(series.settings, []).append(series.label)
    parts = [f"{settings} ({'; '.join(names)})" for settings, names in labels.items() if settings]
    return [f"Settings besides the learning rate: {'; '.join(parts)}."] if parts else []


def comparison_size(measured: Measured) -> int:
    """Return how many runs are known to be needed."""
    planned = sum(
        len(series.records) for series in measured.series if series.name not in measured.extra
    )
    return planned + measured.missing
