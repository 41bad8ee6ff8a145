"""nero.for_model: what it decides for a dozen architectures, and what it leaves alone."""

import copy
import io
import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn

from direction_oracle import OrthogonalOracle
from helpers import balanced
from model_cases import Recurrent, Transforming
from nero import Nero, for_model
from nero.model.depth import rate_factor
from nero.model.recommendation import LONG, MAX_TURN, MOMENTUM, TURN
from oracle import OracleTensor


def mlp(depth: int = 3, width: int = 16, inputs: int = 8, outputs: int = 5) -> nn.Sequential:
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Convolutions with batch norm, one block with a skip connection, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.branch(x)).mean((2, 3)))


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2)
        )

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(z))


class Patches(nn.Module):
    """A vision transformer's raw (1, N, D) positions, of a type that nobody has registered."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(1, 4, 8))
        self.scales = nn.Parameter(torch.ones(8, 1, 1))
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (self.patch(x) * self.scales).flatten(2).mT + self.positions
        return self.head(self.norm(tokens).mean(1))


class Adapted(nn.Module):
    """A frozen layer with an adapter that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.a = nn.Linear(8, 4, bias=False)
        self.b = nn.Linear(4, 8, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.inner(self.embedding(tokens)).relu())


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, attn_pdrop=0.0
    )
    return transformers.GPT2LMHeadModel(config)


TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
PICTURES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    batch: Any
    roles: dict[str, str]
    orthogonal: dict[str, int]
    """the weights that turn in orthogonal directions, and the layers packed in each"""


CASES = {
    "mlp": Case(
        mlp,
        ROWS,
        {"0.weight": "weight", "2.weight": "weight", "4.weight": "head", "4.bias": "bias"},
        {"0.weight": 1, "2.weight": 1},
    ),
    "one layer": Case(lambda: nn.Linear(8, 1), (ROWS,), {"weight": "head", "bias": "bias"}, {}),
    "residual": Case(
        Residual,
        PICTURES,
        {"stem.0.weight": "weight", "stem.1.weight": "gain", "head.weight": "head"},
        {"stem.0.weight": 1, "branch.0.weight": 2, "branch.3.weight": 1},
    ),
    "generator": Case(
        Generator,
        torch.randn(2, 6, 1, 1),
        {"layers.0.weight": "weight", "layers.3.weight": "head"},
        {"layers.0.weight": 1},
    ),
    "lstm": Case(
        Recurrent,
        TOKENS,
        {"embedding.weight": "embedding", "decoder.weight": "head"},
        {
            **{f"lstm.weight_{kind}_l{layer}": 4 for kind in ("ih", "hh") for layer in (0, 1)},
            **{f"lstm.weight_hr_l{layer}": 1 for layer in (0, 1)},
        },
    ),
    "transformer": Case(
        Transforming,
        TOKENS,
        {"embedding.weight": "embedding"},
        {
            f"encoder.layers.{layer}.{name}.weight".replace("in_proj.", "in_proj_"): blocks
            for layer in (0, 1)
            for name, blocks in (
                ("self_attn.in_proj", 3),
                ("self_attn.out_proj", 1),
                ("linear1", 1),
                ("linear2", 1),
            )
        },
    ),
    "gpt2": Case(
        gpt2,
        {"input_ids": TOKENS},
        {"transformer.wte.weight": "embedding", "transformer.wpe.weight": "embedding"},
        {
            f"transformer.h.{layer}.{name}.weight": blocks
            for layer in (0, 1)
            for name, blocks in (
                ("attn.c_attn", 3),
                ("attn.c_proj", 1),
                ("mlp.c_fc", 1),
                ("mlp.c_proj", 1),
            )
        },
    ),
    "tied": Case(Tied, TOKENS, {"embedding.weight": "embedding"}, {"inner.weight": 1}),
    "patches": Case(
        Patches,
        PICTURES,
        {"positions": "embedding", "scales": "embedding", "head.weight": "head"},
        {"patch.weight": 1},
    ),
    "adapter": Case(Adapted, ROWS, {"a.weight": "weight"}, {}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
freshness = pytest.mark.parametrize("fresh", [True, False])


def quiet(*arguments: Any, **options: Any) -> Nero:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return for_model(*arguments, **options)


def groups_by_name(optimizer: Nero) -> dict[str, dict[str, Any]]:
    return {name: group for group in optimizer.param_groups for name in group["param_names"]}


@every_case
@freshness
def test_roles_and_directions(case: Case, fresh: bool) -> None:
    model = case.build()
    groups = groups_by_name(quiet(model, batch=case.batch, fresh=fresh))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert groups.keys() == trained
    assert {name: groups[name]["role"] for name in case.roles} == case.roles
    directed = {name: g["blocks"] for name, g in groups.items() if g["orthogonal"]}
    assert directed.items() >= case.orthogonal.items()
    assert all(groups[name]["role"] == "weight" for name in directed)
    assert {group["max_turn"] for group in groups.values()} == {MAX_TURN[True]}
    for group in groups.values():
        assert group["momentum"] == (0 if group["role"] in ("gain", "bias") else MOMENTUM)
    rates = {group["lr"] for group in groups.values()}
    assert max(rates) == TURN
    # The LSTM's two layers, with a projection each, and the head stand in a row of five.
    assert min(rates) == TURN * rate_factor(5 if case is CASES["lstm"] else 1)


@every_case
def test_trained_weights_keep_every_bit_and_outputs_are_equal(case: Case) -> None:
    model = case.build().eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        output = run(model, case.batch)
        quiet(model, batch=case.batch, fresh=False)
        after = run(model, case.batch)
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name]), name
    assert torch.equal(output, after)


def run(model: nn.Module, batch: Any) -> Tensor:
    if isinstance(batch, dict):
        return model(**batch).logits
    out = model(*batch) if isinstance(batch, tuple) else model(batch)
    out = out["logits"] if isinstance(out, dict) else out
    return out[0] if isinstance(out, tuple) else out


@every_case
@freshness
def test_a_few_steps_train(case: Case, fresh: bool) -> None:
    torch.manual_seed(0)
    model = case.build()
    optimizer = quiet(model, batch=case.batch, fresh=fresh)
    target = torch.randn_like(run(model, case.batch))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(run(model, case.batch), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0]


def test_long_rows_turn_less_and_no_number_is_needed() -> None:
    for momentum, fresh in ((0.9, True), (0.0, True), (0.9, False)):
        deep = for_model(mlp(60), batch=ROWS, fresh=fresh, momentum=momentum)
        expected = TURN * rate_factor(60)
        assert {group["lr"] for group in deep.param_groups} == {expected}
        assert f"{expected:.3g}" in repr(deep)
        for group in deep.param_groups:
            assert group["orthogonal"] == (group["role"] == "weight" and not fresh)
            assert group["momentum"] == (0.0 if fresh or group["role"] == "bias" else momentum)
            # Rows drawn anew have no momentum, and so the cap of networks without.
            assert group["max_turn"] == MAX_TURN[group["momentum"] > 0 or group["role"] == "bias"]
    given = for_model(mlp(60), batch=ROWS, fresh=True, turn=0.5)
    assert given.param_groups[0]["lr"] == 0.5 * rate_factor(60)
    asked = for_model(
        mlp(60), batch=ROWS, fresh=True, orthogonal=True, overrides={"*.weight": {"momentum": 0.5}}
    )
    weights = next(group for group in asked.param_groups if group["role"] == "weight")
    assert (weights["orthogonal"], weights["momentum"]) == (True, 0.5)
    uncapped = for_model(mlp(60), batch=ROWS, fresh=True, max_turn=None)
    assert {group["max_turn"] for group in uncapped.param_groups} == {None}
    blind = for_model(mlp(60), fresh=True)
    assert {group["lr"] for group in blind.param_groups} == {TURN}
    assert "a batch would show" in repr(blind)


def test_fresh_plain_chains_carry_the_signal_and_keep_its_norms() -> None:
    torch.manual_seed(0)
    model = mlp(60, width=64, inputs=32).double()
    x = torch.randn(64, 32).double()
    optimizer = for_model(model, batch=x, fresh=True)
    sizes = []
    y = x
    for part in model:
        y = part(y)
        if isinstance(part, nn.Linear):
            sizes.append(y.square().mean().sqrt().item())
    assert max(sizes[1:-1]) / min(sizes[1:-1]) < 1.3
    # ReLU without its sqrt(2) needs neurons of that norm, and steps keep it.
    y.square().mean().backward()
    optimizer.step()
    hidden = model[2].weight.detach()
    assert torch.allclose(hidden.norm(dim=1), torch.full((64,), 2**0.5).double())
    assert hidden.sum(1).abs().max() < 1e-12
    first = model[0].weight.detach()
    assert torch.allclose(first.norm(dim=1), torch.ones(64).double())


def test_what_cannot_be_drawn_is_projected_and_the_reason_is_shown() -> None:
    model = Residual()
    before = copy.deepcopy(model.stem[0].weight)
    optimizer = for_model(model, batch=PICTURES, fresh=True)
    assert balanced(model.stem[0].weight)
    expected = before - before.mean((1, 2, 3), keepdim=True)
    expected /= expected.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(model.stem[0].weight, expected, atol=1e-6)
    assert "a convolution of 2 groups" in repr(optimizer)


def test_short_chains_are_projected_as_they_were() -> None:
    torch.manual_seed(0)
    model = mlp(LONG)
    expected = copy.deepcopy(model[2].weight.detach())
    optimizer = for_model(model, batch=ROWS, fresh=True)
    expected -= expected.mean(1, keepdim=True)
    expected /= expected.norm(dim=1, keepdim=True)
    assert torch.allclose(model[2].weight, expected, atol=1e-6)
    assert f"in a chain of {LONG}" in repr(optimizer)


def test_a_linear_layer_on_the_batch_is_not_centred() -> None:
    """Where inputs are few their mean is one of them, which a centred neuron cannot see."""
    torch.manual_seed(0)
    model = mlp(2, inputs=4)
    groups = groups_by_name(for_model(model, batch=torch.randn(3, 4), fresh=True))
    assert (groups["0.weight"]["center"], groups["0.weight"]["radius"]) == (False, "unit")
    assert groups["2.weight"]["center"]
    normed = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = groups_by_name(for_model(normed, batch=torch.randn(3, 4), fresh=True))
    assert groups["1.weight"]["center"]
    lstm = nn.LSTM(4, 8)
    groups = groups_by_name(for_model(lstm, batch=torch.randn(3, 2, 4), fresh=True))
    assert all(group["center"] for group in groups.values() if group["role"] == "weight")


def test_a_head_with_few_outputs_learns_its_size() -> None:
    """Targets of size 100 are far beyond what neurons of norm 1 reach."""
    torch.manual_seed(0)
    model = mlp(2, width=32, inputs=8, outputs=1)
    x = torch.randn(256, 8)
    y = 100 * (1 + x[:, :1].abs())
    optimizer = for_model(model, batch=x, fresh=True)
    groups = groups_by_name(optimizer)
    for name, radius in (("2.weight", None), ("2.bias", None), ("0.weight", "unit")):
        assert groups[name]["radius"] == radius
        assert groups[name]["relative"] == name.startswith("2.")
    assert torch.allclose(model[2].weight.norm(dim=1), torch.ones(1))
    steps = 800
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / steps)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * y.var().item()
    assert model[2].weight.norm() > 30


def test_the_kernel_that_is_asked_for_takes_all_but_what_steps_in_proportion() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(4, 8)
    optimizer = for_model(model, batch=x, fresh=True, fused=True)
    assert {group["fused"] for group in optimizer.param_groups if group["relative"]} == {None}
    assert {group["fused"] for group in optimizer.param_groups if not group["relative"]} == {True}
    model(x).square().mean().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"2\.weight.*relative"):
        for_model(model, batch=x, fresh=True, overrides={"2.weight": {"fused": True}})


def test_a_head_of_many_outputs_behind_a_normalisation_keeps_norm_1() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 12))
    groups = groups_by_name(for_model(model, batch=ROWS, fresh=True))
    assert (groups["3.weight"]["radius"], groups["3.weight"]["relative"]) == ("unit", False)
    assert not groups["3.bias"]["relative"]
    # A trained head is free without a change to it.
    trained = groups_by_name(for_model(mlp(), batch=ROWS, fresh=False))
    assert (trained["4.weight"]["center"], trained["4.weight"]["radius"]) == (False, None)


def test_embeddings_start_at_norm_1_and_are_free() -> None:
    torch.manual_seed(0)
    model = Recurrent()
    model.decoder = nn.Sequential(nn.LayerNorm(6), model.decoder)
    with torch.no_grad():
        model.embedding.weight[1:] *= 7
    optimizer = for_model(model, batch=TOKENS, fresh=True)
    weight = model.embedding.weight.detach()
    assert torch.allclose(weight[1:].norm(dim=1), torch.ones(11))
    assert weight[1:].mean(1).abs().max() < 1e-6
    assert not weight[0].any()  # the padding row
    group = groups_by_name(optimizer)["embedding.weight"]
    assert (group["center"], group["radius"]) == (True, None)
    assert optimizer.state[model.embedding.weight]["scale"] == pytest.approx(11 / 12)
    # Where the caller says otherwise, nothing is done to them.
    before = copy.deepcopy(model.embedding.weight)
    free = {"embedding.weight": {"center": False, "radius": None}}
    for_model(model, batch=TOKENS, fresh=True, overrides=free)
    assert torch.equal(before, model.embedding.weight)


def test_hidden_weights_keep_their_norms_where_no_normalisation_has_gains() -> None:
    def network(gains: bool) -> nn.Module:
        return nn.Sequential(
            nn.Embedding(12, 8), nn.LayerNorm(8, elementwise_affine=gains), nn.Linear(8, 8),
            nn.GELU(), nn.Linear(8, 12),
        )  # fmt: skip

    torch.manual_seed(0)
    model = network(gains=False)
    before = model[2].weight.detach().clone()
    optimizer = for_model(model, batch=TOKENS, fresh=True)
    groups = groups_by_name(optimizer)
    assert (groups["2.weight"]["center"], groups["2.weight"]["radius"]) == (True, "initial")
    assert groups["4.weight"]["radius"] == "unit"
    assert torch.allclose(model[2].weight, before - before.mean(1, keepdim=True), atol=1e-6)
    assert "no normalisation has gains" in repr(optimizer)
    usual = groups_by_name(for_model(network(gains=True), batch=TOKENS, fresh=True))
    assert {usual[name]["radius"] for name in ("2.weight", "4.weight")} == {"unit"}
    # Trained weights keep their norms whatever the network.
    kept = groups_by_name(for_model(network(gains=False), batch=TOKENS, fresh=False))
    assert (kept["2.weight"]["center"], kept["2.weight"]["radius"]) == (False, "initial")


def test_without_normalisation_embeddings_keep_their_size_and_heads_learn_theirs() -> None:
    class Recurrent(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.embedding, self.norm = nn.Embedding(12, 8), norm
            self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 12)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.norm(self.lstm(self.embedding(tokens))[0]))

    torch.manual_seed(0)
    model = Recurrent(nn.Identity())
    before = model.embedding.weight.detach().clone()
    groups = groups_by_name(for_model(model, batch=TOKENS, fresh=True))
    torch.testing.assert_close(model.embedding.weight, before - before.mean(1, keepdim=True))
    for name in ("head.weight", "head.bias"):
        assert groups[name]["relative"]
    assert groups["head.weight"]["radius"] is None
    assert groups["lstm.weight_hh_l0"]["radius"] == "unit"

    model = Recurrent(nn.LayerNorm(8))
    groups = groups_by_name(for_model(model, batch=TOKENS, fresh=True))
    torch.testing.assert_close(model.embedding.weight.norm(dim=1), torch.ones(12))
    assert (groups["head.weight"]["radius"], groups["head.weight"]["relative"]) == ("unit", False)


def test_a_batch_that_passes_no_layer_is_said() -> None:
    class Hidden(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() @ self.weight.detach().numpy().T)

    text = repr(for_model(Hidden(8, 3), batch=ROWS, fresh=True, head=[]))
    assert "no layer could be followed" in text
    assert "initial weights: projected" in text


def test_without_a_batch_weights_are_projected_alone() -> None:
    torch.manual_seed(0)
    model = mlp()
    bias = model[0].bias.detach().clone()
    optimizer = for_model(model, fresh=True)
    assert torch.equal(bias, model[0].bias)
    assert balanced(model[2].weight)
    assert "initial weights: projected" in repr(optimizer)


def test_state_is_one_number_a_neuron_without_momentum() -> None:
    for momentum, most in ((0.0, 3), (0.9, 3 + 64 * 64)):
        model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
        optimizer = for_model(model, fresh=False, momentum=momentum)
        numbers = {sum(t.numel() for t in s.values()) for s in optimizer.state.values()}
        radius = 64
        assert numbers == {64 + radius + most - 1}


def test_unknown_owners_are_named_in_one_warning() -> None:
    with pytest.warns(UserWarning, match="owner") as caught:
        for_model(Patches(), batch=PICTURES, fresh=False)
    texts = [str(w.message) for w in caught if "owner" in str(w.message)]
    assert len(texts) == 1
    assert "positions (1, 4, 8)" in texts[0]
    assert "scales (8, 1, 1)" in texts[0]
    assert caught[0].filename == __file__


def test_options_and_overrides_pass_through() -> None:
    optimizer = for_model(
        mlp(),
        batch=ROWS,
        fresh=True,
        beta=0.99,
        nonfinite="raise",
        orthogonal=False,
        radius=2.0,
        overrides={"*.bias": {"lr": 0.5, "momentum": 0.5}, "2.weight": {"radius": None}},
    )
    groups = groups_by_name(optimizer)
    assert {group["beta"] for group in groups.values()} == {0.99}
    assert {group["nonfinite"] for group in groups.values()} == {"raise"}
    assert not groups["0.weight"]["orthogonal"]
    assert groups["0.weight"]["radius"] == 2.0
    assert groups["2.weight"]["radius"] is None
    assert groups["4.weight"]["radius"] is None  # a head is no hidden weight
    assert groups["4.weight"]["relative"]
    assert (groups["0.bias"]["lr"], groups["0.bias"]["momentum"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fresh": None}, TypeError, "fresh must be True"),
        ({"fresh": True, "lr": 0.1}, TypeError, "for_model decides lr for each layer: give turn"),
        ({"fresh": True, "blocks": 3}, TypeError, "decides blocks"),
        ({"fresh": True, "neuron_axes": (1,)}, TypeError, "decides neuron_axes"),
        ({"fresh": True, "turn": "0.1"}, TypeError, "turn must be"),
        ({"fresh": True, "turn": -0.1}, ValueError, "at least 0"),
        ({"fresh": True, "momentum": 1.0}, ValueError, "momentum must be"),
        ({"fresh": True, "beta": 2.0}, ValueError, "beta must be"),
        ({"fresh": True, "colour": "red"}, TypeError, "colour"),
        ({"fresh": False, "center": True}, ValueError, "fresh=False keeps every bit"),
        ({"fresh": False, "radius": "unit"}, ValueError, "fresh=False keeps every bit"),
        ({"fresh": True, "overrides": {"0.weight": {"blocks": 5}}}, ValueError, "blocks=5"),
        ({"fresh": True, "overrides": {"0.weight": {"beta": 2.0}}}, ValueError, "beta must be"),
        ({"fresh": True, "overrides": {"nothing": {}}}, ValueError, "matches no parameter"),
        ({"fresh": True, "weight_decay": 0.1}, ValueError, "weight_decay"),
    ],
)
def test_conflicts_raise_before_anything_changes(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        for_model(model, batch=ROWS, **options)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_fresh_has_no_default() -> None:
    with pytest.raises(TypeError, match="fresh"):
        for_model(mlp())  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel]
)
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    bare = for_model(mlp(LONG + 1), batch=ROWS, fresh=True)
    wrapped = for_model(wrap(mlp(LONG + 1)), batch=ROWS, fresh=True)

    def decided(optimizer: Nero) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in group.items() if k not in ("params", "param_names")}
            for group in optimizer.param_groups
        ]

    assert decided(bare) == decided(wrapped)


def test_the_meta_device() -> None:
    with torch.device("meta"):
        model, x = mlp(12), torch.randn(4, 8)
    optimizer = for_model(model, batch=x, fresh=True)
    assert optimizer.param_groups[0]["lr"] == TURN * rate_factor(12)
    assert "on the meta device" in repr(optimizer)


def test_state_dict_round_trip_and_copies() -> None:
    torch.manual_seed(0)
    model = mlp()
    optimizer = for_model(model, batch=ROWS, fresh=True)
    step(model, optimizer)
    other = copy.deepcopy(model)
    again = for_model(other, batch=ROWS, fresh=True)
    other.load_state_dict(model.state_dict())
    torch.save(optimizer.state_dict(), buffer := io.BytesIO())
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    step(model, optimizer)
    step(other, again)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert repr(pickle.loads(pickle.dumps(optimizer))) in repr(optimizer)


def step(model: nn.Module, optimizer: Nero) -> None:
    optimizer.zero_grad()
    model(ROWS).square().sum().backward()
    optimizer.step()


def test_schedulers_scale_every_group() -> None:
    optimizer = for_model(mlp(60), batch=ROWS, fresh=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [lr / 2 for lr in before]


def test_the_repr_is_a_table_of_the_groups() -> None:
    optimizer = for_model(gpt2(), batch={"input_ids": TOKENS}, fresh=False)
    text = repr(optimizer)
    line = next(line for line in text.splitlines() if "c_attn.weight" in line)
    assert "transformer.h.*.attn.c_attn.weight (2)" in line
    assert "24 x 8 (2)" in line
    assert "orthogonal directions, 3 blocks" in line
    assert "own norm" in line
    assert "kept to the bit" in text
    assert "head: none" not in text


def test_steps_are_those_of_an_oracle_in_float64() -> None:
    """What the roles mean, from default weights on, by equations that share no code."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 7)
    ).double()
    x, y = torch.randn(9, 4).double(), torch.randn(9, 7).double()
    common = {"beta": 0.999, "max_turn": 0.5}
    matrix = {"radius": "unit", "momentum": 0.9, **common}
    entry = {"center": True, "radius": "unit", "momentum": 0.0, **common}

    def rows(p: Tensor) -> list[list[int]]:
        return torch.arange(p.numel()).view(len(p), -1).tolist()

    parts: dict[str, Any] = {}
    for name, p in model.named_parameters():
        w = p.detach().clone()
        if name in ("0.weight", "2.weight"):
            # The first layer, on the batch itself, is not centred.
            parts[name] = OrthogonalOracle(w, [rows(w)], center=name != "0.weight", **matrix)
        elif name == "4.weight":
            w -= w.mean(1, keepdim=True)
            w /= w.norm(dim=1, keepdim=True)
            sized = {"radius": None, "relative": True, "momentum": 0.9, **common}
            parts[name] = OracleTensor(w, rows(w), center=True, **sized)
        else:
            parts[name] = OracleTensor(w, rows(w), relative=name == "4.bias", **entry)
    optimizer = for_model(model, batch=x, fresh=True)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        for name, p in model.named_parameters():
            parts[name].step(p.grad, TURN)
        optimizer.step()
    for name, p in model.named_parameters():
        assert (p - parts[name].weights().view_as(p)).abs().max() < 1e-10, name
