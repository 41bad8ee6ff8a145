"""Experiments that are never trained: names, metrics and arms for plans, tables and claims."""

from nero_lab.analysis.comparison import Comparison
from nero_lab.tasks.base import Arm, Metric, Preset, Published, Task
from nero_lab.tasks.schedule import Schedule

ACCURACY = Metric("accuracy", "fraction", "higher", chance=0.1)
PERPLEXITY = Metric("perplexity", "exp(nats per token)", "lower")

NERO = Arm(
    "nero",
    "Nero",
    "nero",
    lr_grid=(1e-3, 1e-2, 1e-1),
    published=(Published(0.9, 0.01, "test accuracy, seed 0"),),
)
ADAM = Arm("adam", "Adam", "adam", lr_grid=(1e-4, 1e-3, 1e-2))
SGD = Arm("sgd", "SGD", "sgd", lr_grid=(1e-3, 1e-2, 1e-1))


def fake_comparison(
    *arms: Arm,
    name: str = "fake",
    metric: Metric = ACCURACY,
    figure: str = "-",
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: int = 6,
) -> Comparison:
    """Return the comparison of some arms on a task that has a preset "cpu" and nothing else."""
    preset = Preset("cpu", epochs, 10, Schedule(), arms or (NERO, ADAM), seeds)
    members = {
        "name": name,
        "figure": figure,
        "title": f"made-up task {name}",
        "metric": metric,
        "presets": {"cpu": preset},
    }
    return Comparison(type("Fake", (Task,), members)(), preset)
