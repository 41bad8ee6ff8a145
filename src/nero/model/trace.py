"""How signals run through a model's weights, found by one batch.

The batch is followed operator by operator. What was computed from parameters alone is a weight;
what was computed from the batch's floating-point entries, or looked up in an embedding, is a
signal. An operator other than an elementwise one that takes both is a *layer* of neurons.

Layers stand in a *row* where a signal passes them one after another without a normalisation and
without a skip connection: a sum of two signals that come from the same place by different ways.
A plain network is one row; in a residual or normalised network a row is a layer or two. The
length of its row says how far a change of one layer is carried on by the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from nero.model.run import run, unwrap

# Operators that multiply a signal by a weight.
PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "convolution", "conv2d"),
    *("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "lstm", "gru", "rnn_tanh", "rnn_relu"),
}
NORMALISATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
# Reductions and roots whose result, put back on the signal as a factor, makes a normalisation.
STATISTICS = {"linalg_vector_norm", "norm", "var", "var_mean", "std", "std_mean", "rsqrt", "sqrt"}
SUMS = {"add", "add_", "sub", "sub_"}
UNTAGGED = {"hardswish", "hardswish_"}  # elementwise, though torch does not say so
FACTORS = {"mul", "mul_", "div", "div_"}

Function = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class TracedLayer:
    """A weight that signals pass.

    Attributes:
        name: the parameter's name in the model.
        row: how many layers stand in its row, itself included.
        uses: how often it was used.
        before: the layers whose output it takes; none if that came from elsewhere: the batch, an
            embedding, a normalisation or a skip connection.
        between: the operators on the way from there that are not elementwise, such as views.
        function: the elementwise ones together, as a function of one number; None where they
            take several signals of different layers, or a tensor beside the signal.
        raw: whether it takes the batch itself: nothing but views and elementwise operators before.
        ends: where its output goes: names of layers, "normalisation", "skip", "output".
        share: where it ends a residual branch, the rms of what it adds over the rms of what that is
            added to; the largest where it is used several times. None elsewhere, and where tensors
            hold no numbers.
        accumulates: whether what its branch is added to is a branch's sum itself, not normalised
            since.
    """

    name: str
    row: int = 1
    uses: int = 0
    before: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    function: Function | None = None
    raw: bool = False
    ends: set[str] = field(default_factory=set)
    share: float | None = None
    accumulates: bool = False


class _Signal(NamedTuple):
    """What is known of a tensor that depends on the batch."""

    origins: int  # a bit for each place that it comes from: inputs, sums, normalisations
    layers: frozenset[str] = frozenset()  # those whose output it is made of
    depth: int = 0  # how many stand in a row since its origins
    between: tuple[str, ...] = ()  # the operators since those layers, but for elementwise ones
    function: Function | None = lambda x: x
    statistic: bool = False
    summed: bool = False  # at a skip connection, and not normalised since


def trace(model: nn.Module, batch: Any) -> dict[str, TracedLayer]:
    """The layers of a model, in the order of their first use, by the parameter's name.

    The run is in eval mode and without gradients; the model is as it was afterwards.

    Args:
        model: on any device, also the meta device.
        batch: a tensor, a tuple of arguments or a dict of keyword arguments.
    """
    model = unwrap(model)
    follower = _Follower(model.named_parameters())
    follower.start(batch)
    # The fused attention of eval mode hides its layers in one operator.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with follower:
            outputs = run(model, batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    follower.finish(outputs)
    return follower.layers


class _Follower(TorchDispatchMode):
    """Follows signals and weights through every operator."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.layers: dict[str, TracedLayer] = {}
        # By identity. The tensors are kept, so that no identity is given away again.
        self._weights: dict[int, tuple[Tensor, str]] = {id(p): (p, name) for name, p in parameters}
        self._signals: dict[int, tuple[Tensor, _Signal]] = {}
        self._origins = 0
        self._of_batch = 0

    def start(self, batch: Any) -> None:
        for x in _tensors(batch):
            if x.is_floating_point():
                self._signals[id(x)] = x, _Signal(self._origin())
                self._of_batch |= self._signals[id(x)][1].origins

    def finish(self, outputs: Any) -> None:
        for x in _tensors(outputs):
            if id(x) in self._signals:
                self._end(self._signals[id(x)][1], "output")
        self._measure_rows()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        inputs, results = _tensors((args, kwargs)), _tensors(out)
        weights = [x for x in inputs if id(x) in self._weights]
        if any(id(x) in self._signals for x in inputs):
            signal = self._follow(func, name, args, kwargs, inputs, out)
            for x in results:
                if x.is_floating_point():
                    self._signals[id(x)] = x, signal
        elif weights and "embedding" in name:
            for x in results:
                self._signals[id(x)] = x, _Signal(self._origin())
        elif weights:
            largest = max(weights, key=Tensor.numel)
            for x in results:
                self._weights[id(x)] = x, self._weights[id(largest)][1]
        return out

    def _follow(
        self, func: Any, name: str, args: Any, kwargs: Any, inputs: list[Tensor], out: Any
    ) -> _Signal:
        """The signal that comes out of an operator."""
        distinct = {id(x): self._signals[id(x)][1] for x in inputs if id(x) in self._signals}
        signals = list(distinct.values())
        matrices = [x for x in inputs if id(x) in self._weights and x.ndim > 1]
        merged = _merge(signals)
        if any(word in name for word in NORMALISATIONS):
            return self._restart(signals, "normalisation")
        if matrices and name in PRODUCTS:
            return self._layer(self._weights[id(max(matrices, key=Tensor.numel))][1], merged)
        if name in STATISTICS:
            return merged._replace(statistic=True, function=None)
        if len(signals) > 1:
            if name in FACTORS and signals[0].statistic != signals[1].statistic:
                return self._restart(signals, "normalisation")
            if name in SUMS and _is_skip(signals[0], signals[1]):
                self._compare(inputs, out)
                return self._restart(signals, "skip")
        if torch.Tag.pointwise not in func.tags and name not in UNTAGGED:
            return merged._replace(between=(*merged.between, name))
        numbers = all(x.numel() == 1 for x in inputs if id(x) not in distinct)
        one_way = len({(each.layers, each.origins) for each in signals}) == 1
        parts = {key: each.function for key, each in distinct.items()}
        known = numbers and one_way and None not in parts.values()
        function = _composed(func, args, kwargs, parts) if known else None
        return merged._replace(function=function)

    def _layer(self, name: str, signal: _Signal) -> _Signal:
        layer = self.layers.setdefault(name, TracedLayer(name))
        layer.uses += 1
        layer.before = tuple(each for each in self.layers if each in signal.layers)
        layer.between, layer.function = signal.between, signal.function
        layer.raw = not signal.layers and not signal.origins & ~self._of_batch
        self._end(signal, name)
        depth = signal.depth + 1
        return _Signal(signal.origins, frozenset([name]), depth)

    def _restart(self, signals: list[_Signal], end: str) -> _Signal:
        origins = self._origin()
        for signal in signals:
            self._end(signal, end)
            origins |= signal.origins
        return _Signal(origins, summed=end == "skip")

    def _compare(self, summands: list[Tensor], total: Tensor) -> None:
        """Note how large the branch of a sum is beside the rest of it, and whether that is one."""
        pairs = [(x, self._signals[id(x)][1]) for x in summands if id(x) in self._signals]
        pairs.sort(key=lambda pair: (pair[1].origins.bit_count(), pair[1].depth))
        (_, stream), (branch, signal) = pairs[0], pairs[-1]
        for name in signal.layers:
            self.layers[name].accumulates |= stream.summed
        try:
            # By the sum, as what it is added to may have been changed in place.
            share = float(branch.norm() / (total - branch).norm())
        except (RuntimeError, NotImplementedError):  # of the meta device, which has no numbers
            return
        for name in signal.layers if math.isfinite(share) else ():
            self.layers[name].share = max(share, self.layers[name].share or 0.0)

    def _end(self, signal: _Signal, end: str) -> None:
        for name in signal.layers:
            self.layers[name].ends.add(end)

    def _origin(self) -> int:
        self._origins += 1
        return 1 << self._origins

    def _measure_rows(self) -> None:
        """Set each layer's `row`: the longest way through it; one that returns counts once."""
        order = {name: place for place, name in enumerate(self.layers)}
        up, down = dict.fromkeys(order, 1), dict.fromkeys(order, 1)
        onward = {
            name: [end for end in layer.ends if order.get(end, -1) > order[name]]
            for name, layer in self.layers.items()
        }
        for name in order:
            for end in onward[name]:
                up[end] = max(up[end], up[name] + 1)
        for name in reversed(order):
            down[name] = max([1 + down[end] for end in onward[name]], default=1)
            self.layers[name].row = up[name] + down[name] - 1


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors in containers, or in the attributes of an object such as a dataclass."""
    leaves = tree_leaves(tree)
    for leaf in list(leaves):
        if not isinstance(leaf, Tensor) and hasattr(leaf, "__dict__"):
            leaves += tree_leaves(list(vars(leaf).values()))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _merge(signals: list[_Signal]) -> _Signal:
    """What several signals are together, as far as all have it in common."""
    origins, layers = 0, frozenset[str]()
    for signal in signals:
        origins |= signal.origins
        layers |= signal.layers
    deepest = max(signals, key=lambda signal: signal.depth)
    function = deepest.function if len(signals) == 1 else None
    statistic = all(signal.statistic for signal in signals)
    return deepest._replace(origins=origins, layers=layers, function=function, statistic=statistic)


def _is_skip(a: _Signal, b: _Signal) -> bool:
    """Whether two signals that are added come from one place by different ways."""
    if not a.origins & b.origins:
        return False
    return a.origins != b.origins or a.depth != b.depth


def _composed(func: Any, args: Any, kwargs: Any, parts: dict[int, Function | None]) -> Function:
    """An elementwise operator after what its signals have passed before."""

    def function(x: Tensor) -> Tensor:
        def put(leaf: Any) -> Any:
            before = parts.get(id(leaf))
            return leaf if before is None else before(x.clone())

        return func(*tree_map(put, args), **tree_map(put, kwargs))

    return function
