"""The rule as gradient transformations: `nero` and the parts that it is a chain of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nero.optax.geometry import axis_norm, split
from nero.optax.neurons import DimensionNumbers, neurons_of
from nero.optax.options import Options
from nero.optax.state import KeepNeuronsBalancedState, ScaleByNeuronRmsState, init_radius, init_rms
from nero.optax.step import Scaled, rms_step, turn_all


def scale_by_neuron_rms(
    beta: Any = 0.999,
    *,
    neuron_dimension_numbers: DimensionNumbers,
    center: bool = True,
    radius: str | float | None = "unit",
    momentum: float | None = None,
    max_turn: float | None = None,
    orthogonal: bool = False,
    nonfinite: str = "skip",
    relative: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Divide each neuron's gradient by the root mean square of its norm.

    The first part of `nero`, whose arguments these are. `center` and `radius` say what the
    neurons are to be kept at, on which the length of a step depends; nothing is projected here.
    Updates have the working dtype, float32 for bfloat16 gradients.

    Returns:
        A transformation whose state is a `ScaleByNeuronRmsState`. Its update needs no parameters,
        except with relative=True.

    Raises:
        ValueError: as `nero`.
        TypeError: as `nero`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from nero.optax import NeuronDimensionNumbers, scale_by_neuron_rms
        >>> rows = NeuronDimensionNumbers((0,))
        >>> transformation = scale_by_neuron_rms(neuron_dimension_numbers=rows)
        >>> state = transformation.init(jnp.ones((2, 3)))
        >>> updates, state = transformation.update(jnp.full((2, 3), 1e-30), state)
        >>> [round(float(x), 4) for x in jnp.linalg.norm(updates, axis=1)]
        [1.0, 1.0]
    """
    options = Options(
        center, radius, beta, momentum, max_turn, orthogonal, nonfinite, relative
    ).checked()

    def init(params: Any) -> ScaleByNeuronRmsState:
        return init_rms(params, options, neuron_dimension_numbers)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        if options.relative:
            _needed(params)
        every = neurons_of(neuron_dimension_numbers, updates)
        made, state = rms_step(updates, state, params, options, every)
        leaves, tree = jax.tree.flatten(updates)
        products = [
            jnp.reshape(jnp.where(a != 0, d * a, 0), g.shape)
            for d, a, g in zip(made.d, made.a, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, products), state

    return optax.GradientTransformationExtraArgs(init, update)


def keep_neurons_balanced(
    *,
    neuron_dimension_numbers: DimensionNumbers,
    center: bool = True,
    radius: str | float | None = "unit",
) -> optax.GradientTransformationExtraArgs:
    """Change updates so that, added to the parameters, they keep neurons on their constraint sets.

    The last part of `nero`, whose arguments these are; it goes behind any other optimiser too.
    A neuron whose update is zero keeps every bit, and one that cannot be projected
    (`nero.Nero` says which) is left free. Updates have the parameters' dtype.

    Parameters start on their sets if `balance` put them there. The squared norm of new weights is
    computed as a difference, so those of a neuron whose mean is far above its spread take a few
    steps to come there.

    Returns:
        A transformation whose state is a `KeepNeuronsBalancedState`. Its update needs `params`.

    Raises:
        ValueError: as `nero`; an update without parameters.
        TypeError: as `nero`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from nero.optax import NeuronDimensionNumbers, balance, keep_neurons_balanced
        >>> rows = NeuronDimensionNumbers((0,))
        >>> w = balance(jnp.array([[3.0, -1.0, 1.0]]), rows)
        >>> optimizer = optax.chain(
        ...     optax.adam(1e-2), keep_neurons_balanced(neuron_dimension_numbers=rows)
        ... )
        >>> updates, _ = optimizer.update(jnp.ones((1, 3)) * w**2, optimizer.init(w), w)
        >>> w = w + updates
        >>> bool(abs(w.sum()) < 1e-6), bool(abs(jnp.linalg.norm(w) - 1) < 1e-6)
        (True, True)
    """
    options = Options(center, radius).checked()

    def init(params: Any) -> KeepNeuronsBalancedState:
        return init_radius(params, options, neuron_dimension_numbers)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        every = neurons_of(neuron_dimension_numbers, _needed(params))
        d = [split(u, n.layout) for u, n in zip(jax.tree.leaves(updates), every, strict=True)]
        norms = [axis_norm(u, n.layout.fan_in_axes) for u, n in zip(d, every, strict=True)]
        ones = [(norm != 0).astype(norm.dtype) for norm in norms]
        return turn_all(params, Scaled(d, ones), state, options, every), state

    return optax.GradientTransformationExtraArgs(init, update)


def _needed(params: Any) -> Any:
    if params is None:
        raise ValueError("the step depends on the parameters: call update(updates, state, params)")
    return params


def nero(
    learning_rate: float | jax.Array | Callable[[Any], Any] = 0.01,
    beta: Any = 0.999,
    *,
    neuron_dimension_numbers: DimensionNumbers,
    center: bool = True,
    radius: str | float | None = "unit",
    momentum: float | None = None,
    max_turn: float | None = None,
    orthogonal: bool = False,
    nonfinite: str = "skip",
    relative: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Nero: projected gradient descent over balanced networks.

    Every parameter with two or more axes is a set of neurons. A step turns each along its
    constraint set (mean 0 and norm 1) by about `learning_rate` radians, whatever the size of its
    gradient:

        v <- beta v + (1 - beta) ||g||^2             one number per neuron
        w <- w - lr r g / sqrt(v / (1 - beta^t))     r: the neuron's radius
        w <- w - mean(w);  w <- r w / ||w||

    Biases and gains move by the learning rate times their mean size at the start, each entry by
    its own running average, and are never projected. Weights that are (nearly) zero when the state
    is made grow from there, by about the learning rate a step, and are held to no norm.

    The initial weights have to be on their sets: `params = balance(params, dims)` puts them there.

    The same as

        optax.chain(
            scale_by_neuron_rms(beta, ...),
            optax.scale_by_learning_rate(learning_rate),
            keep_neurons_balanced(...),
        )

    with the same state, at a fraction of its memory traffic.

    Args:
        learning_rate: the angle per step in radians, or a schedule of it. Default 0.01.
        beta: decay of the running average of squared gradient norms, in [0, 1). Default 0.999.
        neuron_dimension_numbers: which axes count neurons: a tree of `NeuronDimensionNumbers`
            like the parameters, a prefix of such a tree, or a function from the parameters to
            it. There is no default, as shapes do not show it: see `flax_neurons`,
            `nnx_neurons` and `equinox_neurons`.
        center: subtract each neuron's mean. Default True.
        radius: norm of each neuron. "unit" (default): 1; "initial": the norm it had when the
            state was made; a positive float; None: free.
        momentum: decay of a running average of the gradient, in [0, 1), which takes the
            gradient's place above. None (default) and 0 keep no such average.
        max_turn: the longest step of a neuron before projection, in multiples of the learning
            rate. None (default, and the paper): no bound, and 1 / sqrt(1 - beta) for a neuron
            that sees its first gradient late.
        orthogonal: give the neurons of each weight matrix (role "weight") orthogonal directions
            before the rule; see `nero.directions`. Default False.
        nonfinite: what a NaN or infinite gradient does to its neuron. "skip" (default): the neuron
            keeps weights and running averages and is counted in the state; "propagate": it
            becomes NaN.
        relative: where norms are free, and of biases and gains: step in proportion to the neuron's
            or entry's present size, or to its tensor's size when the state was made where that is
            larger (1 for biases and gains), so that outputs of any size can be learnt. For heads,
            by `optax.partition`. Default False.

    Returns:
        A `GradientTransformationExtraArgs` whose update needs `params`.

    Raises:
        ValueError: an argument out of its range, a parameter without dimension numbers or without
            the axes that they name.
        TypeError: a parameter that is not floating-point, or a value of the wrong type.

    Source:
        Liu, Bernstein, Meister, Yue, "Learning by Turning: Neural Architecture Aware
        Optimisation", ICML 2021, arXiv:2102.07227.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from nero.optax import NeuronDimensionNumbers, balance, nero
        >>> x = jax.random.normal(jax.random.key(0), (256, 8))
        >>> y = x @ (jnp.arange(8.0) - 3.5) / 42**0.5
        >>> dims = NeuronDimensionNumbers((-1,))  # kernels are (in, out)
        >>> params = balance({"kernel": jax.random.normal(jax.random.key(1), (8, 1))}, dims)
        >>> optimizer = nero(neuron_dimension_numbers=dims)
        >>> state = optimizer.init(params)
        >>> loss = lambda params: jnp.mean((x @ params["kernel"][:, 0] - y) ** 2)
        >>> for step in range(200):
        ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 0.01)
        True
    """
    options = Options(
        center, radius, beta, momentum, max_turn, orthogonal, nonfinite, relative
    ).checked()
    learning = optax.scale_by_learning_rate(learning_rate)

    def init(params: Any) -> tuple[Any, Any, Any]:
        return (
            init_rms(params, options, neuron_dimension_numbers),
            learning.init(params),
            init_radius(params, options, neuron_dimension_numbers),
        )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        rms, rate, kept = state
        every = neurons_of(neuron_dimension_numbers, _needed(params))
        made, rms = rms_step(updates, rms, params, options, every)
        a, rate = learning.update(list(made.a), rate)
        made = made._replace(a=jax.tree.leaves(a))
        return turn_all(params, made, kept, options, every), (rms, rate, kept)

    return optax.GradientTransformationExtraArgs(init, update)
