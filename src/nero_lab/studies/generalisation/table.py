"""The tables of the study, in Markdown."""

from collections.abc import Iterable, Sequence

from nero_lab.studies.generalisation.findings import BOUNDS, Findings, Prediction
from nero_lab.tasks.network_measures import DELTA

Row = Sequence[str]


def study_tables(findings: Findings) -> str:
    """Return all tables, each under its heading."""
    parts = [
        "## Prediction of the generalisation gap",
        f"{len(findings.networks)} networks fitted all their labels; "
        f"{sum(findings.failed.values())} did not. Kendall's tau, Psi and sign error with 95 % "
        'bootstrap intervals. "Predicted": the interval of Psi has the expected sign alone; the '
        "last columns say along which hyperparameters that of psi has it, and the other one.",
        _predictions(findings.predictions),
        "## Granulated by hyperparameter",
        _granulated(findings.predictions),
        "## Bounds",
        f"On the error with the label noise of the training part, at delta {DELTA:g}. Vacuous: "
        "0.5 or more.",
        _bounds(findings),
        "## Networks that did not fit all labels",
        _failed(findings),
    ]
    return "\n\n".join(parts) + "\n"


def margin_tables(rows: Iterable[Row]) -> str:
    """Return the published comparisons as a table under its heading."""
    note = (
        "The published figures are from MNIST, ours from Fashion-MNIST in its place: the mean over "
        "seeds [lowest, highest]."
    )
    table = markdown(["source", "what", "published", "ours"], rows)
    return f"## Controlled margins\n\n{note}\n\n{table}\n"


def _predictions(predictions: Sequence[Prediction]) -> str:
    noises = list(predictions[0].within_noise)
    head = ["measure", "expected", "tau", *(f"tau, noise {noise:g}" for noise in noises)]
    rows = []
    for each in predictions:
        worst = "-"
        if each.worst is not None:
            change = " to ".join(f"{value:g}" for value in each.worst.values)
            worst = f"{each.worst.error} ({each.worst.axis} {change})"
        rows.append(
            [
                each.measure.title,
                "+" if each.measure.sign > 0 else "-",
                str(each.tau),
                *(str(each.within_noise[noise]) for noise in noises),
                str(each.psi),
                worst,
                each.verdict,
                ", ".join(each.along(1)) or "-",
                ", ".join(each.along(-1)) or "-",
            ]
        )
    head += ["Psi", "worst sign error", "verdict", "right along", "wrong along"]
    return markdown(head, rows)


def _granulated(predictions: Sequence[Prediction]) -> str:
    axes = list(predictions[0].psi_of)
    rows = [
        [each.measure.title, *(str(each.psi_of[axis]) for axis in axes)] for each in predictions
    ]
    return markdown(["measure", *(f"psi, {axis}" for axis in axes)], rows)


def _bounds(findings: Findings) -> str:
    rows = []
    for name, title in BOUNDS.items():
        values = [each.bounds[name] for each in findings.networks]
        least = min(findings.networks, key=lambda each: each.bounds[name])
        where = ", ".join(f"{axis} {value:g}" for axis, value in least.setting.items())
        below = sum(each.bounds[name] < each.gap for each in findings.networks)
        held = f"{len(values) - below} of {len(values)}"
        informative = f"{sum(value < 0.5 for value in values)} of {len(values)}"
        rows.append([title, f"{min(values):.3f}", f"{least.gap:.3f}", where, informative, held])
    head = ["bound", "smallest", "error there", "network", "below 0.5", "above the error"]
    return markdown(head, rows)


def _failed(findings: Findings) -> str:
    if not findings.failed:
        return "None."
    axes = [axis for axis, _ in next(iter(findings.failed))]
    rows = [
        [*(f"{value:g}" for _, value in where), str(seeds)]
        for where, seeds in sorted(findings.failed.items())
    ]
    return markdown([*axes, "seeds"], rows)


def markdown(head: Row, rows: Iterable[Row]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
