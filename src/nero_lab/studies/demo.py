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
    comparisons = tuple(Comparison(task, task.preset(name)) for name in presets)
    return Study("Deep plain networks on digits", comparisons)
