"""The registry's rows for torch.nn, and which of its parameters stand behind a parametrisation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import prune
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nero.model.registry.rows import BIAS, GAIN, WEIGHT, Axes, Row


def transposed(module: nn.Module, _parameter: Tensor) -> Axes:
    """(in, out / groups, ...): group g feeds its outputs from the g-th block of axis 0 alone."""
    assert isinstance(module, _ConvNd)
    return (1,) if module.groups == 1 else ((0, module.groups), 1)


def groups(module: nn.Module, _parameter: Tensor) -> int:
    """A convolution's groups take different inputs, so each is a layer."""
    assert isinstance(module, _ConvNd)
    return module.groups


def gates(module: nn.Module, parameter: Tensor) -> int:
    """The gates of a recurrent layer, `hidden_size` rows each; a projection has fewer rows."""
    assert isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    return max(1, parameter.shape[0] // module.hidden_size)


ROWS: dict[type[nn.Module], tuple[Row, ...]] = {
    nn.Linear: (WEIGHT, BIAS),
    nn.Bilinear: (WEIGHT, BIAS),
    _ConvTransposeNd: (Row("weight", "weight", transposed), BIAS),
    _ConvNd: (Row("weight", "weight", blocks=groups), BIAS),
    nn.Embedding: (Row("weight", "embedding"),),
    nn.EmbeddingBag: (Row("weight", "embedding"),),
    # The rows of q, k and v are stacked in in_proj_weight; bias_k and bias_v are (1, 1, width).
    nn.MultiheadAttention: (
        Row("in_proj_weight", "weight", blocks=3),
        Row("[qkv]_proj_weight", "weight"),
        Row("in_proj_bias", "bias"),
        Row("bias_[kv]", "bias"),
    ),
    # Gates are stacked along axis 0: each row of each gate is a neuron.
    nn.RNNBase: (Row("weight_*", "weight", blocks=gates), Row("bias_*", "bias")),
    nn.RNNCellBase: (Row("weight_*", "weight", blocks=gates), Row("bias_*", "bias")),
    _NormBase: (GAIN, BIAS),
    nn.LayerNorm: (GAIN, BIAS),
    nn.GroupNorm: (GAIN, BIAS),
    nn.RMSNorm: (GAIN,),
    nn.PReLU: (GAIN,),
    ParametrizationList: (Row("original*", "gain"),),
}


def reparametrized(module: nn.Module) -> frozenset[str]:
    """Own parameters of `module` from which a parametrisation computes the weight in use.

    The neuron is then a row of the computed weight, so these cannot be projected as neurons. Found
    by the types of torch.nn.utils: parametrizations, the weight and spectral norm of old, pruning.

    Examples:
        >>> from torch import nn
        >>> from nero.model.registry.torch_nn import reparametrized
        >>> sorted(reparametrized(nn.utils.spectral_norm(nn.Linear(3, 2))))
        ['weight_orig']
    """
    names: set[str] = set()
    if isinstance(module, ParametrizationList):
        names |= {name for name, _ in module.named_parameters(recurse=False)}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            names |= {f"{hook.name}_g", f"{hook.name}_v"}
        elif isinstance(hook, SpectralNorm):
            names.add(f"{hook.name}_orig")
        elif isinstance(hook, prune.BasePruningMethod):
            names.add(f"{hook._tensor_name}_orig")
    return frozenset(names)
