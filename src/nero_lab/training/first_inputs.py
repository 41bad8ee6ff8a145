"""What the trained modules of a task are called with, for optimisers that look at the network."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nero_lab.experiments.task import Task


def first_inputs(
    task: Task, model: nn.Module, modules: Mapping[str, nn.Module], batch: Any, **options: Any
) -> dict[str, Any]:
    """Return the arguments of each module's first call in a training step that changes nothing.

    Args:
        task: whose step it is.
        model: on the batch's device; its mode and the random state are put back.
        modules: the trained modules, as `Task.trained_modules` returns them.
        batch: a training batch.
        **options: `Preset.loss`.

    Returns:
        By the module's name a tuple of arguments or, where some have names, a dict of them all; a
        module that is not called is left out.
    """
    seen: dict[str, Any] = {}

    def remember_for(name: str) -> Any:
        def remember(module: nn.Module, args: Any, kwargs: Any) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            seen.setdefault(name, bound if kwargs else args)

        return remember

    hooks = [
        module.register_forward_pre_hook(remember_for(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            task.training_step(model, batch, lambda _loss, _name="model": None, **options)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training:
            module.training = mode
    return seen
