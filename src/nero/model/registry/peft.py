"""The registry's rows for peft's adapters, by qualified name."""

from __future__ import annotations

from nero.model.registry.rows import Row, vectors

ROWS: dict[str, tuple[Row, ...]] = {
    # (rank, tokens): a token's vector is a column. The layer's own A and B are linear layers.
    "peft.tuners.*": (
        Row("lora_embedding_A.*", "embedding", (1,)),
        Row("lora_embedding_B.*", "weight"),
        Row("lora_[AB].*", "weight"),
        Row("lora_E.*", "gain"),
        Row("lora_magnitude_vector.*", "gain"),
        Row("ia3_l.*", "gain"),
        Row("hada_w[12]_[ab].*", "weight"),
        Row("trainable_tokens_delta.*", "embedding", vectors),
    ),
    # One size for each neuron of the layer, with axes of size 1 where that is a convolution.
    "peft.tuners.lora.dora.*": (Row("weight", "gain"),),
}
