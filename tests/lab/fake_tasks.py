"""Experiments that are never trained: names, metrics and variants for plans, tables and claims."""

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Metric, Preset, Published, Task, Variant
from nero_lab.sweeps.comparison import Comparison

ACCURACY = Metric("accuracy", "fraction", "higher", chance=0.1)
PERPLEXITY = Metric("perplexity", "exp(nats per token)", "lower")

NERO = Variant(
    "nero",
    "Nero",
    "nero",
    lr_grid=(1e-3, 1e-2, 1e-1),
    published=(Published(0.9, 0.01, "test accuracy, seed 0"),),
)
ADAM = Variant("adam", "Adam", "adam", lr_grid=(1e-4, 1e-3, 1e-2))
SGD = Variant("sgd", "SGD", "sgd", lr_grid=(1e-3, 1e-2, 1e-1))


def fake_comparison(
    *variants: Variant,
    name: str = "fake",
    metric: Metric = ACCURACY,
    figure: str = "-",
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: int = 6,
) -> Comparison:
    """Return the comparison of some variants on a task that has a preset "cpu" and nothing else."""
    preset = Preset("cpu", epochs, 10, Schedule(), variants or (NERO, ADAM), seeds)
    members = {
        "name": name,
        "figure": figure,
        "title": f"made-up task {name}",
        "metric": metric,
        "presets": {"cpu": preset},
    }
    return Comparison(type("Fake", (Task,), members)(), preset)
