"""How many neurons were skipped, where it is counted and how it adds up over a mesh."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nero.distributed.shards import as_dtensor, is_dtensor


def home_of(p: Tensor) -> Any:
    """Where the skipped neurons of a parameter are counted: its device or, of a DTensor, mesh."""
    return as_dtensor(p).device_mesh if is_dtensor(p) else p.device


def total_count(count: Tensor, home: Any) -> int:
    """A count as a number; that of a mesh is added up over it, which communicates."""
    if isinstance(home, torch.device):
        return int(count)
    total = count.clone()
    for dim in range(home.ndim):
        torch.distributed.all_reduce(total, group=home.get_group(dim))
    return int(total)
