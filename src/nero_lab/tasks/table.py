"""The tasks by name, and the tasks of users by where they stand."""

import inspect
from collections.abc import Mapping

from nero_lab.experiments.task import Task
from nero_lab.plugins.load import is_import_path, load_module, load_object

PAPER_TASKS: Mapping[str, str] = {
    "ablation": "nero_lab.tasks.ablation:Ablation",
    "granularity": "nero_lab.tasks.granularity:Granularity",
    "cwn": "nero_lab.tasks.cwn:CentredWeightNormMLP",
    "deep-mlp": "nero_lab.tasks.deep_mlp:DeepMLP",
    "imagenet": "nero_lab.tasks.imagenet:ImageNet",
    "cgan": "nero_lab.tasks.cgan:ConditionalGAN",
    "cifar": "nero_lab.tasks.cifar:Cifar",
    "wikitext2": "nero_lab.tasks.wikitext2:WikiText2",
    "translation": "nero_lab.tasks.translation:Translation",
    "pong": "nero_lab.tasks.pong:Pong",
}
"""Where each one stands; imported when it is asked for."""

TASKS: Mapping[str, str] = {
    **PAPER_TASKS,
    "adapters": "nero_lab.tasks.adapters:Adapters",
    "controlled-margin": "nero_lab.tasks.controlled_margin:ControlledMargin",
    "diabetes": "nero_lab.tasks.diabetes:Diabetes",
    "digits-mlp": "nero_lab.tasks.digits_mlp:DigitsMLP",
    "even-odd": "nero_lab.tasks.even_odd:EvenOdd",
    "fashion-cnn": "nero_lab.tasks.fashion_cnn:FashionCNN",
    "small-lm": "nero_lab.tasks.small_lm:SmallLM",
    "small-lstm": "nero_lab.tasks.small_lstm:SmallLSTMTask",
    "small-vit": "nero_lab.tasks.small_vit:SmallViTTask",
}
"""Those, and what the demo and the studies train."""


def load_task(name: str) -> Task:
    """Return the task of that name, or the one at an import path.

    Args:
        name: one of TASKS, "module:Class", "path/to/file.py:Class", or "path/to/file.py" of
            a file that defines one task.

    Raises:
        ValueError: there is no such task.
    """
    if name in TASKS:
        found = load_object(TASKS[name])
    elif name.endswith(".py"):
        found = _only_task(name)
    elif is_import_path(name):
        found = load_object(name)
    else:
        raise ValueError(
            f"unknown task {name!r}; the tasks are: {', '.join(TASKS)}; "
            "or give your own as FILE.py or MODULE:CLASS"
        )
    if not (inspect.isclass(found) and issubclass(found, Task)):
        raise ValueError(f"{name} is no class under nero_lab.experiments.task.Task")
    return found()


def _only_task(path: str) -> type[Task]:
    module = load_module(path)
    here = [value for value in vars(module).values() if inspect.isclass(value)]
    found = [c for c in here if issubclass(c, Task) and c.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(task.__name__ for task in found) or "none"
        raise ValueError(f"{path} has to define one task, it has {names}; or give {path}:CLASS")
    return found[0]
