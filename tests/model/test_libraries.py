"""Whole models of other packages: every parameter once, with the neurons that its module has."""

import math
from typing import Any

import pytest
import torch
import torchvision.models
import transformers
from torch import Tensor, nn
from transformers.models.convbert.modeling_convbert import GroupedLinearLayer
from transformers.models.dbrx.modeling_dbrx import DbrxExperts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.llama4.modeling_llama4 import Llama4TextExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention
from transformers.pytorch_utils import Conv1D

from nero import Nero
from nero.model.param_groups import param_groups, plan
from neuron_oracle import Case, classes_by_effect, classes_by_layout
from on_meta import without_memory


def expected_neurons(module: nn.Module, name: str) -> tuple[int, int] | None:
    """(neurons, fan-in) of a weight, by the attributes of its module; None where it has none."""
    match module:
        case nn.Linear(in_features=fan_in, out_features=neurons) if name == "weight":
            return neurons, fan_in
        case nn.modules.conv._ConvNd() if name == "weight":
            fan_in = module.in_channels // module.groups * math.prod(module.kernel_size)
            return module.out_channels, fan_in
        case nn.Embedding(num_embeddings=neurons, embedding_dim=fan_in):
            return neurons, fan_in
        case nn.MultiheadAttention(embed_dim=width) if name == "in_proj_weight":
            return 3 * width, width
        case Conv1D(nx=fan_in, nf=neurons) if name == "weight":
            return neurons, fan_in
        case MixtralExperts(num_experts=count, hidden_dim=width, intermediate_dim=hidden):
            return {
                "gate_up_proj": (count * 2 * hidden, width),
                "down_proj": (count * width, hidden),
            }[name]
    return None


def check(model: nn.Module) -> int:
    """Each trainable parameter once, with the neurons its module says; how many were compared."""
    groups = param_groups(model)
    placed = [id(p) for group in groups for _, p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)] == name for group in groups for name, p in group["params"])
    compared = 0
    modules = dict(model.named_modules())
    for each in plan(model):
        path, _, attribute = each.names[0].rpartition(".")
        expected = expected_neurons(modules[path], attribute)
        if expected is not None:
            assert (each.layout.neurons, each.layout.fan_in) == expected, each.names
            compared += 1
        elif each.role in ("gain", "bias"):
            assert each.layout.fan_in == 1, each.names
    return compared


@pytest.mark.parametrize("name", torchvision.models.list_models())
def test_torchvision(name: str) -> None:
    options: dict[str, Any] = {"weights": None}
    if torchvision.models.get_model_builder(name).__module__.startswith(
        ("torchvision.models.detection", "torchvision.models.segmentation")
    ):
        options["weights_backbone"] = None
    with without_memory():
        model = torchvision.models.get_model(name, **options)
    weights = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    assert check(model) >= len(weights) > 0


TEXT: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT: dict[str, Any] = {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
SPEECH: dict[str, Any] = {
    "vocab_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
T5: dict[str, Any] = {
    "vocab_size": 48,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
WHISPER: dict[str, Any] = {"num_mel_bins": 8, "max_source_positions": 16}
CLIP: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 8}
SWIN: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}

# Family (the prefix of its class names) -> the kind of model and a small configuration.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2": ("LMHeadModel", GPT),
    "Llama": ("ForCausalLM", TEXT),
    "Mistral": ("ForCausalLM", TEXT),
    "Mixtral": ("ForCausalLM", TEXT | EXPERTS),
    "GptOss": ("ForCausalLM", TEXT | EXPERTS | {"head_dim": 8}),
    "Qwen2": ("ForCausalLM", TEXT),
    "Qwen3Moe": ("ForCausalLM", TEXT | {"num_experts": 4, "moe_intermediate_size": 8}),
    "Gemma": ("ForCausalLM", TEXT | {"head_dim": 8}),
    "Phi3": ("ForCausalLM", TEXT),
    "Bert": ("ForMaskedLM", TEXT),
    "Deberta": ("ForMaskedLM", TEXT),
    "T5": ("ForConditionalGeneration", T5),
    "Whisper": ("ForConditionalGeneration", SPEECH | WHISPER),
    "Bart": ("ForConditionalGeneration", SPEECH),
    "ViT": ("ForImageClassification", VISION),
    "Beit": ("ForImageClassification", VISION | {"use_relative_position_bias": True}),
    "Swin": ("ForImageClassification", SWIN),
    "Dinov2": ("Model", VISION),
    "CLIP": ("Model", CLIP),
    "Mamba": ("ForCausalLM", {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2}),
    "XLNet": ("LMHeadModel", {"vocab_size": 48, "d_model": 16, "n_layer": 2, "n_head": 2}),
}


def build(family: str) -> nn.Module:
    kind, options = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**options)
    return getattr(transformers, family + kind)(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers(family: str) -> None:
    model = build(family)
    assert check(model) > 4
    optimizer = Nero(param_groups(model))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        [p for p in model.parameters() if p.requires_grad]
    )
    head = model.get_output_embeddings()  # type: ignore[operator]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    roles = {id(each.parameter): each.role for each in plan(model)}
    if isinstance(head, nn.Linear):
        tied = id(head.weight) in embeddings
        assert roles[id(head.weight)] == ("embedding" if tied else "head")
    assert {roles.get(key, "embedding") for key in embeddings} <= {"embedding"}  # some are frozen


def test_the_families_hold_tied_and_untied_heads() -> None:
    """That the check of roles above sees both."""
    assert {each.role for each in plan(build("Llama"))} >= {"head", "embedding", "weight", "gain"}
    assert "head" not in {each.role for each in plan(build("GPT2"))}


@pytest.mark.parametrize(
    ("family", "name", "role", "neurons", "fan_in"),
    [
        ("GPT2", "transformer.h.0.attn.c_attn.weight", "weight", 48, 16),
        ("Mixtral", "model.layers.0.mlp.experts.gate_up_proj", "weight", 4 * 64, 16),
        ("Mixtral", "model.layers.0.mlp.gate.weight", "weight", 4, 16),
        ("GptOss", "model.layers.0.mlp.experts.gate_up_proj", "weight", 4 * 64, 16),
        ("GptOss", "model.layers.0.mlp.experts.gate_up_proj_bias", "bias", 4 * 64, 1),
        ("ViT", "vit.embeddings.cls_token", "embedding", 1, 16),
        ("ViT", "vit.embeddings.position_embeddings", "embedding", 5, 16),
        ("Mamba", "backbone.layers.0.mixer.A_log", "gain", 32 * 16, 1),
        ("Mamba", "backbone.layers.0.mixer.conv1d.weight", "weight", 32, 4),
        ("XLNet", "transformer.layer.0.rel_attn.q", "weight", 16, 16),
        ("XLNet", "transformer.layer.0.rel_attn.o", "weight", 16, 16),
    ],
)
def test_special_parameters(family: str, name: str, role: str, neurons: int, fan_in: int) -> None:
    each = next(each for each in plan(build(family)) if name in each.names)
    assert (each.role, each.layout.neurons, each.layout.fan_in) == (role, neurons, fan_in)


def equal_inputs(*shape: int) -> Tensor:
    """A different number for each token, the same one for all entries of its vector."""
    return torch.randn(*shape[:-1], 1, dtype=torch.float64).expand(shape)


def routed(module: nn.Module) -> Tensor:
    """Every token through every expert of three, with weights of its own."""
    index = torch.arange(3).expand(6, 3)
    share = torch.rand(6, 3, dtype=torch.float64)
    return module(equal_inputs(6, 4), index, share)


def constant_up(module: nn.Module) -> Tensor:
    """`routed` with all hidden units of an expert alike, so that the inputs of `down_proj` are."""
    for name, p in module.named_parameters():
        if name.startswith(("gate_up_proj", "mlp.w1", "mlp.v1")):
            nn.init.constant_(p, 0.3)
    return routed(module)


def initialized(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p)
    return module.double()


def expert_config(kind: str, **options: Any) -> Any:
    small = {"hidden_size": 4, "intermediate_size": 3, **options}
    config = getattr(transformers, f"{kind}Config")(**small)
    config._experts_implementation = "eager"
    return config


def mixtral() -> nn.Module:
    return initialized(MixtralExperts(expert_config("Mixtral", num_local_experts=3)))


def gpt_oss() -> nn.Module:
    return initialized(GptOssExperts(expert_config("GptOss", num_local_experts=3)))


def dbrx() -> nn.Module:
    ffn = transformers.models.dbrx.configuration_dbrx.DbrxFFNConfig(
        hidden_size=4, ffn_hidden_size=3, moe_num_experts=3, moe_top_k=3
    )
    return initialized(DbrxExperts(ffn))


def llama4() -> nn.Module:
    config = transformers.Llama4TextConfig(hidden_size=4, intermediate_size=3, num_local_experts=3)
    return initialized(Llama4TextExperts(config))


def llama4_down(module: nn.Module) -> Tensor:
    nn.init.constant_(module.get_parameter("gate_up_proj"), 0.3)
    return module(equal_inputs(6, 4))


def xlnet() -> nn.Module:
    config = transformers.XLNetConfig(d_model=4, n_head=2, d_inner=8)
    return initialized(XLNetRelativeAttention(config))


CASES = [
    Case("Conv1D", lambda: Conv1D(3, 4).double(), "weight", lambda m: m(equal_inputs(5, 4))),
    Case(
        "GroupedLinearLayer",
        lambda: initialized(GroupedLinearLayer(4, 6, 2)),
        "weight",
        lambda m: m(equal_inputs(5, 1, 4)).flatten(0, 1),
    ),
    *(
        Case(kind.__name__, kind, name, run, classes_by_effect)
        for kind, names in [
            (mixtral, ("gate_up_proj", "down_proj")),
            (gpt_oss, ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")),
            (dbrx, ("mlp.w1", "mlp.v1", "mlp.w2")),
        ]
        for name in names
        for run in [constant_up if name.endswith(("down_proj", "w2")) else routed]
    ),
    Case("Llama4", llama4, "gate_up_proj", lambda m: m(equal_inputs(6, 4)), classes_by_effect),
    Case("Llama4", llama4, "down_proj", llama4_down, classes_by_effect),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_neurons_are_those_that_derivatives_find(case: Case) -> None:
    module = case.build()
    each = next(each for each in plan(module) if each.names[0] == case.parameter)
    assert classes_by_layout(each.layout) == case.classes(module)


@pytest.mark.parametrize("name", ["q", "k", "v", "o"])
def test_xlnet_attention(name: str) -> None:
    """Its projections are einsums; a unit is an entry of what the einsum returns."""
    module = xlnet()
    each = next(each for each in plan(module) if each.names[0] == name)
    p = module.get_parameter(name)
    x = torch.randn(5, *(p.shape[1:] if name == "o" else p.shape[:1]), dtype=torch.float64)
    equation = "bnd,hnd->bh" if name == "o" else "bh,hnd->bnd"
    case = Case("XLNet", xlnet, name, lambda m: torch.einsum(equation, x, p).flatten(1))
    assert classes_by_layout(each.layout) == case.classes(module)


def test_a_batch_finds_the_head_of_a_classifier() -> None:
    model = build("ViT")
    groups = param_groups(model, batch={"pixel_values": torch.randn(1, 3, 8, 8)})
    heads = [name for g in groups if g["role"] == "head" for name, _ in g["params"]]
    assert heads == ["classifier.weight"]
