"""Saved state: what it holds, that it fits or is refused whole, that it keeps its precision."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nero

Saved = dict[str, Any]


def build(dtype: torch.dtype = torch.float32, **options: Any) -> nero.Nero:
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc.weight": (4, 6), "up.weight": (3, 4, 2, 2), "fc.bias": (4,), "gain": ()}
    named = [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))
        for name, shape in shapes.items()
    ]
    groups = [
        {"params": [named[0], *named[2:]]},
        {"params": [named[1]], "neuron_axes": (1,), "lr": 0.03},
    ]
    return nero.Nero(groups, **options)


def train(optimizer: nero.Nero, steps: range) -> list[Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for t in steps:
        generator = torch.Generator().manual_seed(t)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
    return parameters


def through_a_file(state_dict: Saved) -> Saved:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [{}, {"radius": "initial", "center": False}, {"radius": None, "momentum": 0.9}],
    ids=["paper", "initial", "free with momentum"],
)
def test_resuming_from_a_file_continues_bit_for_bit(
    dtype: torch.dtype, options: dict[str, Any]
) -> None:
    optimizer = build(dtype, **options)
    halfway = [p.detach().clone() for p in train(optimizer, range(5))]
    saved = through_a_file(optimizer.state_dict())
    expected = train(optimizer, range(5, 10))

    resumed = build(dtype, lr=0.5, **options)  # the file brings the right one
    for p, w in zip(train(resumed, range(1)), halfway, strict=True):
        p.data.copy_(w)
    resumed.load_state_dict(saved)
    for p, e in zip(train(resumed, range(5, 10)), expected, strict=True):
        assert torch.equal(p, e)


def test_state_is_what_the_documentation_says() -> None:
    optimizer = build(torch.bfloat16, radius="initial", momentum=0.9)
    weight, bias, gain = optimizer.param_groups[0]["params"]
    (up,) = optimizer.param_groups[1]["params"]
    shapes = {
        p: {k: (tuple(v.shape), v.dtype) for k, v in optimizer.state[p].items()}
        for p in (weight, bias, gain, up)
    }
    f32 = torch.float32
    scalars = {"step": ((), f32), "scale": ((), f32)}
    assert shapes[weight] == scalars | {
        "rms": ((4, 1), f32),
        "radius": ((4, 1), f32),
        "exp_avg": ((4, 6), f32),
    }
    assert shapes[up] == scalars | {
        "rms": ((1, 4, 1, 1), f32),
        "radius": ((1, 4, 1, 1), f32),
        "exp_avg": ((3, 4, 2, 2), f32),
    }
    assert shapes[bias] == scalars | {"rms": ((4,), f32), "exp_avg": ((4,), f32)}
    assert shapes[gain] == scalars | {"rms": ((), f32), "exp_avg": ((), f32)}
    plain = build()
    for group in plain.param_groups:
        for p in group["params"]:
            assert set(plain.state[p]) == {"step", "rms", "scale"}


def test_scale_is_the_size_that_paper_gives_it() -> None:
    bias = torch.nn.Parameter(torch.tensor([0.5, -1.5, 0.0]))
    zero = torch.nn.Parameter(torch.zeros(3))
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    narrow = torch.nn.Parameter(torch.tensor([[0.5], [-3.5]]))  # fan-in 1: cannot be projected
    free = nero.Nero([bias, zero, weight], center=False, radius=None)
    assert [free.state[p]["scale"].item() for p in (bias, zero, weight)] == [
        pytest.approx(2 / 3),
        pytest.approx(0.01),
        3.0,
    ]
    unit = nero.Nero([weight, narrow])
    assert [unit.state[p]["scale"].item() for p in (weight, narrow)] == [1.0, 2.0]


def test_loading_copies() -> None:
    optimizer, other = build(), build()
    train(optimizer, range(2))
    saved = optimizer.state_dict()
    other.load_state_dict(saved)
    before = copy.deepcopy(other.state_dict())
    train(optimizer, range(2, 4))
    for key, state in other.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(value, before["state"][key][name])


def test_missing_hyperparameters_keep_their_values_and_int_steps_load() -> None:
    optimizer = build(radius="initial", nonfinite="raise", beta=0.9)
    parameters = train(optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in ("radius", "nonfinite", "neuron_axes", "capturable", "param_names"):
            del group[name]
    for state in saved["state"].values():
        state["step"] = 3
    loaded = build(radius="initial", nonfinite="raise", lr=0.5)
    loaded.load_state_dict(through_a_file(saved))
    group = loaded.param_groups[1]
    assert (group["radius"], group["nonfinite"], group["neuron_axes"]) == ("initial", "raise", (1,))
    assert (group["beta"], loaded.param_groups[0]["lr"]) == (0.9, 0.01)
    assert group["param_names"] == ["up.weight"]
    state = loaded.state[loaded.param_groups[0]["params"][0]]
    assert (state["step"].item(), state["step"].dtype) == (3.0, torch.float32)
    for p, w in zip(train(loaded, range(0)), parameters, strict=True):
        p.data.copy_(w)
    for p, e in zip(train(loaded, range(3, 5)), train(optimizer, range(3, 5)), strict=True):
        assert torch.equal(p, e)


def drop(key: str) -> Callable[[Saved], object]:
    return lambda saved: saved["state"][2].pop(key)


def put(index: int, key: str, value: Any) -> Callable[[Saved], object]:
    return lambda saved: saved["state"][index].update({key: value})


def option(key: str, value: Any) -> Callable[[Saved], object]:
    return lambda saved: saved["param_groups"][1].update({key: value})


MISFITS: dict[str, tuple[Callable[[Saved], object], str]] = {
    "no rms": (drop("rms"), r"parameter 'gain' of shape \(\) lacks rms"),
    "no scale": (drop("scale"), "parameter 'gain' .* lacks scale"),
    "no radius": (lambda s: s["state"][0].pop("radius"), "'fc.weight' .* lacks radius"),
    "wrong rms": (put(0, "rms", torch.zeros(6, 1)), r"'rms' of .*'fc.weight'.* \(6, 1\).*\(4, 1\)"),
    "wrong exp_avg": (put(1, "exp_avg", torch.zeros(5)), "'exp_avg' of parameter 'fc.bias'"),
    "other layout": (option("neuron_axes", (0,)), r"'rms' of parameter 'up.weight' .*\(0,\) want"),
    "no such axis": (option("neuron_axes", (4,)), "does not fit parameter 'up.weight'.*axis 4"),
    "bad beta": (option("beta", 2.0), r"beta must be in \[0, 1\), got 2.0"),
    "groups": (lambda s: s["param_groups"].pop(), r"groups of \[3\] .*has groups of \[3, 1\]"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(misfit: str) -> None:
    change, message = MISFITS[misfit]
    optimizer = build(radius="initial", momentum=0.9)
    saved = copy.deepcopy(optimizer.state_dict())
    change(saved)
    parameters = train(optimizer, range(3))
    weights = [p.detach().clone() for p in parameters]
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, state in before["state"].items():
        for name, value in state.items():
            assert torch.equal(value, after["state"][key][name])
    for p, w in zip(parameters, weights, strict=True):
        assert torch.equal(p, w)


def test_hooks_of_the_user_convert_before_the_check() -> None:
    optimizer = build()
    train(optimizer, range(2))
    saved = optimizer.state_dict()
    old = copy.deepcopy(saved)
    for state in old["state"].values():
        state["running_rms"] = state.pop("rms")

    def convert(_: torch.optim.Optimizer, loaded: Saved) -> Saved:
        state = {k: {**v, "rms": v["running_rms"]} for k, v in loaded["state"].items()}
        return {**loaded, "state": state}

    optimizer.register_load_state_dict_pre_hook(convert)
    seen: list[torch.dtype] = []
    optimizer.register_load_state_dict_post_hook(
        lambda o: seen.append(o.state[o.param_groups[0]["params"][0]]["rms"].dtype)
    )
    optimizer.load_state_dict(old)
    assert seen == [torch.float32]
    weight = optimizer.param_groups[0]["params"][0]
    assert torch.equal(optimizer.state[weight]["rms"], saved["state"][0]["rms"])
