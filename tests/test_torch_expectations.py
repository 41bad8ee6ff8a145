"""What torch's own suite expects of an optimiser, from the part of it that is in the wheel.

`torch.testing._internal.common_optimizers` has a row for each optimiser: its configurations, the
input that it must refuse, and what it supports. Nero gets such a row here. Every test runs over
Adam's too, so that it is torch's expectation and not ours.
"""

import copy
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torch_suite
from helpers import bits, through_file
from nero import Nero

rows = torch_suite.load("common_optimizers")
ADAM = next(info for info in rows.optim_db if info.optim_cls is torch.optim.Adam)


def configurations(device: str, dtype: torch.dtype | None = None) -> list[Any]:
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "non-default lr": {"lr": 0.1},
        "Tensor lr": {"lr": torch.tensor(0.02)},
        "maximize": {"maximize": True},
        "beta and momentum": {"beta": 0.9, "momentum": 0.8},
        "norms of their own": {"center": False, "radius": "initial"},
        "free norms, capped": {"radius": None, "max_turn": 1.0},
        "capturable, Tensor lr": {"capturable": True, "lr": torch.tensor(0.02)},
        "capturable, momentum": {"capturable": True, "momentum": 0.9},
        "orthogonal": {"orthogonal": True, "momentum": 0.9},
    }
    return [
        rows.OptimizerInput(params=None, kwargs=kwargs, desc=desc)
        for desc, kwargs in options.items()
    ]


NERO = rows.OptimizerInfo(
    Nero,  # type: ignore[arg-type]
    optim_inputs_func=configurations,
    optim_error_inputs_func=rows.get_error_inputs_for_all_optims,
    supported_impls=("foreach", "fused"),
    has_capturable_arg=True,
    supports_complex=False,
    supports_fused_on=("cpu", "cuda"),
)
INFOS = [NERO, ADAM]
every_info = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)


class Configuration(NamedTuple):
    info: Any
    kwargs: dict[str, Any]

    def build(self, params: Any) -> torch.optim.Optimizer:
        return self.info.optim_cls(params, **copy.deepcopy(self.kwargs))  # type: ignore


def all_configurations() -> Iterator[Any]:
    """Each configuration without and with each of foreach and fused.

    Torch takes foreach for what accelerators have; Adam's other settings there do not run on CPUs.
    """
    for info, device in ((NERO, "cuda"), (ADAM, "cpu")):
        inputs = rows._get_optim_inputs_including_global_cliquey_kwargs(
            device, torch.float32, info, skip=("differentiable",)
        )
        for each in inputs:
            yield pytest.param(Configuration(info, each.kwargs), id=f"{info.name}: {each.desc}")


every_configuration = pytest.mark.parametrize("configuration", list(all_configurations()))


def some_params(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
    """Of the shapes of torch's tests, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    params = []
    for shape in [(2, 3), (), (10, 5), (10, 5), (5,), (3, 4, 5)]:
        p = nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        p.grad = torch.randn(shape, generator=generator, dtype=dtype)
        params.append(p)
    return params


def states(optimizer: torch.optim.Optimizer) -> Any:
    return bits(optimizer.state_dict())


# ---------------------------------------------------------------- what is refused

# Nero says it in its own words, or takes what torch refuses.
OWN_WORDS = {"Tensor lr must be 1-element": "lr as a tensor must be one floating-point number"}
TAKEN = {"all optimizer param groups should be with/without names."}


def refused_by_all() -> list[Any]:
    found = rows.get_error_inputs_for_all_optims("cpu", torch.float32)
    return [pytest.param(each, id=each.optimizer_error_input.desc) for each in found]


@every_info
@pytest.mark.parametrize("row", refused_by_all())
def test_what_every_optimizer_of_torch_refuses(info: Any, row: Any):
    given = row.optimizer_error_input
    params = [nn.Parameter(torch.randn(2, 3))] if given.params is None else given.params
    if info is NERO and given.desc in TAKEN:
        Nero(params, **given.kwargs)
        return
    says = OWN_WORDS.get(given.desc, row.error_regex) if info is NERO else row.error_regex
    assert row.error_on is rows.OptimizerErrorEnum.CONSTRUCTION_ERROR
    if issubclass(row.error_type, Warning):
        with pytest.warns(row.error_type, match=says):
            info.optim_cls(params, **given.kwargs)
    else:
        with pytest.raises(row.error_type, match=says):
            info.optim_cls(params, **given.kwargs)


def arguments_of_others() -> list[Any]:
    """What torch's optimisers are configured with, or refuse, where Nero has those arguments."""
    ours = set(inspect.signature(Nero).parameters)
    found = {}
    for info in rows.optim_db:
        inputs = [(each, True) for each in info.optim_inputs_func("cuda")]
        for bad in info.optim_error_inputs_func("cpu", torch.float32):
            if bad.error_on is rows.OptimizerErrorEnum.CONSTRUCTION_ERROR:
                inputs.append((bad.optimizer_error_input, False))
        for each, fine in inputs:
            if each.params is None and each.kwargs and ours >= each.kwargs.keys():
                found[f"{info.name}: {each.desc} {each.kwargs}"] = (each.kwargs, fine)
    return [pytest.param(*row, id=name) for name, row in found.items()]


@pytest.mark.parametrize(("kwargs", "fine"), arguments_of_others())
def test_arguments_of_other_optimizers_are_taken_or_refused_alike(
    kwargs: dict[str, Any], fine: bool
):
    """But for weight decay, which is refused, and a tensor as lr, which every path takes."""
    params = some_params()
    before = bits(params)
    takes = fine or (set(kwargs) == {"lr", "foreach"} and isinstance(kwargs["lr"], Tensor))
    if not takes or kwargs.get("weight_decay"):
        name = "weight_decay" if kwargs.get("weight_decay") else "lr|momentum|foreach|fused"
        with pytest.raises((ValueError, TypeError), match=name):
            Nero(params, **kwargs)
        assert bits(params) == before
        return
    Nero(params, **kwargs).step()
    assert all(p.isfinite().all() for p in params)
    assert bits(params) != before


@every_info
def test_complex_parameters(info: Any):
    w = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
    w.grad = torch.randn_like(w)
    if info.supports_complex:
        info.optim_cls([w]).step()
    else:
        with pytest.raises(TypeError, match=r"complex64.*real"):
            info.optim_cls([w])


@every_info
def test_sparse_gradients(info: Any):
    assert not info.supports_sparse
    w = nn.Parameter(torch.randn(3, 4))
    optimizer = info.optim_cls([w])
    w.grad = torch.eye(3, 4).to_sparse()
    before = bits(w)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert bits(w) == before


# ---------------------------------------------------------------- a step


def toy(dtype: torch.dtype, contiguous: bool) -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """The problem of torch's test_forloop_goes_right_direction."""
    weight, bias, x = torch.randn(10, 5), torch.randn(10), torch.randn(5)
    if not contiguous:
        weight = torch.randn(10, 5, 2)[..., 0]
        bias = torch.randn(10, 2)[..., 0]
    w, b, x = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype)), x.to(dtype)
    return [w, b], lambda: (w.mv(x) + b).pow(2).sum()


@every_configuration
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "noncontiguous"])
def test_the_loss_goes_the_right_way(configuration: Configuration, contiguous: bool):
    params, loss_of = toy(torch.float32, contiguous)
    optimizer = configuration.build(params)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    first = closure()
    if configuration.kwargs.get("maximize"):
        for _ in range(20):
            closure()
            optimizer.step()
        assert closure() > first
    else:
        for _ in range(20):
            optimizer.step(closure)
        assert closure() < first


@every_info
def test_the_loss_goes_the_right_way_under_schedulers(info: Any):
    for makers in info.scheduler_inputs:
        params, loss_of = toy(torch.float32, True)
        # Two groups, of which the second has a rate of its own.
        optimizer = info.optim_cls([{"params": params[:1]}, {"params": params[1:], "lr": 1e-3}])
        schedulers = [make(optimizer) for make in makers]
        first = loss_of()
        for _ in range(20):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            for scheduler in schedulers:
                if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                    scheduler.step(loss)
                else:
                    scheduler.step()
        assert loss_of() < first


@every_info
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "impl", [{"foreach": False}, {"fused": True}, {"capturable": True}], ids=str
)
def test_a_tensor_as_lr_is_its_number(info: Any, shape: tuple[int, ...], impl: dict):
    """Of any number of axes, given at construction or set later."""
    if info is ADAM and "capturable" in impl:
        pytest.skip("Adam's is for accelerators alone")
    number, tensor, later = some_params(), some_params(), some_params()
    lr = torch.full(shape, 0.25)
    optimizers = [
        info.optim_cls(number, lr=0.25, **impl),
        info.optim_cls(tensor, lr=lr, **impl),
        info.optim_cls(later, lr=torch.full(shape, 0.5), **impl),
    ]
    for group in optimizers[2].param_groups:
        group["lr"] = lr
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step()
    for p, q, r in zip(number, tensor, later, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(q, r, rtol=0, atol=0)
    assert optimizers[1].param_groups[0]["lr"] is lr


@every_info
@pytest.mark.parametrize("impl", ["foreach", "fused"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_each_implementation_is_the_loop(info: Any, impl: str, dtype: torch.dtype):
    """Torch's test_foreach_matches_forloop and test_fused_matches_forloop: seven steps."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for each in info.optim_inputs_func("cpu"):
        tracked = rows.TensorTracker({})
        for flag in (False, True):
            params = some_params(dtype)
            params[-1].grad = None  # a parameter without a gradient in the middle of others
            optimizer = info.optim_cls(params, **copy.deepcopy(each.kwargs), **{impl: flag})
            if not flag:
                optimizer.param_groups[0]["foreach"] = False
            for step in range(7):
                generator = torch.Generator().manual_seed(step)
                for p in params:
                    if p.grad is not None:
                        g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                        p.grad = g.to(dtype)
                if step == 3:
                    params[0].grad = None
                optimizer.step()
            for p in params:
                kept = [x for x in optimizer.state[p].values() if isinstance(x, Tensor)]
                for x in [p, *kept]:
                    if not flag:
                        tracked.add(x)
                    else:
                        expected = tracked.tensors.pop(0)
                        torch.testing.assert_close(
                            x.detach().double(), expected.double(), rtol=tolerance, atol=tolerance
                        )
        assert tracked.all_popped()


@every_configuration
def test_a_step_needs_gradients_and_keeps_them(configuration: Configuration):
    params = some_params()
    optimizer = configuration.build(params)
    gradients = [p.grad for p in params]
    before = bits(gradients)
    optimizer.step()
    assert [p.grad for p in params] == gradients, "the caller's gradients are the same tensors"
    assert bits(gradients) == before, "nothing was written into them"
    for p in params:
        p.grad = None
    weights, kept = bits(params), states(optimizer)
    optimizer.step()
    assert (bits(params), states(optimizer)) == (weights, kept)


@every_configuration
def test_a_step_by_gradients_of_zero_moves_nothing(configuration: Configuration):
    params = some_params()
    if configuration.kwargs.get("weight_decay"):
        pytest.skip("weights decay")
    optimizer = configuration.build(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    for p, was in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), was, rtol=0, atol=0)


@every_info
def test_a_default_dtype_changes_no_number(info: Any):
    """Torch's test_set_default_dtype_works_with_foreach."""
    expected = some_params()
    kept = info.optim_cls(expected, foreach=True)
    kept.step(), kept.step()
    try:
        torch.set_default_dtype(torch.float64)
        params = some_params()
        optimizer = info.optim_cls(params, foreach=True)
        optimizer.step(), optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(params, expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- state dicts


@every_configuration
def test_state_survives_a_file_and_a_copy(configuration: Configuration):
    """Torch's test_save_load_equality_with_weights_only and its tests of deepcopy."""
    params = some_params()
    optimizer = configuration.build(params)
    for _ in range(3):
        optimizer.step()
    restored_params = [nn.Parameter(p.detach().clone()) for p in params]
    restored = configuration.build(restored_params)
    with torch.no_grad():
        for p, q in zip(restored_params, params, strict=True):
            p.copy_(q)
            p.grad = q.grad.clone()
    restored.load_state_dict(through_file(optimizer.state_dict()))
    assert states(restored) == states(optimizer)
    copied = copy.deepcopy(optimizer)
    assert states(copied) == states(optimizer)
    taken = states(optimizer)
    copied.step()
    assert states(optimizer) == taken, "a copy has state of its own"
    for _ in range(3):
        optimizer.step()
        restored.step()
    assert bits(restored_params) == bits(params)
    assert states(restored) == states(optimizer)


@every_info
def test_an_older_state_dict_loads(info: Any):
    """One without the arguments that came later, and with the step count as a number."""
    params = some_params()
    optimizer = info.optim_cls(params)
    optimizer.step()
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for name in info.not_og_supported_flags:
            group.pop(name, None)
    for state in old["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(old)
    optimizer.step()
    assert all(state["step"] == 2 for state in optimizer.state.values())


@every_info
@pytest.mark.parametrize("saved_named", [True, False])
@pytest.mark.parametrize("loaded_named", [True, False])
def test_a_state_dict_loads_with_or_without_names(info: Any, saved_named: bool, loaded_named: bool):
    def build(params: list[nn.Parameter], named: bool) -> torch.optim.Optimizer:
        return info.optim_cls([(f"p{i}", p) for i, p in enumerate(params)] if named else params)

    source, target = build(some_params(), saved_named), build(some_params(), loaded_named)
    source.step()
    target.load_state_dict(source.state_dict())
    assert bits(target.state_dict()["state"]) == bits(source.state_dict()["state"])
    assert ("param_names" in target.param_groups[0]) == (saved_named or loaded_named)
    target.step()


@every_info
@pytest.mark.parametrize("prepend", [False, True])
def test_hooks_of_state_dicts(info: Any, prepend: bool):
    """The state dict that a hook returns takes the place of the other; removed hooks do nothing."""
    optimizer = info.optim_cls(some_params())
    optimizer.step()
    called: list[str] = []

    def saving(_: Any) -> None:
        called.append("before saving")

    def saved(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        called.append("after saving")
        return {**state_dict, "extra": 3}

    def loading(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        called.append("before loading")
        assert state_dict["extra"] == 3
        changed = copy.deepcopy(state_dict)
        changed["param_groups"][0]["lr"] = 0.002
        return changed

    def loaded(_: Any) -> None:
        called.append("after loading")

    handles = [
        optimizer.register_state_dict_pre_hook(saving),
        optimizer.register_state_dict_post_hook(saved, prepend=prepend),
        optimizer.register_load_state_dict_pre_hook(loading, prepend=prepend),
        optimizer.register_load_state_dict_post_hook(loaded),
    ]
    optimizer.load_state_dict(optimizer.state_dict())
    assert called == ["before saving", "after saving", "before loading", "after loading"]
    assert optimizer.param_groups[0]["lr"] == 0.002
    for handle in handles:
        handle.remove()
    assert "extra" not in optimizer.state_dict()
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(called) == 4


@every_info
def test_hooks_of_a_subclass_may_wrap_state_dicts(info: Any):
    """Torch's test_state_dict_pre_post_hook: an optimiser whose hooks are its own methods."""

    class Child(info.optim_cls):  # type: ignore
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register_state_dict_post_hook(lambda _, saved: {**saved, "version": 2})
            self.register_load_state_dict_pre_hook(lambda _, saved: {**saved})

    optimizer = Child(some_params())
    optimizer.step()
    other = Child(some_params())
    other.load_state_dict(through_file(optimizer.state_dict()))
    assert states(other) == states(optimizer)
    assert states(other)["version"] == 2


# ---------------------------------------------------------------- defaults and groups


@every_info
def test_defaults_are_those_of_the_signature_and_fill_groups(info: Any):
    params = some_params()
    optimizer = info.optim_cls([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}])
    signature = inspect.signature(info.optim_cls)
    for name, value in optimizer.defaults.items():
        if name in signature.parameters:
            assert value == signature.parameters[name].default, name
    for group, lr in zip(optimizer.param_groups, (optimizer.defaults["lr"], 0.5), strict=True):
        assert group["lr"] == lr
        assert group.keys() >= optimizer.defaults.keys()


@every_configuration
def test_an_optimizer_is_printed_with_its_settings(configuration: Configuration):
    optimizer = configuration.build(some_params())
    shown = repr(optimizer)
    assert shown.startswith(configuration.info.name)
    for name, value in configuration.kwargs.items():
        if not isinstance(value, Tensor):
            assert re.search(rf"\b{name}: {re.escape(str(value))}\n", shown), name


@every_configuration
def test_a_group_may_come_later(configuration: Configuration):
    """Torch's test_add_param_group and test_non_empty_state."""
    early, late = some_params(), some_params(seed=1)
    optimizer = configuration.build(early)
    optimizer.step()
    optimizer.add_param_group({"params": late})
    optimizer.step()
    steps = [optimizer.state[p]["step"].item() for p in itertools.chain(early, late)]
    assert steps == [2] * len(early) + [1] * len(late)
    for group in optimizer.param_groups:
        for name, value in configuration.kwargs.items():
            assert group[name] == value


@every_info
def test_construction_and_steps_warn_of_nothing(info: Any):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = info.optim_cls(some_params())
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
