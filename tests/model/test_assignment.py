"""What each parameter is: by its owners, by overrides, and by what is said of unknown owners."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import nero
from helpers import bits
from model_cases import Convolutional, Recurrent, Transforming, constraint, placed, roles
from nero import Nero, describe
from nero.model.assignment import OPTIONS
from nero.model.param_groups import BALANCED, HEAD, balance_, param_groups
from nero.model.registry import lookup


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 4))
        self.many = nn.ParameterList([torch.randn(2, 2)])
        self.scale = nn.Parameter(torch.ones(4))
        self.bias = nn.Parameter(torch.zeros(()))


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
    rest = {"many*": {"role": "gain"}}
    for options, axes in (({"neuron_axes": (1,)}, (1,)), ({"role": "gain"}, (0, 1))):
        found = placed(param_groups(Unknown(), overrides={"table": options, **rest}))
        assert found["table"]["neuron_axes"] == axes


def test_the_options_of_an_override_are_those_of_nero() -> None:
    arguments = set(inspect.signature(Nero).parameters) - {"params", "weight_decay"}
    assert set(OPTIONS) == arguments | {"role"}


def test_embeddings_besides_those_that_are() -> None:
    model = nn.ModuleDict({"project": nn.Linear(6, 6), "unknown": Unknown()})
    table = model["unknown"].table
    overrides = {"unknown.many*": {"role": "gain"}}
    for embedding in ("unknown.table", table, ["unknown.table", "project"]):
        found = roles(model, embedding=embedding, overrides=overrides)
        assert found["unknown.table"] == "embedding"
        is_one = isinstance(embedding, list)
        assert found["project.weight"] == ("embedding" if is_one else "weight")
        assert found["project.bias"] == "bias"


# ---------------------------------------------------------------- errors


class Tokens(nn.Module):
    """What a hand-written vision transformer has."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 8))
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        self.mix = nn.Parameter(torch.randn(3, 8))
        self.project = nn.Linear(8, 8)


TOKENS = ("cls_token", "pos_embed", "gamma", "mix")


@pytest.fixture
def _no_registrations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lookup, "_user_rows", [])
    lookup._rows.cache_clear()
    yield
    lookup._rows.cache_clear()


@pytest.mark.usefixtures("_no_registrations")
def test_unknown_owners_are_listed_at_once_with_lines_that_work() -> None:
    model = nn.Sequential(Tokens(), Tokens())
    with pytest.raises(ValueError, match="the neurons of 8 parameters are not known") as caught:
        param_groups(model)
    message = str(caught.value)
    assert all(f"'{i}.{name}' of shape" in message for i in (0, 1) for name in TOKENS)
    lines = [line.strip() for line in message.splitlines() if line.startswith("    nero.register(")]
    assert len(lines) == len(TOKENS), "one line for each, however often its module is there"
    for line in lines:
        eval(line, {"nero": nero})
    found = placed(param_groups(model))
    assert {
        name: (found[f"0.{name}"]["role"], found[f"0.{name}"]["neuron_axes"]) for name in TOKENS
    } == {
        "cls_token": ("embedding", (0, 1)),
        "pos_embed": ("embedding", (0, 1)),
        "gamma": ("gain", (0, 1, 2)),
        "mix": ("weight", (0,)),
    }


@pytest.mark.parametrize(
    ("unknown", "role", "axes"),
    [
        ("vectors", "embedding", {2: (0,), 3: (0, 1)}),
        ("entries", "gain", {2: (0, 1), 3: (0, 1, 2)}),
    ],
)
def test_what_unknown_owners_are_is_said_for_all_of_them(
    unknown: str, role: str, axes: Any
) -> None:
    model = Tokens()
    found = placed(param_groups(model, unknown=unknown, overrides={"mix": {"role": "weight"}}))
    for name in TOKENS[:3]:
        group = found[name]
        assert (group["role"], group["neuron_axes"]) == (role, axes[3])
    assert (found["mix"]["role"], found["mix"]["neuron_axes"]) == ("weight", axes[2])
    assert found["project.weight"]["role"] == "weight"
    rows = {row.name: row.role for row in describe(model, unknown=unknown).rows}
    assert rows["pos_embed"] == role
    with pytest.raises(ValueError, match="unknown must be one of"):
        param_groups(model, unknown="rows")


def test_parameters_in_lists_belong_to_the_module_that_holds_them() -> None:
    model = nn.Sequential(Unknown())
    with pytest.raises(ValueError, match=r'of 1 parameters.*\n.*Unknown", "many\.0"'):
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
