"""The registry's rows for types of other packages, which are matched by qualified name.

Nothing here imports those packages. A key is an fnmatch pattern of `package.module.Class`; the
first key that matches a type and has a row for the parameter decides, so exceptions come first.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from nero.model.registry.rows import BIAS, GAIN, WEIGHT, Axes, AxesOf, Row, vectors


def experts(module: nn.Module, _parameter: Tensor) -> Axes | None:
    """Stacked experts: (expert, out, in), or (expert, in, out) where the module says so.

    transformers' decorator for expert modules sets `is_transposed` on each of them; one without
    it is unknown unless it has a row of its own.
    """
    transposed: Any = getattr(module, "is_transposed", None)
    return {True: (0, 2), False: (0, 1)}.get(transposed)


def dbrx_down(module: nn.Module, _parameter: Tensor) -> Axes | None:
    """(experts x in, out): axis 0 holds one block of inputs for each expert."""
    count = getattr(module, "moe_num_experts", None)
    return ((0, count), 1) if isinstance(count, int) else None


def _each(names: str, role: str, neuron_axes: Axes | AxesOf) -> tuple[Row, ...]:
    return tuple(Row(name, role, neuron_axes) for name in names.split())


IN_OUT = Row("weight", "weight", (1,))
STACKED_OUT_IN = Row("weight", "weight", (0, 1))
STACKED_IN_OUT = Row("weight", "weight", (0, 2))

TORCHVISION: dict[str, tuple[Row, ...]] = {
    "torchvision.models.convnext.CNBlock": (Row("layer_scale", "gain"),),
    "torchvision.models.swin_transformer.ShiftedWindowAttention*": (
        Row("relative_position_bias_table", "embedding"),
        Row("logit_scale", "gain"),
    ),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": (
        Row("relative_position_bias_table", "embedding"),
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": (
        Row("relative_position_bias_table", "embedding"),
    ),
    "torchvision.models.vision_transformer.VisionTransformer": (
        Row("class_token", "embedding", vectors),
    ),
    "torchvision.models.vision_transformer.Encoder": (Row("pos_embedding", "embedding", vectors),),
    "torchvision.models.video.mvit.PositionalEncoding": _each(
        "class_token spatial_pos temporal_pos class_pos", "embedding", vectors
    ),
    "torchvision.models.video.mvit.MultiscaleAttention": _each(
        "rel_pos_h rel_pos_w rel_pos_t", "embedding", vectors
    ),
    "torchvision.models.detection.ssd.SSDFeatureExtractorVGG": (Row("scale_weight", "gain"),),
}

# Learned vectors: tokens, positions, queries. All are (..., width), and their attribute names mean
# the same in every model of transformers; the exceptions stand in rows above this one.
TRANSFORMERS_VECTORS = """
    absolute_pos_embed class_embedding class_pos class_pos_emb cls_emb cls_register_token
    cls_token codevectors decoder_pos_embed detection_tokens distillation_token emb_rel_k
    emb_rel_v global_img_feature_extensor group_token image_newline label_embeddings_concat
    latent_query latents latents_1d latents_2d level_embed mask_emb mask_token mask_tokens
    masked_spec_embed memory_temporal_positional_encoding mid_position_embeddings no_mask_embed
    no_memory_embedding no_memory_positional_encoding no_object_pointer
    occlusion_spatial_embedding_parameter patch_pos_embed pooling_attention_query pos_embed
    position_bias position_embedding position_embedding_table position_embeddings position_enc
    positional_embedding positional_embedding_vlm probe query query_tokens reference_points
    register_tokens rel_pos_h rel_pos_w relative_attention_bias relative_position_bias_table
    seg_embed segment_token_input segment_token_prompt sub_img_feature_extensor temporal_pos_embed
    text_prompt time_embeddings token_type_embeddings type_token_instance type_token_semantic
"""
# One number per channel, head or state, or per pixel of a learned frame, whatever the axes.
TRANSFORMERS_GAINS = """
    A_log alpha alpha_cross_attn alpha_dense beta D gamma gamma_1 gamma_2 gru_rel_pos_const
    lambda1 lambda_1 lambda_2 layer_scale layer_scale_1 layer_scale_2 layer_weights log_scale
    logit_scale scale temperature time_decay time_first time_mix_key time_mix_receptance
    time_mix_value
"""
TRANSFORMERS_BIASES = """
    attention_biases b1 b2 bias_u bias_v down_proj_bias dt_proj_bias e_score_correction_bias
    gate_up_proj_bias input_gate_bias k_bias pad_down pad_left pad_right pad_up pos_bias_u
    pos_bias_v q_bias r_r_bias r_s_bias r_w_bias recurrent_gate_bias translate v_bias
"""

TRANSFORMERS: dict[str, tuple[Row, ...]] = {
    "transformers.pytorch_utils.Conv1D": (IN_OUT, BIAS),
    "transformers.*.AMSoftmaxLoss": (IN_OUT,),
    "transformers.*MultiModalProjector": (Row("mm_input_projection_weight", "weight", (1,)),),
    "transformers.*.XCLIPModel": (Row("prompts_visual_projection", "weight", (1,)),),
    "transformers.*.SwiftFormerEfficientAdditiveAttention": (Row("w_g", "weight", (1,)),),
    "transformers.models.inkling*RelativeLogits": (Row("proj", "weight", (1,)),),
    # (tap, channel): each channel has a filter of its own.
    "transformers.*.Inkling2DynamicShortConvolution": (Row("static_weight", "weight", (1,)),),
    "transformers.*TextIndexer": (
        Row("index_kpool_compress_gate", "weight"),
        Row("index_kpool_compress_ape", "embedding"),
    ),
    "transformers.models.ibert.quant_modules.QuantLinear": (WEIGHT, BIAS),
    "transformers.models.ibert.quant_modules.QuantEmbedding": (Row("weight", "embedding"),),
    "transformers.models.reformer.*.AxialPositionEmbeddings": (
        Row("weights.*", "embedding", vectors),
    ),
    "transformers.*.SeparableConv1D": (BIAS,),
    "transformers.*.MllamaPrecomputedPositionEmbedding": (Row("embedding", "embedding"),),
    "transformers.*.GroupedLinearLayer": (STACKED_IN_OUT, BIAS),
    "transformers.*.CsmCodebooksHead": (Row("weight", "head", (0, 2)),),
    "transformers.*FlexibleLinear": (STACKED_OUT_IN,),
    "transformers.*ParallelExperts": (STACKED_OUT_IN,),
    "transformers.*.ConvNextV2GRN": (GAIN, BIAS),
    "transformers.*.LongcatFlashExperts": _each("gate_up_proj down_proj", "weight", (0, 1)),
    "transformers.*.Step3p7Experts": _each("gate_up_proj down_proj", "weight", (0, 1)),
    "transformers.*.Llama4TextExperts": _each("gate_up_proj down_proj", "weight", (0, 2)),
    "transformers.*.DbrxExpertGLU": (
        *_each("w1 v1", "weight", (0,)),
        Row("w2", "weight", dbrx_down),
    ),
    "transformers.*SharedExperts": _each("gate_proj up_proj down_proj", "weight", (0, 1)),
    "transformers.*Experts": _each("gate_up_proj up_proj down_proj", "weight", experts),
    "transformers.*Router": (WEIGHT,),
    "transformers.*HyperConnection": (Row("fn", "weight"),),
    "transformers.*HyperHead": (Row("hc_fn", "weight"),),
    "transformers.*.RecurrentGemmaRglru": _each(
        "input_gate_weight recurrent_gate_weight", "weight", (0, 2)
    ),
    "transformers.*.ZambaMambaMixer": _each("x_proj_weight dt_proj_weight", "weight", (0, 1)),
    # (model, heads, head): q, k, v and r have an output for each head's entry, o one for the model.
    "transformers.*.XLNetRelativeAttention": (
        *_each("q k v r", "weight", (1, 2)),
        Row("o", "weight", (0,)),
    ),
    "transformers.*.Sam2HieraDetModel": _each("pos_embed pos_embed_window", "embedding", (0, 2, 3)),
    "transformers.models.*": (
        *_each(TRANSFORMERS_VECTORS, "embedding", vectors),
        *_each(TRANSFORMERS_GAINS, "gain", ()),
        *_each(TRANSFORMERS_BIASES, "bias", ()),
    ),
}


def rows(qualified_name: str) -> list[Row]:
    """The rows of a type, by its qualified name; those of the most particular key first."""
    table = {"torchvision": TORCHVISION, "transformers": TRANSFORMERS}
    found = table.get(qualified_name.partition(".")[0], {})
    return [row for key, own in found.items() if fnmatchcase(qualified_name, key) for row in own]
