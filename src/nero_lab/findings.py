"""What a finished comparison shows, in words made from its numbers."""

from collections.abc import Sequence

from nero_lab.plan import CHANCE
from nero_lab.results import Row, Score

STUCK_BELOW = 2 * CHANCE
"""Under twice chance, a network counts as not having learned."""


def findings(rows: Sequence[Row]) -> list[str]:
    """Return a few sentences per depth; nothing on a depth whose runs are not all in."""
    told = []
    for depth in dict.fromkeys(row.arm.depth for row in rows):
        here = {
            (row.arm.optimizer, row.arm.init): row
            for row in rows
            if row.arm.depth == depth and row.best is not None and row.out_of_the_box is not None
        }
        if ("nero", "default") not in here or len(here) < sum(r.arm.depth == depth for r in rows):
            told.append(f"{depth} layers: not all runs are in yet.")
            continue
        told += [
            f"{depth} layers, default initial weights: {_from_default_weights(here)}",
            f"{depth} layers, the control: {_control(here)}",
        ]
    return told


def _from_default_weights(here: dict[tuple[str, str], Row]) -> str:
    nero = here["nero", "default"]
    box, best = _both(nero)
    if box.lr == best.lr:
        text = f"Nero reaches {box} out of the box (lr {box.lr:g}), its best of the grid. "
    else:
        text = f"Nero reaches {box} out of the box (lr {box.lr:g}) and {best} at lr {best.lr:g}. "
    if best.mean < STUCK_BELOW:
        text += f"That is near chance ({CHANCE:g}) too. "
    peers = [row for (name, init), row in here.items() if init == "default" and name != "nero"]
    stuck = [row for row in peers if _both(row)[1].mean < STUCK_BELOW]
    if stuck:
        listed = _join(f"{row.arm.spec.label} {_both(row)[1].mean:.3f}" for row in stuck)
        text += f"At the best of their grids, these stay near chance ({CHANCE:g}): {listed}. "
    for row in peers:
        if row not in stuck:
            text += f"{row.arm.spec.label} at its best is {_against(_both(row)[1], best)}. "
    return text.strip()


def _control(here: dict[tuple[str, str], Row]) -> str:
    controls = [row for (_, init), row in here.items() if init == "kaiming"]
    if not controls:
        return "not run."
    nero = _both(here["nero", "default"])[1]
    text = ""
    for row in controls:
        best = _both(row)[1]
        text += (
            f"{row.arm.spec.label} from Kaiming-normal weights reaches {best} at lr {best.lr:g}, "
            f"{_against(best, nero)}. "
        )
    rescued = [
        row
        for row in controls
        if _both(row)[1].mean >= STUCK_BELOW
        and (default := here.get((row.arm.optimizer, "default")))
        and _both(default)[1].mean < STUCK_BELOW
    ]
    if rescued:
        names = _join(row.arm.spec.label for row in rescued)
        text += f"{names} learned nothing from default weights: the initial weights alone make "
        text += "that difference. Nero projects the weights before its first step, so "
        if nero.mean >= STUCK_BELOW:
            text += "much of its lead from default weights is that projection."
        else:
            text += "it starts well too, and yet learns little here in this many steps."
    return text.strip()


def _both(row: Row) -> tuple[Score, Score]:
    assert row.out_of_the_box is not None
    assert row.best is not None
    return row.out_of_the_box, row.best


def _against(score: Score, nero: Score) -> str:
    """Return how a score stands to Nero's: on every seed, or on the mean alone."""
    seeds = " on every seed" if len(nero.accuracies) > 1 else ""
    if score.low > nero.high:
        return f"above Nero's best{seeds}"
    if score.high < nero.low:
        return f"below Nero's best{seeds}"
    side = "above" if score.mean > nero.mean else "below"
    return f"{side} Nero's best on the mean, with seeds that overlap"


def _join(words) -> str:
    *most, last = list(words)
    return f"{', '.join(most)} and {last}" if most else last
