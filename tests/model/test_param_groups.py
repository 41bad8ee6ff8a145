"""From models to groups: presets, ties, wrappers, parametrisations, safety on trained weights."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.spectral_norm import spectral_norm
from torch.nn.utils.weight_norm import weight_norm

from helpers import balanced, bits
from model_cases import (
    MODELS,
    TOKENS,
    Convolutional,
    Recurrent,
    Transforming,
    constraint,
    every_model,
    placed,
    roles,
)
from nero import Nero, NeuronLayout, geometry
from nero.model.param_groups import BALANCED, EMBEDDING, FREE, KEPT, balance_, param_groups


@every_model
@pytest.mark.parametrize("preset", ["balanced", "paper", "finetune"])
def test_every_trainable_parameter_is_in_one_group(
    build: Callable[[], nn.Module], batch: Tensor, preset: str
) -> None:
    model = build()
    groups = param_groups(model, preset=preset)
    assert placed(groups).keys() == dict(model.named_parameters()).keys()
    for group in groups:
        assert set(group) - {"blocks"} == {
            *("params", "preset", "role", "neuron_axes", "center", "radius")
        }
        for name, p in group["params"]:
            assert p is model.get_parameter(name)


def test_plain_tensors_on_request() -> None:
    model = Convolutional()
    groups = param_groups(model, names=False)
    plain = [p for group in groups for p in group["params"]]
    assert {id(p) for p in plain} == {id(p) for p in model.parameters()}
    assert len(plain) == len(list(model.parameters()))
    named = param_groups(model)
    assert [{**group, "params": []} for group in groups] == [{**g, "params": []} for g in named]


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("preset", "weight", "embedding", "head"),
    [
        ("paper", BALANCED, BALANCED, BALANCED),
        ("balanced", BALANCED, BALANCED, BALANCED),  # as measured: docs/evidence/log.md
        ("finetune", KEPT, KEPT, FREE),
    ],
)
def test_presets(preset: str, weight: Any, embedding: Any, head: Any) -> None:
    groups = placed(param_groups(Recurrent(), preset=preset, head="decoder"))
    assert constraint(groups["lstm.weight_hr_l0"]) == weight
    assert constraint(groups["embedding.weight"]) == embedding
    assert constraint(groups["decoder.weight"]) == head
    assert constraint(groups["lstm.bias_ih_l0"]) == FREE


def test_the_paper_preset_balances_what_it_says() -> None:
    model = Convolutional()
    optimizer = Nero(param_groups(model, preset="paper"))
    assert balanced(model.get_parameter("features.0.weight"))
    assert balanced(model.get_parameter("features.3.weight"), ((0, 2), 1))
    assert balanced(model.classifier.weight)
    assert torch.equal(model.get_parameter("features.1.weight"), torch.ones(8))
    assert [group["role"] for group in optimizer.param_groups] == [
        "weight",
        "bias",
        "gain",
        "weight",
    ]


@every_model
def test_finetune_leaves_the_outputs_bit_identical(
    build: Callable[[], nn.Module], batch: Tensor
) -> None:
    model = build()
    nn.init.constant_(next(iter(model.parameters()))[0], 0.3)  # a constant neuron, too
    for train in (True, False):
        model.train(train)
        before, weights = bits(outputs(model, batch)), bits(model.state_dict())
        Nero(param_groups(model, preset="finetune"))
        assert bits(model.state_dict()) == weights
        assert bits(outputs(model, batch)) == before


def outputs(model: nn.Module, batch: Tensor) -> Any:
    """The model's outputs, with dropout alike and BatchNorm's statistics left alone."""
    torch.manual_seed(2)
    with torch.no_grad():
        return copy.deepcopy(model)(batch)


@every_model
def test_finetune_keeps_each_neurons_norm(build: Callable[[], nn.Module], batch: Tensor) -> None:
    model = build()
    optimizer = Nero(param_groups(model, preset="finetune"))
    weights = [
        (p, NeuronLayout(tuple(p.shape), group["neuron_axes"]))
        for group in optimizer.param_groups
        if group["role"] in ("weight", "embedding", "head")
        for p in group["params"]
    ]
    norms = [geometry.neuron_norm(p, layout) for p, layout in weights]
    start = [p.detach().clone() for p, _ in weights]
    for _ in range(100):
        optimizer.zero_grad()
        y = model(batch)
        y = y["logits"] if isinstance(y, dict) else y[0] if isinstance(y, tuple) else y
        (y - torch.randn_like(y)).square().mean().backward()
        optimizer.step()
    for (p, layout), norm, before in zip(weights, norms, start, strict=True):
        assert not torch.equal(p, before), "it has not been trained"
        torch.testing.assert_close(geometry.neuron_norm(p, layout), norm, rtol=1e-5, atol=0)


def test_balance_does_what_building_the_optimiser_does() -> None:
    for preset in ("paper", "balanced", "finetune"):
        model = Recurrent()
        other = copy.deepcopy(model)
        assert balance_(model, preset=preset, head="decoder") is model
        Nero(param_groups(other, preset=preset, head="decoder"))
        assert bits(model.state_dict()) == bits(other.state_dict())
    model = balance_(Recurrent())
    assert balanced(model.get_parameter("decoder.weight")), "paper by default"


# ---------------------------------------------------------------- padding


def test_a_zero_padding_row_stays_zero() -> None:
    model = Recurrent()
    Nero(param_groups(model, preset="paper"))
    assert not model.embedding.weight[0].any()
    assert balanced(model.embedding.weight[1:])


@pytest.mark.parametrize("build", [nn.Embedding, nn.EmbeddingBag])
def test_a_padding_row_that_holds_something_is_untouched(build: Any) -> None:
    model = build(5, 4, padding_idx=-1)
    nn.init.normal_(model.weight)
    before = model.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"padding row that is not zero.*: weight") as caught:
        groups = param_groups(model, preset="paper")
    assert caught[0].filename == __file__
    optimizer = Nero(groups)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.tensor([[0, 1, 4], [2, 3, 4]])).square().sum().backward()
        optimizer.step()
    assert torch.equal(model.weight[4], before[4])
    assert not torch.equal(model.weight[:4], before[:4])
    with pytest.warns(UserWarning, match="padding row"):
        balance_(model)
    assert torch.equal(model.weight[4], before[4])


def test_an_override_decides_about_padding() -> None:
    model = nn.Embedding.from_pretrained(torch.randn(5, 4), freeze=False, padding_idx=0)
    overrides = {"weight": {"radius": "unit"}}
    group = param_groups(model, preset="paper", overrides=overrides)[0]
    assert constraint(group) == {"center": True, "radius": "unit"}


def test_an_embedding_that_shortens_its_rows_is_named() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(5, 4, max_norm=0.5), "other": nn.Embedding(5, 4)})
    for preset in ("balanced", "finetune"):
        with pytest.warns(UserWarning, match=r"max_norm: .*: table\.weight$"):
            param_groups(model, preset=preset)
    free = {"table.*": {"radius": None, "center": False}}
    assert constraint(placed(param_groups(model, overrides=free))["table.weight"]) == FREE


# ---------------------------------------------------------------- ties, sharing, freezing


def test_tied_weights_are_one_embedding() -> None:
    model = Transforming()
    for arguments in ({}, {"head": "decoder"}, {"batch": TOKENS}):
        group = placed(param_groups(model, **arguments))["embedding.weight"]
        assert (group["role"], constraint(group)) == ("embedding", EMBEDDING)


def test_shared_modules_count_once() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(placed(param_groups(model))) == ["0.weight", "0.bias"]
    assert roles(model, head="2")["0.weight"] == "head"


def test_frozen_parameters_are_left_out() -> None:
    model = Convolutional()
    model.features.requires_grad_(False)
    assert list(placed(param_groups(model))) == ["classifier.weight", "classifier.bias"]
    before = bits(model.features.state_dict())
    balance_(model)
    assert bits(model.features.state_dict()) == before

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(3, 4), requires_grad=False)

    assert param_groups(Odd()) == []


def test_owners_that_disagree() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.forward_ = nn.Conv2d(4, 4, 1, bias=False)
            self.back = nn.ConvTranspose2d(4, 4, 1, bias=False)
            self.back.weight = self.forward_.weight

    message = r"'forward_.weight' \(Conv2d\).*'back.weight' \(ConvTranspose2d\)"
    with pytest.raises(ValueError, match=message):
        param_groups(Tied())
    groups = param_groups(Tied(), overrides={"back.weight": {"neuron_axes": (1,)}})
    assert [group["neuron_axes"] for group in groups] == [(1,)]


# ---------------------------------------------------------------- wrappers


def test_compiled_models() -> None:
    def backend(*_args: Any) -> Any:
        raise AssertionError("looking at a model should not compile it")

    model = torch.compile(Convolutional(), backend=backend)
    assert isinstance(model, nn.Module)
    batch = MODELS["convolutional with BatchNorm"][1]
    for arguments in ({"batch": batch}, {"head": "classifier"}):
        found = roles(model, **arguments)
        assert found["_orig_mod.classifier.weight"] == "head"
        assert found.keys() == dict(model.named_parameters()).keys()


@pytest.fixture
def _process_group(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_process_group")
def test_distributed_models() -> None:
    model = nn.parallel.DistributedDataParallel(Convolutional())
    batch = MODELS["convolutional with BatchNorm"][1]
    for arguments in ({"batch": batch}, {"head": "classifier"}, {"head": "module.classifier"}):
        found = roles(model, **arguments)
        assert found["module.classifier.weight"] == "head"
        assert found.keys() == dict(model.named_parameters()).keys()


@pytest.mark.usefixtures("_process_group")
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_flattened_models_are_refused(use_orig_params: bool) -> None:
    model = FullyShardedDataParallel(
        Convolutional(), use_orig_params=use_orig_params, device_id=torch.device("cpu")
    )
    for build in (param_groups, balance_, lambda model: Nero(model.parameters())):
        with pytest.raises((ValueError, TypeError), match="fully_shard"):
            build(model)


def test_meta_models() -> None:
    with torch.device("meta"):
        model = Recurrent()
        found = roles(model, preset="paper", batch=torch.ones(2, 5, dtype=torch.long))
    assert found["decoder.weight"] == "head"
    assert found == roles(Recurrent(), head="decoder")
    assert balance_(model) is model


# ---------------------------------------------------------------- parametrisations


@pytest.mark.parametrize(
    ("parametrize", "names"),
    [
        (parametrizations.weight_norm, {"original0", "original1"}),
        (parametrizations.spectral_norm, {"original"}),
        (parametrizations.orthogonal, {"original"}),
        (weight_norm, {"weight_g", "weight_v"}),
        (spectral_norm, {"weight_orig"}),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), {"weight_orig"}),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "weight_g", "weight_orig", "pruned"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weights_behind_a_parametrisation_are_gains(parametrize: Any, names: set[str]) -> None:
    model = nn.Sequential(parametrize(nn.Linear(4, 3)), nn.Linear(3, 3))
    before = model(torch.ones(1, 4))
    with pytest.warns(UserWarning, match="behind a parametrisation") as caught:
        groups = param_groups(model, preset="paper")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    found = placed(groups)
    gains = {name for name, group in found.items() if group["role"] == "gain"}
    assert {name.rpartition(".")[2] for name in gains} == names
    assert all(name in str(caught[0].message) for name in gains)
    assert all(constraint(found[name]) == FREE for name in gains)
    assert all(len(found[name]["neuron_axes"]) == 2 for name in gains)
    assert found["0.bias"]["role"] == "bias"
    assert found["1.weight"]["role"] == "weight"
    model[1].requires_grad_(False)
    optimizer = Nero(groups[:1] if groups[0]["role"] == "gain" else groups)
    after = model[0](torch.ones(1, 4))
    assert after.shape == before.shape
    after.sum().backward()
    optimizer.step()
    assert torch.isfinite(model(torch.ones(1, 4))).all()


def test_weights_behind_spectral_norm_may_be_neurons(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)))
    name = "0.parametrizations.weight.original"
    groups = param_groups(
        model, overrides={name: {**BALANCED, "role": "weight", "neuron_axes": [0]}}
    )
    group = placed(groups)[name]
    assert (group["role"], group["neuron_axes"]) == ("weight", (0,))
    assert constraint(group) == BALANCED
    assert not recwarn.list  # the warning says that they are not
