"""The registry's rows for timm, by qualified name; exceptions come first."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nero.model.registry.rows import Axes, Row, each, thirds, vectors

# Tokens and positions, (..., width), and tables of relative positions, (places, heads or width).
VECTORS = """
    cls_token cls_token* dist_token reg_token pos_embed pos_embed_* position_embedding_table
    patch_pos latent height_rel width_rel pos_emb rel_pos_h rel_pos_w relative_position_bias_table
"""
# One number per channel or head, whatever the axes.
GAINS = "gain gamma gamma_* alpha temperature logit_scale"


def kernels(module: nn.Module, _parameter: Tensor) -> Axes | None:
    """(expert, out x in x kernel): a convolution of each expert, flattened."""
    out: Any = getattr(module, "out_channels", None)
    return (0, (1, out)) if isinstance(out, int) else None


def groups(module: nn.Module, _parameter: Tensor) -> int:
    """A convolution's groups take different inputs, so each is a layer."""
    return int(getattr(module, "groups", 1))  # pyright: ignore[reportArgumentType]


ROWS: dict[str, tuple[Row, ...]] = {
    # Positions of feature maps: (1, width, height, width of the map).
    "timm.models.hieradet_sam2.HieraDet": each(
        "pos_embed pos_embed_window", "embedding", (0, 2, 3)
    ),
    "timm.models.pit.PoolingVisionTransformer": (Row("pos_embed", "embedding", (0, 2, 3)),),
    "timm.models.visformer.Visformer": (Row("pos_embed*", "embedding", (0, 2, 3)),),
    "timm.models.tnt.TNT": (Row("pixel_pos", "embedding", (0, 2, 3)),),
    "timm.layers.cond_conv2d.CondConv2d": (
        Row("weight", "weight", kernels, blocks=groups),
        Row("bias", "bias"),
    ),
    # (axis, layer, head, frequency)
    "timm.layers.pos_embed_sincos.RotaryEmbeddingMixed": (Row("freqs", "gain"),),
    "timm.models.mlp_mixer.Affine": (Row("beta", "bias"),),
    "timm.models.swiftformer.EfficientAdditiveAttention": (Row("w_g", "weight", (1,)),),
    "timm.*": (
        *each(VECTORS, "embedding", vectors),
        *each(GAINS, "gain"),
        Row("attention_biases", "bias"),
        Row("qkv.weight", "weight", blocks=thirds),
    ),
}
