"""The registry's rows for torchvision, by qualified name; exceptions come first."""

from __future__ import annotations

from nero.model.registry.rows import Row, each, thirds, vectors

ROWS: dict[str, tuple[Row, ...]] = {
    "torchvision.models.convnext.CNBlock": (Row("layer_scale", "gain"),),
    "torchvision.models.swin_transformer.ShiftedWindowAttention*": (
        Row("relative_position_bias_table", "embedding"),
        Row("logit_scale", "gain"),
        Row("qkv.weight", "weight", blocks=thirds),
    ),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": (
        Row("relative_position_bias_table", "embedding"),
        Row("qkv.weight", "weight", blocks=thirds),
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": (
        Row("relative_position_bias_table", "embedding"),
        Row("to_qkv.weight", "weight", blocks=thirds),
    ),
    "torchvision.models.vision_transformer.VisionTransformer": (
        Row("class_token", "embedding", vectors),
    ),
    "torchvision.models.vision_transformer.Encoder": (Row("pos_embedding", "embedding", vectors),),
    "torchvision.models.video.mvit.PositionalEncoding": each(
        "class_token spatial_pos temporal_pos class_pos", "embedding", vectors
    ),
    "torchvision.models.video.mvit.MultiscaleAttention": (
        *each("rel_pos_h rel_pos_w rel_pos_t", "embedding", vectors),
        Row("qkv.weight", "weight", blocks=thirds),
    ),
    "torchvision.models.detection.ssd.SSDFeatureExtractorVGG": (Row("scale_weight", "gain"),),
}
