"""The demo: plain networks of 50 and 100 layers, and who can train them."""

from nero_lab.studies.run import Study
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.digits_mlp import DigitsMLP

WHOLE, QUICK = ("cpu", "deep"), ("quick",)


def demo(*presets: str) -> Study:
    """Return the comparison of optimisers at some presets of `digits-mlp`.

    Raises:
        ValueError: there is no such preset.
    """
    task = DigitsMLP()
    if unknown := [name for name in presets if name not in task.presets]:
        names = ", ".join(task.presets)
        raise ValueError(f"{task.name} has no preset {unknown[0]!r}; it has: {names}")
    comparisons = tuple(Comparison(task, task.presets[name]) for name in presets)
    return Study("Deep plain networks on digits", comparisons)
