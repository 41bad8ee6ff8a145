"""From models to groups: roles, presets, ties, wrappers, errors, and safety on trained weights."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.spectral_norm import spectral_norm
from torch.nn.utils.weight_norm import weight_norm

from helpers import balanced, bits
from nero import Nero, NeuronLayout, geometry
from nero.model.assignment import OPTIONS
from nero.model.param_groups import BALANCED, EMBEDDING, FREE, HEAD, KEPT, balance_, param_groups
from nero.model.registry.lookup import register


def placed(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Group by parameter name; each name once."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        for name, _ in group["params"]:
            assert name not in found, f"{name} is in two groups"
            found[name] = group
    return found


def roles(model: nn.Module, **arguments: Any) -> dict[str, str]:
    return {name: g["role"] for name, g in placed(param_groups(model, **arguments)).items()}


def constraint(group: dict[str, Any]) -> dict[str, Any]:
    return {"center": group["center"], "radius": group["radius"]}


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, groups=2)
        )
        self.classifier = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 8, num_layers=2, proj_size=6, batch_first=True)
        self.decoder = nn.Linear(6, 12)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Any]:
        y, state = self.lstm(self.embedding(tokens))
        return self.decoder(y), state


class Transforming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.Linear(8, 12, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        y = self.encoder(self.embedding(tokens))
        return {"hidden": y, "logits": self.decoder(y)}


TOKENS = torch.arange(1, 11).view(2, 5)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "convolutional with BatchNorm": (
        Convolutional,
        torch.linspace(-1, 1, 2 * 3 * 36).view(2, 3, 6, 6),
    ),
    "LSTM": (Recurrent, TOKENS),
    "transformer, tied": (Transforming, TOKENS),
}
every_model = pytest.mark.parametrize(("build", "batch"), MODELS.values(), ids=MODELS)


@every_model
@pytest.mark.parametrize("preset", ["balanced", "paper", "finetune"])
def test_every_trainable_parameter_is_in_one_group(
    build: Callable[[], nn.Module], batch: Tensor, preset: str
) -> None:
    model = build()
    groups = param_groups(model, preset=preset)
    assert placed(groups).keys() == dict(model.named_parameters()).keys()
    for group in groups:
        assert set(group) == {"params", "role", "neuron_axes", "center", "radius"}
        for name, p in group["params"]:
            assert p is model.get_parameter(name)


# ---------------------------------------------------------------- roles


def test_no_layer_is_a_head_by_its_name_or_place() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 4), "lm_head": nn.Linear(4, 4)})
    assert set(roles(model).values()) == {"weight", "bias"}


@pytest.mark.parametrize("head", ["classifier", ["classifier"], "classifier.weight"])
def test_a_head_by_name(head: Any) -> None:
    found = roles(Convolutional(), head=head)
    assert [name for name, role in found.items() if role == "head"] == ["classifier.weight"]
    assert found["classifier.bias"] == "bias"


def test_a_head_by_module_or_parameter() -> None:
    model = Convolutional()
    for head in (model.classifier, model.classifier.weight, [model.classifier]):
        assert roles(model, head=head)["classifier.weight"] == "head"


@pytest.mark.parametrize(
    ("build", "batch", "expected"),
    [
        (Convolutional, MODELS["convolutional with BatchNorm"][1], ["classifier.weight"]),
        (Recurrent, TOKENS, ["decoder.weight"]),
        (Transforming, {"tokens": TOKENS}, []),  # tied: an embedding
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)),
            (torch.ones(1, 3),),
            ["1.weight"],
        ),
        (
            lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten()),
            torch.ones(1, 3, 1),
            ["0.weight"],
        ),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.Dropout(0.5)),
            torch.ones(1, 3),
            ["0.weight"],
        ),
    ],
)
def test_a_batch_finds_the_head(build: Any, batch: Any, expected: list[str]) -> None:
    found = roles(build(), batch=batch)
    assert [name for name, role in found.items() if role == "head"] == expected


@pytest.mark.parametrize(
    "last",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.LogSoftmax(-1), nn.LayerNorm(2), nn.LSTM(2, 2)],
    ids=repr,
)
def test_a_layer_that_something_follows_is_no_head(last: nn.Module) -> None:
    with pytest.raises(ValueError, match="name the head with head="):
        param_groups(nn.Sequential(nn.Linear(3, 2), last), batch=torch.ones(1, 3))


def test_memory_is_compared_and_not_addresses() -> None:
    """A view may start further in, and on the meta device everything is at address 0."""

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, -1]

    model = nn.Sequential(nn.Linear(3, 2), Last())
    assert roles(model, batch=torch.ones(1, 4, 3))["0.weight"] == "head"
    with torch.device("meta"), pytest.raises(ValueError, match="name the head"):
        param_groups(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), batch=torch.ones(1, 3))


def test_attention_alone_is_no_head() -> None:
    """Its own weight makes q, k and v, and not the output."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    with pytest.raises(ValueError, match="name the head"):
        param_groups(Attending(), batch=torch.ones(2, 1, 4))


def test_a_layer_with_parts_is_no_head() -> None:
    """Its parts may come after its weight."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 2))
            self.activation = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.activation(x @ self.kernel)

    register(Dense, "kernel", neuron_axes=(1,))
    with pytest.raises(ValueError, match="name the head"):
        param_groups(Dense(), batch=torch.ones(1, 3))


@every_model
def test_tracing_a_batch_changes_nothing(build: Callable[[], nn.Module], batch: Tensor) -> None:
    model = build()
    model.get_submodule(next(iter(dict(model.named_children())))).eval()
    modes = [module.training for module in model.modules()]
    before, random = bits(model.state_dict()), torch.get_rng_state()
    param_groups(model, batch=batch)
    assert bits(model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_tracing_a_model_that_draws_random_numbers() -> None:
    class Sampling(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    model = Sampling(nn.Linear(3, 2))
    random = torch.get_rng_state()
    assert roles(model, batch=torch.ones(1, 3))["0.weight"] == "head"
    assert torch.equal(torch.get_rng_state(), random)


def test_a_failing_batch_leaves_the_model_as_it_was() -> None:
    model = Convolutional()
    with pytest.raises(RuntimeError):
        param_groups(model, batch=torch.ones(1, 2))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_declared_head() -> None:
    class Declaring(Recurrent):
        def get_output_embeddings(self) -> nn.Module:
            return self.decoder

    assert roles(Declaring())["decoder.weight"] == "head"
    assert roles(Declaring(), head="lstm")["decoder.weight"] == "weight", "the caller's word wins"


def test_embeddings_besides_those_that_are() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.randn(1, 7, 6))
            self.project = nn.Linear(6, 6)

    model = Patches()
    with pytest.raises(ValueError, match="'position'"):
        param_groups(model)
    for embedding in ("position", model.position, ["position"]):
        group = placed(param_groups(model, embedding=embedding))["position"]
        assert (group["role"], group["neuron_axes"]) == ("embedding", (0, 1))
    found = roles(model, embedding=["position", "project"])
    assert found == {"position": "embedding", "project.weight": "embedding", "project.bias": "bias"}


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("preset", "weight", "embedding", "head"),
    [
        ("paper", BALANCED, BALANCED, BALANCED),
        ("balanced", BALANCED, BALANCED, BALANCED),  # as measured: docs/evidence/log.md
        ("finetune", KEPT, KEPT, KEPT),
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


# ---------------------------------------------------------------- overrides


def test_overrides() -> None:
    groups = placed(
        param_groups(
            Recurrent(),
            overrides={
                "lstm.*": {"lr": 0.5, "momentum": 0.9},
                "lstm.weight_*": {"lr": 0.1, "radius": 2.0},
                "decoder.weight": {"role": "head"},
                "embedding.*": {"role": "weight", "neuron_axes": [1]},
            },
        )
    )
    assert {"lr": 0.5, "momentum": 0.9}.items() <= groups["lstm.bias_ih_l0"].items()
    weight = groups["lstm.weight_hh_l1"]
    assert (weight["lr"], weight["momentum"], weight["radius"], weight["center"]) == (
        *(0.1, 0.9, 2.0),
        True,
    )
    assert constraint(groups["decoder.weight"]) == HEAD
    assert groups["embedding.weight"]["neuron_axes"] == (1,)
    assert constraint(groups["embedding.weight"]) == BALANCED
    assert "lr" not in groups["decoder.bias"]
    optimizer = Nero(list({id(g): g for g in groups.values()}.values()))
    optimizer.load_state_dict(optimizer.state_dict())


def test_overrides_reach_tied_names_and_unknown_owners() -> None:
    group = placed(param_groups(Transforming(), overrides={"decoder.*": {"lr": 0.5}}))
    assert group["embedding.weight"]["lr"] == 0.5

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 4))

    groups = param_groups(Odd(), overrides={"kernel": {"neuron_axes": (1,)}})
    assert groups[0]["neuron_axes"] == (1,)
    assert param_groups(Odd(), overrides={"kernel": {"role": "gain"}})[0]["neuron_axes"] == (0, 1)


def test_the_options_of_an_override_are_those_of_nero() -> None:
    arguments = set(inspect.signature(Nero).parameters) - {"params", "weight_decay"}
    assert set(OPTIONS) == arguments | {"role"}


# ---------------------------------------------------------------- errors


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 4))
        self.many = nn.ParameterList([torch.randn(2, 2)])
        self.scale = nn.Parameter(torch.ones(4))
        self.bias = nn.Parameter(torch.zeros(()))


def test_an_unknown_owner_is_named_with_the_line_to_write() -> None:
    with pytest.raises(ValueError, match="not known") as caught:
        param_groups(nn.Sequential(Unknown()))
    message = str(caught.value)
    called = f"{Unknown.__module__}.{Unknown.__qualname__}"
    assert "'0.table' of shape (3, 4)" in message
    assert f'nero.register("{called}", "table", neuron_axes=(0,), role="weight")' in message


def test_parameters_in_lists_belong_to_the_module_that_holds_them() -> None:
    model = nn.Sequential(Unknown())
    with pytest.raises(ValueError, match=r'Unknown", "many\.0"'):
        param_groups(model, embedding="0.table")
    found = roles(
        model, embedding="0.table", overrides={"*.many.*": {"role": "weight", "neuron_axes": (0,)}}
    )
    assert found == {
        "0.table": "embedding",
        "0.scale": "gain",
        "0.bias": "bias",
        "0.many.0": "weight",
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "adam"}, ValueError, "preset must be one of"),
        ({"head": "clasifier"}, ValueError, "did you mean 'classifier"),
        ({"head": nn.Linear(2, 2)}, ValueError, "not part of the model"),
        ({"head": nn.Parameter(torch.ones(2, 2))}, ValueError, "not part of the model"),
        ({"head": [3]}, TypeError, "modules, parameters or their names"),
        ({"head": "features.1"}, ValueError, "no parameter with two or more axes"),
        ({"head": "classifier", "batch": 1}, ValueError, "give one of them"),
        ({"embedding": "token"}, ValueError, "embedding='token'"),
        ({"overrides": {"clasifier.*": {}}}, ValueError, r"'clasifier\.\*' matches no parameter"),
        ({"overrides": {"*": {"centre": True}}}, ValueError, "did you mean 'center'"),
        ({"overrides": {"*": {"role": "heads"}}}, ValueError, "role must be one of"),
        (
            {"overrides": {"*": {"neuron_axes": (3,)}}},
            ValueError,
            "parameter 'features.1.weight'|parameter 'classifier.weight'",
        ),
    ],
)
def test_errors(arguments: Any, error: type[Exception], message: str) -> None:
    model = Convolutional()
    before = bits(model.state_dict())
    with pytest.raises(error, match=message):
        param_groups(model, **arguments)
    with pytest.raises(error, match=message):
        balance_(model, **arguments)
    assert bits(model.state_dict()) == before
