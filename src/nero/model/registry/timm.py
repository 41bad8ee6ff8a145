"""The registry's rows for timm, by qualified name; exceptions come first."""

from __future__ import annotations

from nero.model.registry.rows import Row, each, thirds, vectors

# Tokens and positions, (..., width), and tables of relative positions, (places, heads or width).
VECTORS = """
    cls_token cls_token* dist_token reg_token pos_embed pos_embed_* position_embedding_table
    patch_pos latent height_rel width_rel rel_pos_h rel_pos_w relative_position_bias_table
"""
# One number per channel or head, whatever the axes.
GAINS = "gain gamma gamma_* alpha temperature logit_scale"

ROWS: dict[str, tuple[Row, ...]] = {
    # Positions of feature maps: (1, width, height, width of the map).
    "timm.models.hieradet_sam2.HieraDet": each(
        "pos_embed pos_embed_window", "embedding", (0, 2, 3)
    ),
    "timm.models.pit.PoolingVisionTransformer": (Row("pos_embed", "embedding", (0, 2, 3)),),
    "timm.models.visformer.Visformer": (Row("pos_embed*", "embedding", (0, 2, 3)),),
    "timm.models.tnt.TNT": (Row("pixel_pos", "embedding", (0, 2, 3)),),
    "timm.models.swiftformer.EfficientAdditiveAttention": (Row("w_g", "weight", (1,)),),
    "timm.*": (
        *each(VECTORS, "embedding", vectors),
        *each(GAINS, "gain"),
        Row("attention_biases", "bias"),
        Row("qkv.weight", "weight", blocks=thirds),
    ),
}
