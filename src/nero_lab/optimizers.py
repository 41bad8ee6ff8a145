"""One table of the optimisers that are compared, and of what each of them is given.

Whatever differs between two optimisers in a comparison is a field of a row here, and the report
prints it from here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass(frozen=True)
class OptimizerSpec:
    """How one optimiser is built, and the settings that the comparison uses."""

    name: str
    """what the command line and the records call it"""
    label: str
    """what tables and figures call it"""
    factory: str
    """"module:class"; imported when it is built, so that listing the table needs no torch"""
    default_lr: float
    """the library's own default: the learning rate out of the box"""
    default_lr_source: str
    lr_grid: tuple[float, ...]
    """the learning rates that are tried; holds default_lr"""
    warmup: float = 0.0
    """part of the epochs over which the learning rate rises linearly from zero"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """arguments of the constructor besides parameters and learning rate"""
    notes: str = ""

    def build(
        self, params: "Iterable[Tensor] | Iterable[dict[str, Any]]", lr: float | None = None
    ) -> "Optimizer":
        """Return the optimiser over parameters or groups, at its default lr unless given one."""
        module, _, name = self.factory.partition(":")
        optimizer_class = getattr(import_module(module), name)
        return optimizer_class(
            list(params), lr=self.default_lr if lr is None else lr, **self.options
        )

    def settings(self) -> str:
        """Return the settings that are not a learning rate, in words."""
        # `fused` changes how fast a step is and not what it computes.
        told = [f"{key} {value}" for key, value in self.options.items() if key != "fused"]
        if self.warmup:
            told.append(f"linear warm-up over the first {self.warmup:.0%} of the epochs")
        return ", ".join(told) or "none"


_SPECS = (
    OptimizerSpec(
        name="nero",
        label="Nero",
        factory="nero:Nero",
        default_lr=0.01,
        default_lr_source="nero.Nero, as in the paper",
        lr_grid=(1e-3, 1e-2, 1e-1),
        notes="No momentum, weight decay or warm-up, as in the paper. Building it projects the "
        "initial weights.",
    ),
    OptimizerSpec(
        name="sgd",
        label="SGD",
        factory="torch.optim:SGD",
        default_lr=1e-3,
        default_lr_source="torch.optim.SGD",
        lr_grid=(1e-3, 1e-2, 1e-1),
        options={"momentum": 0.9, "fused": True},
        notes="With its customary momentum (torch's own default is 0). No weight decay.",
    ),
    OptimizerSpec(
        name="adam",
        label="Adam",
        factory="torch.optim:Adam",
        default_lr=1e-3,
        default_lr_source="torch.optim.Adam",
        lr_grid=(1e-4, 1e-3, 1e-2),
        warmup=0.05,
        options={"fused": True},
        notes="Betas 0.9 and 0.999, eps 1e-8: torch's defaults. No weight decay.",
    ),
    OptimizerSpec(
        name="adamw",
        label="AdamW",
        factory="torch.optim:AdamW",
        default_lr=1e-3,
        default_lr_source="torch.optim.AdamW",
        lr_grid=(1e-4, 1e-3, 1e-2),
        warmup=0.05,
        options={"fused": True},
        notes="Betas 0.9 and 0.999, eps 1e-8, weight decay 0.01: torch's defaults.",
    ),
    OptimizerSpec(
        name="lamb",
        label="LAMB",
        factory="pytorch_optimizer:Lamb",
        default_lr=1e-3,
        default_lr_source="pytorch_optimizer.Lamb",
        lr_grid=(1e-3, 1e-2, 1e-1),
        warmup=0.05,
        notes="pytorch-optimizer's defaults: betas 0.9 and 0.999, no weight decay.",
    ),
)

OPTIMIZERS: Mapping[str, OptimizerSpec] = {spec.name: spec for spec in _SPECS}
