"""Which layer is a head: by the caller's word, by one batch, or as the model declares it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bits
from model_cases import MODELS, TOKENS, Convolutional, Recurrent, Transforming, every_model, roles
from nero.model.param_groups import param_groups
from nero.model.registry.lookup import register


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
