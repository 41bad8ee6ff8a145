"""`nero.watch`: which steps are observed, and when their numbers are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nero.backward import is_stepping_in_backward
from nero.groups import layout_of
from nero.optimizer import Nero
from nero.telemetry.layer import Row, measured

__all__ = ["Watch", "watch"]


def _eager(function: Any) -> Any:
    """Keep torch.compile from what a function does, and from all that it calls."""
    return torch.compiler.disable(function)


def _untraced(function: Any) -> Any:
    """Keep torch.compile from a function, but not from what it calls: takes no time in a call."""
    return torch.compiler.disable(function, recursive=False)


def watch(optimizer: Nero, every: int = 200, *, start: bool = False) -> Watch:
    """Watch what the neurons of each layer do in every `every`-th step.

    Memory: a copy of the watched weights, from just before an observed step until just after it;
    with `start=True` another one for good. Time: an observed step takes one to three training
    steps of a small network more, 1 to 2 % of all time at the default; other steps count.

    Args:
        optimizer: a `nero.Nero`. Its parameters with a fan-in are watched: no biases, no gains.
        every: how many steps from one observed step to the next, 1 at least. The first observed
            one is the `every`-th. Default 200.
        start: keep a copy of the weights as they are now, for the angle turned since. Default
            False.

    Returns:
        The watch: `Watch.report` returns what it saw. Steps are as they were, to the bit.

    Raises:
        TypeError: `optimizer` is no `nero.Nero`, but for example a wrapper around one.
        ValueError: `every` is no positive integer.
        RuntimeError: the optimiser steps in the backward pass (`nero.step_in_backward`), where
            gradients are gone by the time of `optimizer.step()`; weights on a device without
            float64 (MPS).

    Examples:
        >>> import torch, nero
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Linear(32, 4))
        >>> optimizer = nero.Nero(model.named_parameters(), lr=0.01)
        >>> watch = nero.watch(optimizer, every=10)
        >>> for step in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(16, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     if report := watch.report():
        ...         print(report["step"], round(report["angle/mean/0.weight"], 2))
        10.0 0.01
        20.0 0.01
    """
    return Watch(optimizer, every, start=start)


class Watch:
    """What `nero.watch` returns: hooks on the optimiser's step. Also a context manager.

    Tensors are read when a report is, and nothing waits for a device before. Processes that share
    a model as DTensors all have to watch it (layers are put together for an observed step, one by
    one); any of them may read reports. Copies and pickles of the optimiser are not watched. Where
    `optimizer.step` is compiled, the watch breaks its graph, so that `fullgraph=True` fails; a
    CUDA graph that holds the step is not seen.

    Attributes:
        steps: how many steps the optimiser has made while watched.
    """

    def __init__(self, optimizer: Nero, every: int, *, start: bool = False) -> None:
        if not isinstance(optimizer, Nero):
            raise TypeError(
                f"optimizer must be a nero.Nero, got a {type(optimizer).__name__}; of a wrapper, "
                "pass the optimizer inside (in accelerate and Fabric wrapper.optimizer)"
            )
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a positive integer, got {every!r}")
        self.steps = 0
        self._optimizer, self._every = optimizer, every
        self._check()
        self._start = {p: _copy(p) for _, p, _ in self._layers()} if start else None
        self._before: dict[Tensor, Tensor] = {}
        self._rows: list[Row] | None = None
        self._reported = 0
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def report(self) -> dict[str, float] | None:
        """What the neurons did in the last observed step; None if that was returned already.

        Reading it waits for the device, once.

        Returns:
            "step", the number of the step as this watch counts them, and by layer, the name of the
            parameter as its group has it in "param_names", or else its place ("0.2": the third of
            the first group):

            - `angle/mean/LAYER`, `angle/max/LAYER`: the angle by which its neurons turned, radians
            - `angle_in_lr/mean/LAYER`, `angle_in_lr/max/LAYER`: the same over `lr`; not at lr 0
            - `angle_from_start/mean/LAYER`, `angle_from_start/max/LAYER`: since the watch was
              built, radians; with `start=True` only
            - `norm_error/LAYER`: the largest distance of a neuron's norm from its radius, in
              radii; only where norms are fixed
            - `effective_rank/LAYER`: of the turns, (sum s^2)^2 / sum s^4 for the singular values s
              of the matrix of its neurons' turns (unit weights after minus before): 1 where all
              turned along one direction, the number of neurons or the fan-in at the most, 0 where
              none turned. Exact up to 128 neurons; of more it rests on as many of them
            - `capped/LAYER`: the share of neurons that turned and that `max_turn` held back; only
              with a `max_turn`
            - `skipped/LAYER`: the share of neurons whose gradient was not finite; only under
              `nonfinite="skip"`
            - `lr/LAYER`: its learning rate

            Layers without a gradient, which the step passed over, are left out. A neuron that is
            zero before or after the step counts as not turned; one with NaN makes angles NaN.
        """
        rows, self._rows = self._rows, None
        return None if rows is None else _read(rows, self._reported)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs for its reports to be those of one that was never stopped."""
        start = None
        if self._start is not None:
            start = {name: self._start[p] for name, p, _ in self._layers() if p in self._start}
        return {"steps": self.steps, "start": start}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned. Start weights are loaded if this watch keeps them.

        Raises:
            ValueError: start weights of other shapes, or of no layer here.
        """
        start = state_dict["start"] or {}
        ours = {name: p for name, p, _ in self._layers()}
        for name, saved in start.items() if self._start is not None else ():
            if name not in ours or ours[name].shape != saved.shape:
                raise ValueError(f"the watch has no layer {name!r} of shape {tuple(saved.shape)}")
        self.steps = state_dict["steps"]
        if self._start is not None:
            self._start |= {ours[name]: _copy(saved) for name, saved in start.items()}

    def remove(self) -> None:
        """Stop watching, and free what is kept."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._before.clear()
        self._start = self._rows = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _check(self) -> None:
        if is_stepping_in_backward(self._optimizer):
            raise RuntimeError(
                "the optimizer steps in the backward pass (nero.step_in_backward): gradients are "
                "gone before the watch could see a step. Remove one of the two"
            )
        for name, p, _ in self._layers():
            if p.device.type == "mps":
                raise RuntimeError(f"{name} is on mps, which has no float64 to measure angles in")

    def _layers(self) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
        """The name, parameter and group of what is watched."""
        groups = self._optimizer.param_groups
        # Two models may call a layer alike.
        count = Counter(name for group in groups for name in group.get("param_names", ()))
        for index, group in enumerate(groups):
            for place, p in enumerate(group["params"]):
                if p.requires_grad and p.numel() and layout_of(p, group).fan_in > 1:
                    name = str(group["param_names"][place]) if "param_names" in group else ""
                    yield name if count[name] == 1 else f"{index}.{place}", p, group

    @_untraced
    def _before_step(self, *_given: object) -> None:
        if (self.steps + 1) % self._every == 0:
            self._keep()

    @_untraced
    def _after_step(self, *_given: object) -> None:
        self.steps += 1
        if self._before:
            self._measure()

    @_eager
    @torch.no_grad()
    def _keep(self) -> None:
        self._check()
        for _, p, _ in self._layers():
            self._before[p] = _copy(p)
            if self._start is not None and p not in self._start:  # its group was added since
                self._start[p] = _copy(p)

    @_eager
    @torch.no_grad()
    def _measure(self) -> None:
        before, self._before = self._before, {}
        start, states = self._start or {}, self._optimizer.state
        self._reported = self.steps
        self._rows = [
            measured(name, p, before.pop(p), start.get(p), group, states[p])
            for name, p, group in self._layers()
            if p.grad is not None and p in before
        ]


def _copy(p: Tensor) -> Tensor:
    return p.detach().clone()


def _read(rows: list[Row], step: int) -> dict[str, float]:
    by_device: dict[torch.device, list[Row]] = {}
    for row in rows:
        by_device.setdefault(row.values.device, []).append(row)
    read: dict[str, list[float]] = {}
    for some in by_device.values():
        values = torch.cat([row.values for row in some]).tolist()  # one wait for the device
        for row in some:
            read[row.layer], values = values[: len(row.keys)], values[len(row.keys) :]
    report = {"step": float(step)}
    for row in rows:
        lr = float(row.lr)
        report[f"lr/{row.layer}"] = lr
        for key, value in zip(row.keys, read[row.layer], strict=True):
            report[f"{key}/{row.layer}"] = value
            if key in ("angle/mean", "angle/max") and lr:
                report[f"{key.replace('angle', 'angle_in_lr')}/{row.layer}"] = value / lr
    return report
