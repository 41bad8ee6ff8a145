"""Layers that lie packed in one matrix: param_groups says how many, for orthogonal directions."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from model_cases import placed
from nero import Nero, register
from nero.model.param_groups import param_groups
from nero.model.registry import lookup


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, add_cross_attention=True
    )
    return transformers.GPT2LMHeadModel(config)


def mixtral() -> nn.Module:
    return MixtralExperts(
        transformers.MixtralConfig(hidden_size=8, intermediate_size=6, num_local_experts=3)
    )


def gpt_oss() -> nn.Module:
    return GptOssExperts(
        transformers.GptOssConfig(hidden_size=8, intermediate_size=6, num_local_experts=3)
    )


@pytest.mark.parametrize(
    ("build", "blocks"),
    [
        (lambda: nn.MultiheadAttention(8, 2), {"in_proj_weight": 3, "out_proj.weight": 1}),
        (lambda: nn.MultiheadAttention(8, 2, kdim=4), {"q_proj_weight": 1, "k_proj_weight": 1}),
        (
            lambda: nn.LSTM(6, 8, proj_size=4),
            {"weight_ih_l0": 4, "weight_hh_l0": 4, "weight_hr_l0": 1},
        ),
        (lambda: nn.GRU(6, 8, bidirectional=True), {"weight_ih_l0": 3, "weight_hh_l0_reverse": 3}),
        (lambda: nn.RNN(6, 8), {"weight_ih_l0": 1}),
        (lambda: nn.LSTMCell(6, 8), {"weight_hh": 4}),
        (lambda: nn.Conv2d(8, 12, 3, groups=4), {"weight": 4}),
        # The groups of a transposed convolution are an axis of their own.
        (lambda: nn.ConvTranspose2d(8, 12, 3, groups=4), {"weight": 1}),
        (
            gpt2,
            {
                "transformer.h.0.attn.c_attn.weight": 3,
                "transformer.h.0.attn.c_proj.weight": 1,
                "transformer.h.0.crossattention.c_attn.weight": 2,
            },
        ),
        (mixtral, {"gate_up_proj": 2, "down_proj": 1}),
        (gpt_oss, {"gate_up_proj": 1}),
    ],
)
def test_packed_layers_are_counted(build: Callable[[], nn.Module], blocks: dict[str, int]) -> None:
    groups = placed(param_groups(build()))
    assert {name: groups[name].get("blocks", 1) for name in blocks} == blocks


def test_overrides_win_and_axes_of_their_own_undo_it() -> None:
    model = nn.MultiheadAttention(8, 2)
    one = placed(param_groups(model, overrides={"in_proj_weight": {"blocks": 6}}))
    assert one["in_proj_weight"]["blocks"] == 6
    two = placed(param_groups(model, overrides={"in_proj_weight": {"neuron_axes": (1,)}}))
    assert two["in_proj_weight"].get("blocks", 1) == 1


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)


def test_a_user_registers_the_parts_of_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_user_rows", [])
    lookup._rows.cache_clear()
    register(Fused, "qkv.weight", blocks=3)
    groups = placed(param_groups(nn.Sequential(Fused())))
    assert groups["0.qkv.weight"]["blocks"] == 3
    assert groups["0.out.weight"].get("blocks", 1) == 1
    with pytest.raises(ValueError, match="blocks must be"):
        register(Fused, "qkv.weight", blocks=0)
    lookup._rows.cache_clear()


def test_each_gate_turns_in_orthogonal_directions_of_its_own() -> None:
    """A step at norm-free weights shows the directions; each gate's have orthonormal rows."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(24, 6).double()
    groups = param_groups(cell, overrides={"weight_*": {"radius": None, "center": False}})
    optimizer = Nero(groups, lr=1.0, orthogonal=True)
    before = cell.weight_ih.detach().clone()
    state = torch.randn(2, 16, 6).double()  # without it the gate that forgets has no gradient
    cell(torch.randn(16, 24).double(), tuple(state))[0].square().sum().backward()
    optimizer.step()
    for gate in (cell.weight_ih.detach() - before).chunk(4):
        u = gate / gate.norm(dim=1, keepdim=True)
        assert (u @ u.T - torch.eye(6)).abs().max() < 0.06
