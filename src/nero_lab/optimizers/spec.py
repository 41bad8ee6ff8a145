"""One row of the table of optimisers: how it is built and what the comparison gives it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nero_lab.plugins.load import load_object

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class OptimizerSpec:
    """How one optimiser is built, and the settings that the comparison uses.

    A user's own row, with a grid and a label of its own, is one of these in a file, named as
    "file.py:ROW" (see `find_optimizer`).

    Examples:
        >>> import torch
        >>> from nero_lab.optimizers import OptimizerSpec
        >>> row = OptimizerSpec(
        ...     name="rprop",
        ...     label="Rprop",
        ...     factory="torch.optim:Rprop",
        ...     default_lr=0.01,
        ...     default_lr_source="torch.optim.Rprop",
        ...     lr_grid=(1e-3, 1e-2, 1e-1),
        ... )
        >>> optimizer = row.build_for(torch.nn.Linear(4, 2), lr=0.1)
        >>> optimizer.param_groups[0]["lr"]
        0.1
    """

    name: str
    """what the command line and the records call it"""
    label: str
    """what tables and figures call it"""
    factory: str
    """"module:class" or "file.py:class"; imported when it is built, so that listing the table needs
    no torch"""
    default_lr: float
    """the library's own default: the default learning rate"""
    default_lr_source: str
    lr_grid: tuple[float, ...]
    """the learning rates that are tried; holds default_lr"""
    warmup: float = 0.0
    """part of the epochs over which the learning rate rises linearly from zero"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """arguments of the constructor besides parameters and learning rate"""
    notes: str = ""
    by_neuron: bool = False
    """whether `build_for` gives it the groups of `nero.param_groups`, which say where the neurons
    are and what each tensor is; otherwise it gets the parameters in one group"""
    by_model: bool = False
    """whether the factory takes the model itself instead of parameters, and as keywords `batch`,
    which the model can be called with, `fresh` and `groups`"""
    balanced: bool = False
    """whether every neuron is put back to mean 0 and norm 1 after each step, as Nero does"""
    follows_schedule: bool = True
    """whether a task's decay of the learning rate applies to it; one that averages its weights
    instead keeps its rate after the warm-up"""

    def build(
        self,
        params: "Iterable[Tensor] | Iterable[Mapping[str, Any]]",
        lr: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "Optimizer":
        """Return the optimiser over parameters or groups.

        Args:
            params: tensors or groups.
            lr: the learning rate; None: its own default.
            options: arguments of the constructor that replace or join those of the row.

        Raises:
            ValueError: the row is one that takes a model.
        """
        if self.by_model:
            raise ValueError(f"{self.name} is built from a model: use build_for")
        groups: list[Any] = list(params)
        if self.balanced:
            from nero_lab.optimizers.balanced import balance_params_

            # Before it is built, since an optimiser may take the scale of its weights then.
            balance_params_(groups)
        factory: Any = load_object(self.factory)
        optimizer = factory(
            groups,
            lr=self.default_lr if lr is None else lr,
            **{**self.options, **(options or {})},
        )
        if self.balanced:
            from nero_lab.optimizers.balanced import keep_balanced

            keep_balanced(optimizer)
        return optimizer

    def build_for(
        self,
        model: "nn.Module",
        lr: float | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        groups: Mapping[str, Any] | None = None,
        batch: Any = None,
        fresh: bool = True,
    ) -> "Optimizer":
        """Return the optimiser over a model's trainable parameters, grouped as it needs them.

        Args:
            model: the network, or the part of it that this optimiser trains.
            lr: the learning rate; None: its own default.
            options: arguments of the constructor that replace or join those of the row. Nero's
                `center` and `radius` go to the groups whose neurons are constrained at all.
            groups: arguments of `nero.param_groups`, such as `head`, for those rows that take
                groups; others do not look at them. The preset is "paper" unless they say otherwise.
            batch: arguments of the model, a tuple or a dict, for rows that take the model; None:
                they are built without.
            fresh: whether the weights may be drawn anew by rows that take the model.
        """
        if self.by_model:
            factory: Any = load_object(self.factory)
            given = {**self.options, **(options or {})}
            rate = self.default_lr if lr is None else lr
            return factory(model, rate, batch=batch, fresh=fresh, groups=groups, **given)
        if not self.by_neuron:
            trained = [p for p in model.parameters() if p.requires_grad]
            return self.build(trained, lr, options)
        import nero

        all_options = {**self.options, **(options or {})}
        constraint = {key: all_options[key] for key in ("center", "radius") if key in all_options}
        grouped = nero.param_groups(model, **{"preset": "paper", **(groups or {})})
        for group in grouped:
            if group["center"] or group["radius"] is not None:
                group.update(constraint)
        return self.build(grouped, lr, options)

    def settings(self) -> str:
        """Return the settings that are not a learning rate, in words."""
        if self.by_model:
            return "by role and depth, as the factory chooses"
        # `fused` changes how fast a step is and not what it computes.
        parts = [f"{key} {value}" for key, value in self.options.items() if key != "fused"]
        if self.balanced:
            parts.append("neurons balanced after each step")
        if self.warmup:
            parts.append(f"linear warm-up over the first {self.warmup:.0%} of the epochs")
        if not self.follows_schedule:
            parts.append("no decay of the learning rate")
        return ", ".join(parts) or "none"
