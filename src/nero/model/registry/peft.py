"""The registry's rows for peft's adapters, by qualified name."""

from __future__ import annotations

from torch import Tensor, nn

from nero.model.registry.rows import WEIGHT, Axes, Row, each, vectors


def columns(_module: nn.Module, parameter: Tensor) -> Axes:
    """(..., in, out): each column is a neuron."""
    return (*range(parameter.ndim - 2), parameter.ndim - 1)


def outer(module: nn.Module, _parameter: Tensor) -> Axes:
    """(out, rank), or (rank, out) beside the core of a Tucker decomposition."""
    cores = (getattr(module, name, ()) for name in ("hada_t1", "lokr_t2"))
    return (1,) if any(len(core) for core in cores) else (0,)


# A and B as in LoRA, (rank, in) and (out, rank), whatever holds them.
FACTORS = """
    lora_[AB].* hira_[AB].* delora_[AB].* deft_[PR].* adamss_[AB].* osf_svd_params.*.V_low
    hada_w[12]_b.* hada_t[12].* lokr_w1* lokr_w2.* lokr_w2_b.* lokr_t2.* c3a_kernel.*
    lora_embedding_B.*
"""
# Angles and scales, of which each entry acts by itself.
ENTRIES = """
    lora_E.* lora_magnitude_vector.* ia3_l.* boft_[Rs].* vblora_logits_[AB].* randlora_lambda.*
    randlora_gamma.*
"""

ROWS: dict[str, tuple[Row, ...]] = {
    # One size for each neuron of the layer, with axes of size 1 where that is a convolution.
    "peft.tuners.lora.dora.*": (Row("weight", "gain"),),
    "peft.tuners.oft.layer.OFTRotationModule": (Row("weight", "gain"),),
    "peft.tuners.glora.layer.GloraLoraPath": each("Xd Xu", "weight"),
    "peft.tuners.glora.layer.GloraVectorPath": (Row("X", "gain"),),
    "peft.tuners.poly.router.PolyRouter": (Row("module_logits", "gain"),),
    # (input block, skill, in, rank) and (output block, skill, rank, out).
    "peft.tuners.poly.layer.*": (
        Row("poly_lora_A.*", "weight", (1, 3)),
        Row("poly_lora_B.*", "weight", (0, 1, 3)),
    ),
    "peft.tuners.multitask_prompt_tuning.*": each("prefix_task_cols prefix_task_rows", "gain"),
    "peft.tuners.psoft.*": (WEIGHT,),
    "peft.tuners.*": (
        # (rank, tokens): a token's vector is a column. The layer's own A and B are linear layers.
        Row("lora_embedding_A.*", "embedding", (1,)),
        *each("hada_w[12]_a.* lokr_w2_a.*", "weight", outer),
        *each("gralora_[AB].* miss_block.* hra_u.* osf_svd_params.*.U_low", "weight", columns),
        *each(FACTORS, "weight"),
        *each(ENTRIES, "gain"),
        Row("beft_bias.*", "bias"),
        *each("trainable_tokens_delta.* vblora_vector_bank.*", "embedding", vectors),
        *each("adaption_prompt trainable_embedding", "embedding", vectors),
    ),
}
