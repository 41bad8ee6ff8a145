"""One run of a model on a batch, after which the model is as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from nero.model.registry.lookup import qualified_name

# Types that hold the user's model in one attribute. By name, as importing them is slow or, for
# those that a build of torch may lack, impossible.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of torch.compile, DistributedDataParallel and the like."""
    while attribute := WRAPPERS.get(qualified_name(type(model))):
        model = getattr(model, attribute)
    return model


def run(model: nn.Module, batch: Any) -> Any:
    """What the model returns for a batch, in eval mode and without gradients.

    Modes and random state are put back.

    Args:
        model: unwrapped.
        batch: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
    """
    with torch.no_grad(), _eval_mode(model), torch.random.fork_rng(_cuda_devices(model)):
        if isinstance(batch, Mapping):
            return model(**batch)
        return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({p.get_device() for p in model.parameters() if p.device.type == "cuda"})


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
