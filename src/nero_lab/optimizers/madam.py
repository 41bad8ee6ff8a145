"""Madam: multiplicative updates, each weight changed by a fraction of itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class Madam(Optimizer):
    """The Madam optimiser: Adam's normalisation in the exponent of a multiplicative update.

    For each entry w with gradient g, at its parameter's step t, counted from 1:

        v <- beta v + (1 - beta) g^2
        r = clamp(g / sqrt(v / (1 - beta^t)), -g_bound, g_bound)       0 where v is 0
        w <- w exp(-lr sign(w) r)
        w <- clamp(w, -s, s),   s = w_bound * (root mean square of the tensor before its first step)

    A weight keeps its sign for ever, and one that is exactly zero never moves: so biases that start
    at zero stay there.

    Args:
        params: tensors or groups, as torch.optim takes them; dense and real.
        lr: relative change of a weight per step. Default 0.01.
        beta: decay of the running average of squared gradients, in [0, 1). Default 0.999.
        g_bound: bound on the normalised gradient, positive. Default 8.
        w_bound: bound on a weight, in units of its tensor's initial root mean square, positive.
            Default 3.

    State of a parameter: `step` (0-d), `avg_sq` (v, the parameter's shape and dtype), `bound` (s,
    0-d), made at its first step.

    Raises:
        ValueError: a hyperparameter out of its range.
        RuntimeError: in a step, sparse gradients.

    Source:
        J. Bernstein, J. Zhao, M. Meister, M.-Y. Liu, A. Anandkumar, Y. Yue, "Learning compositional
        functions via multiplicative weight updates", NeurIPS 2020, arXiv:2006.14560, algorithm 1.
        The average's bias is corrected as in Adam.

    Examples:
        >>> import torch
        >>> from nero_lab.optimizers.madam import Madam
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = Madam([w], lr=0.01)
        >>> w.sum().backward()  # a gradient of 1 shrinks what is positive, grows what is negative
        >>> optimizer.step()
        >>> [round(x, 4) for x in w.tolist()]
        [0.99, -1.0101]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        beta: float = 0.999,
        g_bound: float = 8.0,
        w_bound: float = 3.0,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr!r}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {beta!r}")
        for name, value in (("g_bound", g_bound), ("w_bound", w_bound)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        super().__init__(params, {"lr": lr, "beta": beta, "g_bound": g_bound, "w_bound": w_bound})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient; return the loss of a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if g.is_sparse:
            raise RuntimeError("Madam takes dense gradients, and one is sparse")
        state = self.state[w]
        if not state:
            state["step"] = torch.zeros(())
            state["avg_sq"] = torch.zeros_like(w)
            state["bound"] = group["w_bound"] * w.square().mean().sqrt()
        state["step"] += 1
        v = state["avg_sq"].mul_(group["beta"]).addcmul_(g, g, value=1 - group["beta"])
        corrected = v / (1 - group["beta"] ** state["step"].item())
        ratio = torch.where(v > 0, g * corrected.rsqrt(), 0).clamp_(
            -group["g_bound"], group["g_bound"]
        )
        w.mul_(torch.exp(ratio.mul_(w.sign()).mul_(-group["lr"])))
        w.copy_(torch.minimum(torch.maximum(w, -state["bound"]), state["bound"]))
