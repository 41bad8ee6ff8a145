"""class Nero: groups, state, checkpoints and the choice of a path for the update rule."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict

from nero.checkpoint import FittedState, fit_state_dict
from nero.construction import (
    FILLED,
    FROM_ZERO,
    fills_zeros,
    grows_from_zero,
    missing_state,
    project_parameter_,
    warn_of,
)
from nero.distributed.counts import home_of, total_count
from nero.first_step import FirstSteps, sizes_after_projection
from nero.groups import (
    NEWER,
    OPTIONS,
    check_group,
    check_hyperparameters,
    check_keys,
    check_weight_decay,
    inherited_constraint,
    name_alike,
    parameter_name,
)
from nero.neurons import normalize_axes
from nero.step.compiled import compiled_step
from nero.step.plan import plan_step
from nero.step.route import check_fused, describe, warn_without_kernel


class Nero(Optimizer):
    """The Nero optimiser: projected gradient descent over balanced networks.

    Every tensor with two or more axes is a set of neurons. Construction puts each neuron on its
    constraint set (mean 0 and norm 1), and a step turns it by about `lr` radians while gradients
    keep their size, whatever it is (a rare one by up to `lr / sqrt(1 - beta)`, 31.6 `lr`, at once):

        v <- beta v + (1 - beta) ||g||^2             one number per neuron
        w <- w - lr r g / sqrt(v / (1 - beta^t))     r: the neuron's radius
        w <- w - mean(w);  w <- r w / ||w||

    Biases and gains (one axis or none) move by `lr` times their mean size at construction, each
    entry by its own running average, and are never projected.

    Weights change when the optimiser is built, unless `center=False` with `radius="initial"`
    or `radius=None`. After loading weights into a model, call `project_`. Frozen weights (those
    that do not require a gradient) are left alone by both; after unfreezing some, call `project_`.

    Args:
        params: tensors, parameter groups or (name, tensor) pairs, as torch.optim takes them:
            floating-point, dense, of any number of axes.
        lr: the angle per step in radians, a non-negative float or one-element tensor. Default 0.01.
        beta: decay of the running average of squared gradient norms, in [0, 1). Default 0.999.
        center: subtract each neuron's mean. Default True.
        radius: norm of each neuron. "unit": 1; "initial": the norm it had at construction, after
            centring if on, or when its group was set to this; a positive float; None: free.
            Default "unit". `center=True, radius="unit"` is the paper.
        relative: where norms are free, and of biases and gains: step in proportion to the neuron's
            or entry's present size, or to its tensor's `scale` where that is larger (1 for
            biases and gains), so that outputs of any size can be learnt. For heads. Takes
            PyTorch's operators. Default False.
        neuron_axes: the axes that count neurons, the others being fan-in; an entry `(axis,
            blocks)` cuts an axis into blocks, of which only the block counts. Default (0,), right
            for linear layers and convolutions. See `nero.NeuronLayout`.
        momentum: decay of a running average of the gradient, in [0, 1), which takes the
            gradient's place above. 0 (the default, and the paper) keeps no such average.
        orthogonal: make the directions in which the neurons of a layer turn orthogonal to each
            other (`nero.directions`), so that `lr` bounds the change of the layer as a map, too.
            With momentum, Nesterov's: the direction is that of the average after the same
            gradient once more. For hidden matrices; tensors with one axis or none are stepped as
            ever. Default False, the paper.
        blocks: into how many equal pieces the last axis of neurons is cut for that, each a layer
            of its own: 3 where q, k and v are packed, 4 for the gates of an LSTM, the groups of a
            convolution. Default 1.
        max_turn: the largest step of a neuron, bias or gain in multiples of `lr`, so that one
            whose gradient comes rarely cannot turn by more. None (default, the paper) is no cap:
            such a neuron turns by up to `lr / sqrt(1 - beta)`.
        nonfinite: what a NaN or infinite gradient does to its neuron. "skip" (default): the neuron
            keeps weights and running averages for that step and is counted
            (`skipped_neurons`); "raise": RuntimeError with the parameter's name before
            anything changes, at the cost of waiting for the device each step; "propagate": the
            neuron becomes NaN.
        maximize: ascend instead of descend. Default False.
        foreach: True: step small tensors of one shape together, with torch's operators, at the
            cost of a copy of the stacked tensors, 2**21 entries at most at a time. False: one
            tensor after another. None (default): the compiled kernel where it fits, else as True.
        fused: True: the compiled kernel, with an error where it does not fit. False: never. None
            (default): where it fits and `foreach` is None. See `path`.
        capturable: keep step counts on the parameters' device, so that a step can be captured in
            a CUDA graph or compiled without recompiling. Default False.
        rounding: how new weights go into bfloat16 and float16. "nearest" (default), under which
            a weight stands still where a step is shorter than half the distance to the next
            number; "stochastic": to one of the two neighbours, so that the mean is exact
            (`nero.rounding`). Other weights are not affected.
        seed: of that rounding's noise, an integer in [0, 2**32). The noise depends on it, on the
            parameter's place in the groups, on the step count and on the entry's place in the
            parameter alone, and on no generator. Read when a parameter's state is made. Default 0.
        weight_decay: 0, for callers that always pass it; anything else raises ValueError, since
            fixed norms leave nothing to decay.

    All but `params` and `weight_decay` are defaults that a parameter group may override and that
    state_dict carries.

    State of a parameter, in float32 whatever the parameter's dtype (float64 for float64):
    `step` (0-d), `rms` (the root of v, one entry per neuron, `NeuronLayout.neuron_shape`),
    `scale` (0-d: mean absolute value of a bias or gain, 0.01 where that is below 1e-3; mean neuron
    norm where it is free, 1 where that is below 0.1; otherwise, and of a bias or gain under
    `relative`, 1), with `radius="initial"` also `radius` (one per neuron), with momentum `exp_avg`
    (the parameter's shape) and with `rounding="stochastic"` `seed` (0-d, int64). `scale` and
    `radius` are measured at construction and, where weights were loaded since, again at the
    parameter's first step.

    A neuron that cannot be projected is left where it is rather than turned into NaN or noise:
    where the fan-in is below 3 (below 2 with one of the two constraints), its tensor is treated
    as if its norm were free; zero or, with `center`, constant neurons stay until a gradient has
    moved them, and those with `radius="initial"`, having no radius, stay free.

    Raises:
        ValueError: a hyperparameter out of its range, or axes that a parameter does not have.
        TypeError: a parameter that is not floating-point, or a value of the wrong type.
        RuntimeError: `fused=True` where no kernel fits; in a step, sparse gradients, and non-finite
            ones under `nonfinite="raise"`.

    Source:
        Liu, Bernstein, Meister, Yue, "Learning by Turning: Neural Architecture Aware
        Optimisation", ICML 2021, arXiv:2102.07227. Departures: see `nero.rule`.

    Examples:
        >>> import torch, nero
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
        ... )
        >>> x = torch.randn(256, 8)
        >>> y = x[:, :1] * x[:, 1:2]
        >>> optimizer = nero.Nero(model.parameters(), lr=0.01)
        >>> for step in range(200):
        ...     optimizer.zero_grad()
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     loss.backward()
        ...     optimizer.step()
        >>> bool(loss < 0.5)
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        beta: float = 0.999,
        *,
        center: bool = True,
        radius: str | float | None = "unit",
        relative: bool = False,
        neuron_axes: Iterable[object] = (0,),
        momentum: float = 0.0,
        orthogonal: bool = False,
        blocks: int = 1,
        max_turn: float | None = None,
        nonfinite: str = "skip",
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        rounding: str = "nearest",
        seed: int = 0,
        weight_decay: float = 0.0,
    ) -> None:
        given = {**locals(), "neuron_axes": normalize_axes(neuron_axes)}
        defaults = {name: given[name] for name in OPTIONS}
        check_hyperparameters(defaults)
        check_weight_decay(weight_decay)
        self._skipped: dict[Any, Tensor] = {}  # by device or, for DTensors, by mesh
        self._first, self._known = FirstSteps(), {}
        # Every group is checked before any weight is touched, so a failure changes nothing.
        self._constructed = False
        super().__init__(params, defaults)
        warn_of(fills_zeros, self.param_groups, FILLED)
        for index in range(len(self.param_groups)):
            self._start_group(index)
        self._constructed = True
        warn_of(grows_from_zero, self.param_groups, FROM_ZERO)
        warn_without_kernel(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, project its weights and create its state.

        Arguments that the group does not give take the defaults given at construction; but where
        the neurons of the other groups keep their initial norms (preset "finetune"), so do
        those of a group that gives neither `center` nor `radius`. If the group is refused, the
        optimiser and all weights stay as they were.

        Raises:
            ValueError: an option that Nero does not have, or `weight_decay` other than 0; otherwise
                as for the arguments of `Nero`.
        """
        check_keys(param_group)
        group, before = dict(param_group), list(self.param_groups)
        if not isinstance(group["params"], (Tensor, set)):  # torch says what is wrong with a set
            group["params"] = list(group["params"])
        if self._constructed and not {"center", "radius"} & group.keys():
            group |= inherited_constraint(before)
        named = name_alike([*before, group])
        try:
            super().add_param_group(group)
            group["neuron_axes"] = normalize_axes(group["neuron_axes"])
            check_group(group)
            check_fused(group)
        except Exception:
            self.param_groups[:] = before
            for each in named:
                del each["param_names"]
            raise
        if self._constructed:
            warn_of(fills_zeros, [group], FILLED)
            self._start_group(len(self.param_groups) - 1)
            warn_of(grows_from_zero, [group], FROM_ZERO)

    @torch.no_grad()
    def _start_group(self, index: int) -> None:
        group = self.param_groups[index]
        for place, p in enumerate(group["params"]):
            if p.requires_grad:
                project_parameter_(p, group)
                self.state[p] = missing_state(p, {}, group, index, place)
                self._first.add(p, self.state[p])
            # There from the start, so that a compiled step is not compiled again for it.
            zero = torch.zeros((), dtype=torch.int64, device=p.device)
            self._skipped.setdefault(home_of(p), zero)

    @torch.no_grad()
    def project_(self) -> None:
        """Put all weights on their constraint sets again, for example after loading weights.

        With `radius="initial"` a neuron keeps the norm that it has now, and a parameter that has
        not been stepped takes its `scale` anew too. Other state does not change.

        Examples:
            >>> import torch, nero
            >>> layer = torch.nn.Linear(4, 2)
            >>> optimizer = nero.Nero(layer.parameters())
            >>> _ = layer.load_state_dict(torch.nn.Linear(4, 2).state_dict())
            >>> optimizer.project_()
            >>> layout = nero.NeuronLayout((2, 4))
            >>> bool(nero.geometry.is_balanced(layer.weight, layout).all())
            True
        """
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p, {})
                if "free" not in state:
                    project_parameter_(p, group)
                if state:
                    state |= sizes_after_projection(p, group, state)

    def skipped_neurons(self) -> int:
        """How often a neuron sat out a step because its gradient was not finite.

        Counts from construction (or unpickling), under `nonfinite="skip"`; an entry of a bias
        counts as a neuron. The count is kept on the device, and reading it waits for the device.
        Of DTensors a neuron counts once, wherever it lies: reading adds up what all processes
        have counted, so all of them have to read it.

        Examples:
            >>> import torch, nero
            >>> w = torch.nn.Parameter(torch.randn(3, 4))
            >>> optimizer = nero.Nero([w])
            >>> w.grad = torch.ones(3, 4)
            >>> w.grad[1, 2] = torch.nan
            >>> optimizer.step()
            >>> optimizer.skipped_neurons()
            1
        """
        return sum(total_count(count, home) for home, count in self._skipped.items())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Turn every neuron that has a gradient.

        Parameters whose gradient is None are passed over, and their step counts stay.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a sparse gradient; a non-finite one where `nonfinite="raise"`; a parameter
                whose shape, or whose group's `neuron_axes`, is not that of its state.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update(range(len(self.param_groups)))
        return loss

    @torch.no_grad()
    def _step_one(self, index: int, position: int) -> None:
        """Step one parameter of the index-th group alone; `nero.step_in_backward` calls it."""
        self._update([index], position)

    def _update(self, indices: Sequence[int], position: int | None = None) -> None:
        """Step these groups, or the one parameter at `position` of each."""
        groups = [self.param_groups[index] for index in indices]
        if torch.compiler.is_compiling():
            self._before_compiling(list(indices), position)
            counts = compiled_step(indices, groups, self.state, position)
        else:
            self._first.before(groups, self.state, position)
            counts = plan_step(indices, groups, self.state, position, self._known).run()
            self._first.after(groups, position)
        for count, home in counts:  # in place, so that a CUDA graph adds to it when replayed
            self._skipped.setdefault(home, torch.zeros_like(count)).add_(count)

    @torch.compiler.assume_constant_result
    def _before_compiling(self, indices: list[int], position: int | None) -> bool:
        """Called while a graph is traced, and so before it first runs."""
        groups = [self.param_groups[index] for index in indices]
        self._first.before_compiling(indices, groups, self.state, position)
        return True

    @property
    def path(self) -> str:
        """Which implementation of the step the parameters take, and why.

        Examples:
            >>> import torch, nero
            >>> optimizer = nero.Nero([torch.nn.Parameter(torch.randn(3, 4))], foreach=False)
            >>> optimizer.path
            'one tensor after another (foreach=False): 1 parameters'
        """
        return describe(self.param_groups, self.state)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load what `state_dict` returned; changes no weight.

        Hyperparameters missing from `state_dict` (it may come from an older version) keep the
        values they have. A parameter whose state is missing (it may have been frozen) starts anew,
        with a warning if it is trained.

        Raises:
            ValueError: state that does not fit or is out of range, with the parameter's name, or
                what is no state dict; nothing has changed.
        """
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"not a state dict, but a {type(state_dict).__name__}")
        # Registered last, so that hooks of the user's have done their conversions by then.
        hook = self.register_load_state_dict_pre_hook(
            lambda optimizer, loaded: fit_state_dict(loaded, optimizer.param_groups)
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        without = [
            parameter_name(group, index)
            for group in self.param_groups
            for index, p in enumerate(group["params"])
            if p.requires_grad and not self.state.get(p)
        ]
        if without:
            text = f"no state was saved of {', '.join(without)}: it starts anew"
            warnings.warn(text, stacklevel=2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._constructed = True
        self.__dict__.setdefault("_skipped", {})
        self.state = defaultdict(
            dict,
            {
                p: value.state if isinstance(value, FittedState) else value
                for p, value in self.state.items()
            },
        )
        self._first, self._known = FirstSteps(self.param_groups, self.state), {}
        for group in self.param_groups:  # one pickled by an older version lacks newer options
            for name in OPTIONS:
                group.setdefault(name, self.defaults.get(name, NEWER.get(name)))
