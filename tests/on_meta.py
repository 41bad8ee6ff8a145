"""Whole models without memory and without the time that initial values take."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CREATED = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.full)
# What torch.nn.init and the models' own initialisation do to parameters.
FILLED = {
    *("normal_", "uniform_", "trunc_normal_", "erfinv_", "fill_", "zero_", "copy_"),
    *("mul_", "add_", "sub_", "div_", "clamp_"),
}


class _OnMeta(TorchFunctionMode):
    """Parameters without memory, while what models compute about their shapes stays on the CPU.

    Filling them would do nothing either, but not fast.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        filled = args[0] if args else kwargs.get("tensor")
        if isinstance(filled, Tensor) and filled.is_meta and func.__name__ in FILLED:
            return filled
        if func in CREATED:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    with _OnMeta(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's own
        yield
