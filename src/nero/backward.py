"""Steps inside the backward pass: each parameter is updated as soon as its gradient is there.

The gradient is freed at once, so that the gradients of a whole model are never held together. The
step is `nero.Nero`'s own, one parameter at a time, so groups, state, checkpoints and schedulers
work as they do without.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nero.geometry import neuron_norm, split_view
from nero.groups import layout_of, parameter_name
from nero.optimizer import Nero
from nero.step.exchanged import is_exchanged

# Wrappers that combine the gradients of several processes only after the hooks on the parameters
# have run, by class name: importing them here would load torch.distributed.
LATE_REDUCERS = {"DistributedDataParallel", "FullyShardedDataParallel"}

_stepping: weakref.WeakSet[Nero] = weakref.WeakSet()


def step_in_backward(
    model: nn.Module, optimizer: Nero, *, clip_neurons: float | None = None
) -> SteppingInBackward:
    """Update each parameter during `backward()`, as soon as its gradient is there, and free it.

    The training loop stays as it is. `backward()` does the work; `optimizer.step()` updates what
    still has a gradient (parameters of groups added since, or outside `model`), and ends the step.
    The numbers are those of the ordinary step, bit for bit with the compiled kernel and with
    `foreach=False`.

    Between `backward()` and `optimizer.step()` a used gradient is replaced by one that takes no
    memory and raises when read, as `clip_grad_norm_` and `GradScaler` do: they would see gradients
    that are gone. So does a second `backward()` before `optimizer.step()`, for which there is
    `SteppingInBackward.accumulate`. Learning rates are those at the time of `backward()`.

    Args:
        model: the module whose parameters, as far as `optimizer` has them, step in `backward()`.
        optimizer: their optimiser, built over `model` as it is now (after `fully_shard`).
        clip_neurons: the largest norm that the gradient of a neuron (of an entry, for a bias or
            gain) may have; a longer one is scaled down to it before the step. None (default): any.

    Returns:
        A handle, also a context manager; `remove()` ends it. Copies and pickles of model and
        optimiser are ordinary ones.

    Raises:
        ValueError: `clip_neurons` not positive; no parameter of `model` is the optimiser's; or
            `model` is wrapped in DistributedDataParallel or the older FullyShardedDataParallel,
            which average gradients after the step would have used them; or a layer of a group
            with `orthogonal=True` is sharded over processes.
        RuntimeError: the optimiser steps in backward already.

    Examples:
        >>> import torch, nero
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Linear(32, 1))
        >>> optimizer = nero.Nero(model.parameters(), lr=0.01)
        >>> before = model[0].weight.detach().clone()
        >>> with nero.step_in_backward(model, optimizer):
        ...     model(torch.randn(16, 8)).square().mean().backward()
        ...     moved = not torch.equal(model[0].weight, before)
        ...     optimizer.step()
        >>> moved
        True
    """
    if clip_neurons is not None and not 0 < clip_neurons < math.inf:
        raise ValueError(f"clip_neurons must be None or positive and finite, got {clip_neurons!r}")
    for name, module in model.named_modules():
        if any(kind.__name__ in LATE_REDUCERS for kind in type(module).__mro__):
            raise ValueError(
                f"{type(module).__name__} ({name or 'the model'}) averages gradients after a step "
                "in backward would have used them; shard the model with "
                "torch.distributed.fsdp.fully_shard instead"
            )
    for group in optimizer.param_groups:
        for index, p in enumerate(group["params"]):
            if is_exchanged(p, group):
                raise ValueError(
                    f"{parameter_name(group, index)}: orthogonal=True exchanges the shards of all "
                    "layers together, which a step in backward would do one by one; give its group "
                    "orthogonal=False, or call optimizer.step() after backward() instead"
                )
    if is_stepping_in_backward(optimizer):
        raise RuntimeError("the optimizer steps in backward already; remove() the other handle")
    return SteppingInBackward(model, optimizer, clip_neurons)


def is_stepping_in_backward(optimizer: Nero) -> bool:
    """Whether `step_in_backward` has been called for it, and the handle not removed."""
    return optimizer in _stepping


class SteppingInBackward:
    """What `nero.step_in_backward` returns: the hooks on the parameters.

    Examples:
        >>> import torch, nero
        >>> model = torch.nn.Linear(8, 4)
        >>> optimizer = nero.Nero(model.parameters())
        >>> stepping = nero.step_in_backward(model, optimizer)
        >>> with stepping.accumulate():
        ...     model(torch.randn(16, 8)).square().mean().backward()
        >>> model(torch.randn(16, 8)).square().mean().backward()  # steps by the sum of both
        >>> optimizer.step()
        >>> stepping.remove()
    """

    def __init__(self, model: nn.Module, optimizer: Nero, clip_neurons: float | None) -> None:
        self._model = model
        self._optimizer = optimizer
        self._clip = clip_neurons
        self._accumulating = False
        self._places: dict[Tensor, tuple[int, int]] = {}
        self._used: dict[Tensor, GradientUsedInBackward] = {}
        self._hooks: list[Any] = []
        self._attach()
        if not self._places:
            raise ValueError(
                "the optimizer has no trainable parameter of the model; build it over the model "
                "as it is now (after fully_shard, which replaces parameters)"
            )
        self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
        _stepping.add(optimizer)

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """While this is on, `backward()` adds up gradients in `p.grad`, and nothing is updated.

        The first `backward()` after it steps by the sum. What then has no new gradient is updated
        by `optimizer.step()`. With FSDP2, `set_requires_gradient_sync(False)` does the same
        without communication.
        """
        before, self._accumulating = self._accumulating, True
        try:
            yield
        finally:
            self._accumulating = before

    def remove(self) -> None:
        """Remove the hooks: gradients stay until `optimizer.step()` again, as usual."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._forget_used()
        self._places.clear()
        self._used.clear()
        _stepping.discard(self._optimizer)

    def __enter__(self) -> SteppingInBackward:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _attach(self) -> None:
        """Put hooks on the parameters that have none: those of groups added since, or unfrozen."""
        new = {
            p: (index, position)
            for index, group in enumerate(self._optimizer.param_groups)
            for position, p in enumerate(group["params"])
            if p.requires_grad and p not in self._places
        }
        if not new:
            return
        ours = {id(p) for p in self._model.parameters()}
        for p, place in new.items():
            if id(p) in ours:
                self._places[p] = place
                self._stand_in(p)
                self._hooks.append(p.register_post_accumulate_grad_hook(_hook(self)))

    def use_gradient(self, p: Tensor) -> None:
        """Step a parameter by its gradient and free that; what the hooks do."""
        g = p.grad
        if self._accumulating or g is None:
            return
        index, position = self._places[p]
        group = self._optimizer.param_groups[index]
        if g.requires_grad:
            raise RuntimeError(
                f"backward(create_graph=True) and a step in backward exclude each other: "
                f"{parameter_name(group, position)} would change under the graph of its gradient"
            )
        if self._clip is not None:
            _clip_neurons_(g, p, group, self._clip)
        self._optimizer._step_one(index, position)
        p.grad = self._stand_in(p)

    def _stand_in(self, p: Tensor) -> GradientUsedInBackward:
        """The parameter's stand-in, made once.

        Small blocks of memory that came and went between the large ones of gradients would keep
        the allocator from using those again.
        """
        used = self._used.get(p)
        if used is None or (used.shape, used.dtype, used.device) != (p.shape, p.dtype, p.device):
            index, position = self._places[p]
            name = parameter_name(self._optimizer.param_groups[index], position)
            used = self._used[p] = GradientUsedInBackward(p, name)
        return used

    def _before_step(self, _: Nero, args: Any, kwargs: dict[str, Any]) -> Any:
        """Leave to `optimizer.step()` what still has a gradient, with and without a closure."""
        self._attach()
        self._forget_used()
        _, *rest = args
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            return None

        def closure_then_forget() -> Any:
            loss = closure()
            self._forget_used()
            return loss

        return (args[0], closure_then_forget), {}

    def _forget_used(self) -> None:
        for p in self._places:
            if isinstance(p.grad, GradientUsedInBackward):
                p.grad = None


def _hook(stepping: SteppingInBackward) -> Callable[[Tensor], None]:
    """A hook for a parameter; the optimizer is what keeps `stepping` alive.

    Python's garbage collector does not see what a hook in C++ refers to: a strong reference would
    keep model and optimizer for ever.
    """
    known = weakref.ref(stepping)

    def hook(p: Tensor) -> None:
        stepping = known()
        if stepping is not None:
            stepping.use_gradient(p)

    return hook


class GradientUsedInBackward(Tensor):
    """Stands in `p.grad` for a gradient that `step_in_backward` has used and freed.

    It takes no memory, and whatever reads it raises. Zeroing it makes it None.
    """

    _parameter: Any
    _name: str

    @staticmethod
    def __new__(cls, p: Tensor, name: str) -> GradientUsedInBackward:
        """Return the stand-in for the gradient of `p`, which messages call `name`."""
        self = Tensor._make_wrapper_subclass(cls, p.shape, dtype=p.dtype, device=p.device)
        self._parameter, self._name = weakref.ref(p), name
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{type(self).__name__}({self._name})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse to be read."""
        used = [x for x in tree_leaves((args, kwargs)) if isinstance(x, cls)]
        operator = func.overloadpacket.__name__
        if operator in ("zero_", "_foreach_zero_"):  # optimizer.zero_grad(set_to_none=False)
            for x in tree_leaves(args):
                if isinstance(x, cls):
                    x._parameter().grad = None
                else:
                    x.zero_()
            return args[0] if operator == "zero_" else None
        if operator in ("add_", "add") and used[0] is args[0]:  # autograd adds the next one to it
            raise RuntimeError(
                f"a second backward() before optimizer.step(): {used[0]._name} has been stepped by "
                "its first gradient already. Call optimizer.step() after each backward(), or add "
                "gradients up in `with stepping.accumulate():`, stepping being what "
                "nero.step_in_backward returned"
            )
        raise RuntimeError(
            f"the gradient of {used[0]._name} is gone: nero.step_in_backward used and freed it "
            "during backward(). What looks at all gradients before a step (clip_grad_norm_, "
            f"GradScaler; here {operator}) cannot be had with it; clip_neurons= clips each "
            "neuron's gradient. optimizer.step() or zero_grad() sets p.grad to None"
        )


def _clip_neurons_(g: Tensor, p: Tensor, group: dict[str, Any], limit: float) -> None:
    """Scale the gradient of each neuron down to a norm; non-finite ones stay as they are."""
    if not g.numel():
        return
    layout = layout_of(p, group)
    norm = neuron_norm(g, layout)
    scale = torch.where((norm > limit) & torch.isfinite(norm), limit / norm, 1)
    split_view(g, layout).mul_(scale)
