"""What an experiment is: task, presets and variants; a run of it, and what it measured."""

from nero_lab.data.found import FoundData
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Classification, Data, Loader, Metric, Preset, Task, Variant

__all__ = [
    "Classification",
    "Data",
    "FoundData",
    "Loader",
    "Metric",
    "Preset",
    "Schedule",
    "Task",
    "Variant",
]
