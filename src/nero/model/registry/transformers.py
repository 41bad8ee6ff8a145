"""The registry's rows for transformers, by qualified name; exceptions come first."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nero.model.registry.rows import BIAS, GAIN, WEIGHT, Axes, Row, each, thirds, vectors

IN_OUT = Row("weight", "weight", (1,))
STACKED_OUT_IN = Row("weight", "weight", (0, 1))
STACKED_IN_OUT = Row("weight", "weight", (0, 2))


# Learned vectors: tokens, positions, queries. All are (..., width), and their attribute names mean
# the same in every model of transformers; the exceptions stand in rows above this one.
VECTORS = """
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
GAINS = """
    A_log alpha alpha_cross_attn alpha_dense beta D gamma gamma_1 gamma_2 gru_rel_pos_const
    lambda1 lambda_1 lambda_2 layer_scale layer_scale_1 layer_scale_2 layer_weights log_scale
    logit_scale scale temperature time_decay time_first time_mix_key time_mix_receptance
    time_mix_value
"""
BIASES = """
    attention_biases b1 b2 bias_u bias_v down_proj_bias dt_proj_bias e_score_correction_bias
    gate_up_proj_bias input_gate_bias k_bias pad_down pad_left pad_right pad_up pos_bias_u
    pos_bias_v q_bias r_r_bias r_s_bias r_w_bias recurrent_gate_bias translate v_bias
"""


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


def fused(_module: nn.Module, parameter: Tensor) -> int:
    """(in, out) of equal layers side by side that each keep the width: q, k and v, or k and v."""
    width, out = parameter.shape
    return out // width if out % width == 0 else 1


FUSED = Row("c_attn.weight", "weight", (1,), fused)

ROWS: dict[str, tuple[Row, ...]] = {
    "transformers.pytorch_utils.Conv1D": (IN_OUT, BIAS),
    "transformers.models.gpt2.*": (FUSED,),
    "transformers.models.imagegpt.*": (FUSED,),
    "transformers.models.openai.*": (FUSED,),
    "transformers.models.decision_transformer.*": (FUSED,),
    "transformers.models.mpt.*": (Row("Wqkv.weight", "weight", blocks=thirds),),
    "transformers.models.modernbert.*": (Row("Wqkv.weight", "weight", blocks=thirds),),
    # q, k and v of different heights, which are no equal pieces.
    "transformers.models.exaone4_5.*": (Row("qkv.weight", "weight"),),
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
    "transformers.*.LongcatFlashExperts": each("gate_up_proj down_proj", "weight", (0, 1)),
    "transformers.*.Step3p7Experts": each("gate_up_proj down_proj", "weight", (0, 1)),
    "transformers.*.Llama4TextExperts": each("gate_up_proj down_proj", "weight", (0, 2)),
    "transformers.*.DbrxExpertGLU": (
        *each("w1 v1", "weight", (0,)),
        Row("w2", "weight", dbrx_down),
    ),
    "transformers.*SharedExperts": each("gate_proj up_proj down_proj", "weight", (0, 1)),
    # Gates and what they multiply lie alternately.
    "transformers.*.GptOssExperts": each("gate_up_proj down_proj", "weight", experts),
    # Gates lie before what they multiply.
    "transformers.*Experts": (
        Row("gate_up_proj", "weight", experts, blocks=2),
        *each("up_proj down_proj", "weight", experts),
    ),
    "transformers.*Router": (WEIGHT,),
    "transformers.*HyperConnection": (Row("fn", "weight"),),
    "transformers.*HyperHead": (Row("hc_fn", "weight"),),
    "transformers.*.RecurrentGemmaRglru": each(
        "input_gate_weight recurrent_gate_weight", "weight", (0, 2)
    ),
    "transformers.*.ZambaMambaMixer": each("x_proj_weight dt_proj_weight", "weight", (0, 1)),
    # (model, heads, head): q, k, v and r have an output for each head's entry, o one for the model.
    "transformers.*.XLNetRelativeAttention": (
        *each("q k v r", "weight", (1, 2)),
        Row("o", "weight", (0,)),
    ),
    "transformers.*.Sam2HieraDetModel": each("pos_embed pos_embed_window", "embedding", (0, 2, 3)),
    "transformers.models.*": (
        *each(VECTORS, "embedding", vectors),
        *each(GAINS, "gain", ()),
        *each(BIASES, "bias", ()),
        Row("qkv.weight", "weight", blocks=thirds),
        Row("gate_up_proj.weight", "weight", blocks=2),
    ),
}
