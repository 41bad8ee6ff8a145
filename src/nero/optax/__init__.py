"""Nero for JAX, as an optax gradient transformation; needs jax and optax and no torch.

>>> from nero.optax import NeuronDimensionNumbers, nero
>>> optimizer = nero(learning_rate=0.01, neuron_dimension_numbers=NeuronDimensionNumbers((-1,)))

`nero` is a chain of `scale_by_neuron_rms`, optax's `scale_by_learning_rate` and
`keep_neurons_balanced`. The numbers are those of `nero.Nero`.
"""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'nero.optax needs {error.name}: pip install "nero-optim[jax]"', name=error.name
    ) from None

from nero.optax.balance import balance
from nero.optax.initialize import isometric
from nero.optax.models import equinox_neurons, flax_neurons, nnx_neurons
from nero.optax.neurons import NeuronDimensionNumbers, neuron_roles
from nero.optax.registry import register_neurons
from nero.optax.state import KeepNeuronsBalancedState, ScaleByNeuronRmsState
from nero.optax.transforms import keep_neurons_balanced, nero, scale_by_neuron_rms

__all__ = [
    "KeepNeuronsBalancedState",
    "NeuronDimensionNumbers",
    "ScaleByNeuronRmsState",
    "balance",
    "equinox_neurons",
    "flax_neurons",
    "isometric",
    "keep_neurons_balanced",
    "nero",
    "neuron_roles",
    "nnx_neurons",
    "register_neurons",
    "scale_by_neuron_rms",
]
