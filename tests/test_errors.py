"""Wrong input: the message names what is wrong and what is allowed, and nothing has changed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from helpers import (
    bits,
    build,
    every_momentum,
    every_path,
    give_gradients,
    snapshot,
    train,
    weights_like,
)
from nero import Nero
from optimizer_table import PathRow


@dataclass(frozen=True)
class Row:
    """A setting that is refused, and what the message must say."""

    name: str
    options: dict[str, Any]
    error: type[Exception]
    says: tuple[str, ...]
    of_parameter: bool = False  # whether the message names the parameter that it does not suit


UNIT_INTERVAL = "[0, 1)"
RADIUS = ("radius", '"unit"', '"initial"', "positive float", "None")
SETTINGS = [
    Row("negative lr", {"lr": -0.5}, ValueError, ("lr", "at least 0", "-0.5")),
    Row("lr NaN", {"lr": torch.nan}, ValueError, ("lr", "at least 0", "nan")),
    Row("infinite lr", {"lr": torch.inf}, ValueError, ("lr", "finite", "inf")),
    Row("lr as text", {"lr": "0.1"}, TypeError, ("lr", "float", "0-d tensor", "'0.1'")),
    Row("lr None", {"lr": None}, TypeError, ("lr", "float", "0-d tensor", "None")),
    Row("lr True", {"lr": True}, TypeError, ("lr", "float", "0-d tensor", "True")),
    Row("lr complex", {"lr": 1j}, TypeError, ("lr", "float", "0-d tensor", "1j")),
    Row("negative tensor lr", {"lr": torch.tensor(-0.5)}, ValueError, ("lr", "at least 0", "-0.5")),
    Row("tensor lr NaN", {"lr": torch.tensor(torch.nan)}, ValueError, ("lr", "at least 0", "nan")),
    Row("infinite tensor lr", {"lr": torch.tensor(torch.inf)}, ValueError, ("lr", "finite", "inf")),
    Row(
        "tensor lr with axes",
        {"lr": torch.ones(2)},
        ValueError,
        ("lr", "one floating-point number", "(2,)"),
    ),
    Row("integer tensor lr", {"lr": torch.tensor(1)}, ValueError, ("lr", "floating", "int64")),
    *(
        Row(f"{name} {value!r}", {name: value}, error, (name, UNIT_INTERVAL, repr(value)))
        for name in ("beta", "momentum")
        for value, error in [
            (1.0, ValueError),
            (-0.1, ValueError),
            (torch.nan, ValueError),
            ("0.9", TypeError),
            (None, TypeError),
            (False, TypeError),
            ((0.9, 0.999), TypeError),
        ]
    ),
    *(
        Row(f"radius {value!r}", {"radius": value}, error, (*RADIUS, repr(value)))
        for value, error in [
            ("layer", ValueError),
            (0.0, ValueError),
            (-1, ValueError),
            (torch.inf, ValueError),
            (torch.nan, ValueError),
            (True, TypeError),
            ([1.0], TypeError),
        ]
    ),
    Row("axes not a sequence", {"neuron_axes": 0}, TypeError, ("neuron_axes", "sequence", "(0,)")),
    Row("axes as text", {"neuron_axes": "0"}, TypeError, ("neuron_axes", "sequence", "'0'")),
    *(
        Row(
            f"axes {entry!r}",
            {"neuron_axes": (entry,)},
            TypeError,
            ("neuron_axes", "(axis, blocks)", repr(entry)),
        )
        for entry in [0.5, None, (), (0, 1, 2), ("0", 1), True]
    ),
    Row("nonfinite", {"nonfinite": "warn"}, ValueError, ("nonfinite", "'skip'", "'raise'", "warn")),
    Row("nonfinite None", {"nonfinite": None}, ValueError, ("nonfinite", "'propagate'", "None")),
    Row("rounding", {"rounding": "up"}, ValueError, ("rounding", "'stochastic'", "'up'")),
    *(
        Row(f"seed {value!r}", {"seed": value}, error, ("seed", "[0, 2**32)", repr(value)))
        for value, error in [(-1, ValueError), (2**32, ValueError), (1.0, TypeError)]
    ),
    *(
        Row(f"{name} {value!r}", {name: value}, TypeError, (name, "True or False", repr(value)))
        for name in ("center", "maximize", "capturable")
        for value in (1, None, "yes")
    ),
    *(
        Row(f"{name} {value!r}", {name: value}, TypeError, (name, "True or False", repr(value)))
        for name in ("foreach", "fused")
        for value in (0, 1, "yes")
    ),
    Row("foreach and fused", {"foreach": True, "fused": True}, ValueError, ("foreach", "fused")),
]
SETTINGS += [
    Row(name, {"neuron_axes": axes}, ValueError, ("neuron_axes", *says), of_parameter=True)
    for name, axes, says in [
        ("axis out of range", (2,), ("axis 2", "-2 to 1")),
        ("axis below range", (-3,), ("axis -3", "-2 to 1")),
        ("axis twice", (0, -2), ("axis 0", "twice")),
        ("indivisible axis", ((1, 3),), ("axis 1", "3 blocks", "size 4")),
        ("no blocks", ((0, 0),), ("axis 0", "0 blocks", "size 3")),
    ]
]
every_setting = pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
FIRST, SHAPE = "parameter 'first'", "shape (3, 4)"


def named(*shapes: tuple[int, ...]) -> dict[str, Any]:
    """A group of named parameters."""
    names = ["first", "second", "third"]
    return {"params": list(zip(names, weights_like(*shapes), strict=False))}


def refuses(row: Row, action: Callable[[], Any], unchanged: Callable[[], Any]) -> None:
    """The action fails as the row says, and what `unchanged` reads is the same to the last bit."""
    before = unchanged()
    with pytest.raises(row.error) as caught:
        action()
    says = (*row.says, FIRST, SHAPE) if row.of_parameter else row.says
    message = str(caught.value)
    assert [word for word in says if word not in message] == []
    assert unchanged() == before


@every_setting
def test_a_refused_default_changes_no_weight(row: Row):
    group = named((3, 4), (4,))
    weights = [p for _, p in group["params"]]
    refuses(row, lambda: Nero([group], **row.options), lambda: bits(weights))


@every_setting
def test_a_refused_last_group_changes_no_weight_of_any_group(row: Row):
    good = {"params": [(f"good {i}", p) for i, p in enumerate(weights_like((5, 4), (4,)))]}
    groups = [good, {**named((3, 4), (4,)), **row.options}]
    weights = [p for group in groups for _, p in group["params"]]
    refuses(row, lambda: Nero(groups), lambda: bits(weights))


@every_setting
def test_a_refused_late_group_changes_neither_weights_nor_optimizer(row: Row):
    early = [(f"early {i}", p) for i, p in enumerate(weights_like((5, 4), (4,)))]
    optimizer = Nero(early, momentum=0.9)
    train(optimizer, range(2))
    late = named((3, 4), (4,))
    weights = [p for _, p in late["params"]]
    refuses(
        row,
        lambda: optimizer.add_param_group({**late, **row.options}),
        lambda: (snapshot(optimizer), len(optimizer.state), bits(weights)),
    )
    optimizer.add_param_group(named((3, 4)))
    train(optimizer, range(2, 4))


@every_setting
def test_a_refused_setting_in_a_loaded_file_changes_nothing(row: Row):
    groups = [{"params": [("early", *weights_like((5, 4)))]}, named((3, 4), (4,))]
    optimizer = Nero(groups, momentum=0.9)
    train(optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.5
    saved["state"][0]["rms"] += 1
    saved["param_groups"][1].update(row.options)
    refuses(row, lambda: optimizer.load_state_dict(saved), lambda: snapshot(optimizer))


PARAMETERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "complex": (nn.Parameter(torch.ones(3, 4) * 1j), ("torch.complex64", "real")),
    "sparse": (nn.Parameter(torch.eye(3, 4).to_sparse()), ("sparse", "dense")),
}


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(("tensor", "says"), PARAMETERS.values(), ids=PARAMETERS)
def test_a_refused_parameter_is_named_and_the_others_stay(
    tensor: Any, says: tuple[str, ...], is_named: bool
):
    weights = weights_like((5, 4), (3, 4))
    good, bad = [weights[0]], [weights[1], tensor]
    if is_named:
        good, bad = [("good", good[0])], [("fine", bad[0]), ("head.weight", bad[1])]
    before = bits(weights)
    with pytest.raises(TypeError) as caught:
        Nero([{"params": good}, {"params": bad}])
    called = "parameter 'head.weight'" if is_named else "parameter 1"
    message = str(caught.value)
    assert [word for word in (*says, called, SHAPE) if word not in message] == []
    assert bits(weights) == before


def test_what_torch_refuses_changes_no_weight_either():
    weights = weights_like((5, 4), (3, 4))
    before = bits(weights)
    with pytest.raises(ValueError, match="more than one parameter group"):
        Nero([{"params": weights}, {"params": weights[1:]}])
    with pytest.raises(ValueError, match="non-leaf"):
        Nero([weights[0], weights[1] * 2])
    with pytest.raises(ValueError, match="empty parameter list"):
        Nero([])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        Nero([weights[0], "weight"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'betas'"):
        Nero(weights, betas=(0.9, 0.999))  # type: ignore
    assert bits(weights) == before
    optimizer = Nero(weights[:1])
    before = bits(weights), snapshot(optimizer)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": weights[1:] + weights[:1]})
    assert (bits(weights), snapshot(optimizer)) == before


def lacking(*keys: str) -> Callable[[dict[str, Any]], None]:
    def damage(saved: dict[str, Any]) -> None:
        for key in keys:
            del saved["state"][1][key]

    return damage


def replacing(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def damage(saved: dict[str, Any]) -> None:
        saved["state"][1][key] = value

    return damage


def of_adam(saved: dict[str, Any]) -> None:
    (w,) = weights_like((3, 4))
    adam = torch.optim.Adam([w])
    train(adam, range(1))
    saved["state"][1] = adam.state_dict()["state"][0]


def other_axes_saved(saved: dict[str, Any]) -> None:
    saved["param_groups"][1]["neuron_axes"] = (1,)


# "first", of shape (3, 4), has index 1: its group is the last of two. Built with radius "initial".
DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "no rms": (lacking("rms"), ("lacks rms", "'scale'", "'step'")),
    "no step or scale": (lacking("step", "scale"), ("lacks step, scale", "'rms'")),
    "no radius": (lacking("radius"), ("lacks radius",)),
    "state of Adam": (of_adam, ("lacks rms, scale", "'exp_avg_sq'")),
    "rms of other axes": (replacing("rms", torch.ones(1, 4)), ("'rms'", "(1, 4)", "(3, 1)")),
    "axes of the group": (other_axes_saved, ("'rms'", "(3, 1)", "(1, 4)", "neuron_axes")),
    "rms of another size": (replacing("rms", torch.ones(2, 1)), ("'rms'", "(2, 1)", "(3, 1)")),
    "rms flat": (replacing("rms", torch.ones(3)), ("'rms'", "(3,)", "(3, 1)")),
    "rms None": (replacing("rms", None), ("'rms'", "None")),
    "step as text": (replacing("step", "3"), ("'step'", "'3'")),
    "radius of another size": (replacing("radius", torch.ones(2, 1)), ("'radius'", "(2, 1)")),
    "average of another shape": (replacing("exp_avg", torch.ones(4, 3)), ("'exp_avg'", "(4, 3)")),
    "scale per neuron": (replacing("scale", torch.ones(3, 1)), ("'scale'", "(3, 1)", "()")),
    "step with axes": (replacing("step", torch.ones(1)), ("'step'", "(1,)", "()")),
    "step before the first": (replacing("step", -5), ("'step'", "negative")),
    "step NaN": (replacing("step", torch.nan), ("'step'", "NaN")),
    "complex step": (replacing("step", 3 + 0j), ("'step'", "complex")),
    "rms NaN": (replacing("rms", torch.full((3, 1), torch.nan)), ("'rms'", "NaN")),
    "rms infinite": (replacing("rms", torch.full((3, 1), torch.inf)), ("'rms'", "infinity")),
    "rms negative": (replacing("rms", -torch.ones(3, 1)), ("'rms'", "negative")),
    "scale NaN": (replacing("scale", torch.nan), ("'scale'", "NaN")),
    "scale negative": (replacing("scale", -1.0), ("'scale'", "negative")),
    "radius NaN": (replacing("radius", torch.full((3, 1), torch.nan)), ("'radius'", "NaN")),
    "average NaN": (replacing("exp_avg", torch.full((3, 4), torch.nan)), ("'exp_avg'", "NaN")),
    "seed negative": (replacing("seed", -1), ("'seed'", "negative")),
    "seed too large": (replacing("seed", 2**32), ("'seed'", "[0, 2**32)")),
    "seed a fraction": (replacing("seed", 0.5), ("'seed'", "float")),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_refused_state_names_the_parameter_and_changes_nothing(
    damage: Callable[[dict[str, Any]], Any], says: tuple[str, ...]
):
    groups = [{"params": [("early", *weights_like((5, 4)))]}, named((3, 4), (4,))]
    optimizer = Nero(groups, momentum=0.9, radius="initial")
    train(optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.5
    saved["state"][0]["rms"] += 1
    damage(saved)
    before = snapshot(optimizer), bits(saved)
    with pytest.raises((ValueError, TypeError)) as caught:
        optimizer.load_state_dict(saved)
    message = str(caught.value)
    assert [word for word in (*says, FIRST, SHAPE) if word not in message] == []
    assert (snapshot(optimizer), bits(saved)) == before


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no dict": (lambda saved: [saved], "not a state dict, but a list"),
    "empty": (lambda saved: {}, "its 'param_groups' is missing"),
    "no state": (lambda saved: {"param_groups": saved["param_groups"]}, "its 'state' is missing"),
    "state a list": (lambda saved: {**saved, "state": []}, "its 'state' is a list"),
    "groups a dict": (lambda saved: {**saved, "param_groups": {}}, "its 'param_groups' is a dict"),
    "a group a list": (lambda saved: {**saved, "param_groups": [[0]]}, "its group 0 is no dict"),
    "no params": (lambda saved: {**saved, "param_groups": [{"lr": 1}]}, "its group 0 is no dict"),
    "a parameter twice": (
        lambda saved: {**saved, "param_groups": [{"params": [0, 0]}]},
        "a parameter is in it twice",
    ),
    "params no keys": (
        lambda saved: {**saved, "param_groups": [{"params": [[0], [1]]}]},
        "hold what cannot be a key",
    ),
    "a state a tensor": (
        lambda saved: {**saved, "state": {1: torch.ones(3)}},
        "the state of 1 is a Tensor",
    ),
    "axes no axes": (
        lambda saved: {**saved, "param_groups": [{**saved["param_groups"][0], "neuron_axes": 0}]},
        "neuron_axes must be a sequence",
    ),
}


@pytest.mark.parametrize(("damage", "says"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_state_dict_is_refused_by_what_is_wrong_with_it(
    damage: Callable[[dict[str, Any]], Any], says: str
):
    optimizer = Nero(weights_like((3, 4), (4,)))
    train(optimizer, range(2))
    before = snapshot(optimizer)
    with pytest.raises((ValueError, TypeError)) as caught:
        optimizer.load_state_dict(damage(optimizer.state_dict()))
    assert says in str(caught.value)
    assert snapshot(optimizer) == before


def test_a_parameter_whose_state_was_not_saved_starts_anew():
    optimizer = Nero(weights_like((3, 4), (4,)))
    train(optimizer, range(2))
    saved = optimizer.state_dict()
    del saved["state"][1]
    with pytest.warns(UserWarning, match=r"no state was saved of parameter 1 of shape \(4,\)") as w:
        optimizer.load_state_dict(saved)
    assert w[0].filename == __file__
    train(optimizer, range(1))
    assert [state["step"].item() for state in optimizer.state.values()] == [3, 1]


@pytest.mark.parametrize(
    "groups",
    [
        [{"params": weights_like((5, 4), (3, 4), (4,))}],
        [{"params": weights_like((5, 4))}, {"params": weights_like((3, 4))}],
    ],
    ids=["fewer groups", "fewer parameters"],
)
def test_a_state_of_other_groups_is_refused_with_both_sizes(groups: list[dict[str, Any]]):
    optimizer = Nero([{"params": weights_like((5, 4))}, {"params": weights_like((3, 4), (4,))}])
    other = Nero(groups)
    train(other, range(2))
    before = snapshot(optimizer)
    sizes = [len(group["params"]) for group in groups]
    with pytest.raises(ValueError, match="groups") as caught:
        optimizer.load_state_dict(other.state_dict())
    assert str(sizes) in str(caught.value)
    assert "[1, 2]" in str(caught.value)
    assert snapshot(optimizer) == before


@every_path
@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
@every_momentum
def test_a_nonfinite_gradient_under_raise_is_named_and_nothing_has_changed(
    path: PathRow, bad: float, momentum: float
):
    good = [(f"good {i}", p) for i, p in enumerate(weights_like((5, 4), (5, 4)))]
    groups = [{"params": good}, {**named((3, 4), (3, 4), (4,)), "nonfinite": "raise"}]
    optimizer = build(groups, path, momentum=momentum)
    train(optimizer, range(2))
    first, second, third = optimizer.param_groups[1]["params"]
    give_gradients([p for _, p in good] + [second, third], 5)
    first.grad = None
    second.grad[1, 2] = third.grad[0] = bad
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError) as caught:
        optimizer.step()
    said = ('nonfinite="raise"', "'second' of shape (3, 4)", "'third' of shape (4,)", '"skip"')
    assert [word for word in said if word not in str(caught.value)] == []
    assert "first" not in str(caught.value)
    assert snapshot(optimizer) == before
    train(optimizer, [6])
    assert snapshot(optimizer) != before


def test_a_failing_closure_changes_nothing():
    optimizer = Nero(weights_like((3, 4)))
    train(optimizer, range(2))
    before = snapshot(optimizer)

    def closure() -> None:
        raise ArithmeticError("loss diverged")

    with pytest.raises(ArithmeticError, match="loss diverged"):
        optimizer.step(closure)
    assert snapshot(optimizer) == before
