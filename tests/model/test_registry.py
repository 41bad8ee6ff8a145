"""The registry against an oracle that finds neurons by derivatives, for all of torch.nn."""

import functools
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from nero import NeuronLayout
from nero.model.param_groups import param_groups, plan
from nero.model.registry.lookup import find_row, register
from nero.model.registry.rows import Row
from neuron_oracle import Case, classes_by_effect, classes_by_layout


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def on(*shapes: tuple[int, ...]) -> Callable[[nn.Module], Tensor]:
    """The module's outputs on random inputs, its units last."""
    return lambda module: module(*(random(*shape) for shape in shapes)).flatten(0, -2)


def channels(*shape: int) -> Callable[[nn.Module], Tensor]:
    """The outputs of a convolution: each of its output channels is a unit."""
    return lambda module: module(random(*shape)).movedim(1, -1).flatten(0, -2)


def entries(*shape: int) -> Callable[[nn.Module], Tensor]:
    """Each entry of a normalised shape is a unit."""
    return lambda module: module(random(*shape)).flatten(1)


def tokens(module: nn.Module) -> Tensor:
    """An embedding's unit is a token: what it returns when asked for that one."""
    vectors = module(torch.arange(module.num_embeddings).unsqueeze(1))  # type: ignore[operator]
    return vectors.reshape(module.num_embeddings, -1).T  # type: ignore[arg-type]


def queries_keys_values(module: nn.Module) -> Tensor:
    """An attention layer's units are the entries of its queries, keys and values."""
    seen: list[Tensor] = []

    def attention(q: Tensor, k: Tensor, v: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        seen.extend(x.sum(2).flatten(1) for x in (q, k, v))  # (batch, heads, time, entries)
        return v[:, :, : q.shape[2]]

    with mock.patch.object(F, "scaled_dot_product_attention", attention):
        assert isinstance(module, nn.MultiheadAttention)
        q, k, v = random(3, 2, 4), random(3, 2, module.kdim), random(3, 2, module.vdim)
        module(q, k, v, need_weights=False)
    return torch.cat(seen, 1)


def recurrent(parameter: str, **inputs: int) -> Callable[[nn.Module], Tensor]:
    """One time step of a recurrent layer in which all inputs of `parameter` are equal.

    What lies before it (and beside it) has one constant for all weights, so that all its inputs
    have the same value; what follows is random.
    """
    layer = int(parameter.partition("_l")[2].partition("_")[0] or 0)

    def run(module: nn.Module) -> Tensor:
        for name, p in module.named_parameters():
            own = int(name.partition("_l")[2].partition("_")[0] or 0)
            if own <= layer and name != parameter:
                nn.init.constant_(p, 0.2)
            else:
                nn.init.normal_(p)
        batch = 6
        x = random(batch, 1).expand(-1, 3)
        cell = isinstance(module, nn.RNNCellBase)
        directions = 1 + bool(getattr(module, "bidirectional", False))
        lead = () if cell else (directions * getattr(module, "num_layers", 1),)
        hidden: Any = module.hidden_size
        width = getattr(module, "proj_size", 0) or hidden
        h = random(batch, 1).expand(*lead, batch, width)
        c = random(batch, 1).expand(*lead, batch, hidden)
        state = (h, c) if isinstance(module, (nn.LSTM, nn.LSTMCell)) else h
        out = module(x if cell else x.unsqueeze(0), state)
        flat = [y for part in out for y in (part if isinstance(part, tuple) else (part,))]
        return torch.cat([y.flatten() for y in flat])

    return run


def recurrent_cases() -> list[Case]:
    built: dict[str, Callable[[], nn.Module]] = {
        "RNN": lambda: nn.RNN(3, 2, num_layers=2),
        "GRU": lambda: nn.GRU(3, 2, num_layers=2, bidirectional=True),
        "LSTM": lambda: nn.LSTM(3, 3, num_layers=2, proj_size=2, bidirectional=True),
        "RNNCell": lambda: nn.RNNCell(3, 2),
        "GRUCell": lambda: nn.GRUCell(3, 2),
        "LSTMCell": lambda: nn.LSTMCell(3, 2),
    }
    return [
        Case(name, build, parameter, recurrent(parameter), classes_by_effect)
        for name, build in built.items()
        for parameter, p in build().named_parameters()
        if p.ndim > 1
    ]


def convolution_cases() -> list[Case]:
    cases = []
    for axes in (1, 2, 3):
        size = (5, 4, 4)[:axes]
        for groups in (1, 2, 4):
            for kind in (f"Conv{axes}d", f"ConvTranspose{axes}d"):
                cases.append(
                    Case(
                        f"{kind}, {groups} groups",
                        lambda kind=kind, groups=groups: getattr(nn, kind)(4, 8, 2, groups=groups),
                        "weight",
                        channels(2, 4, *size),
                    )
                )
    return cases


def attention_cases() -> list[Case]:
    packed: dict[str, Any] = {"add_bias_kv": True}
    separate: dict[str, Any] = {"kdim": 3, "vdim": 5}
    return [
        Case(
            f"MultiheadAttention {options}",
            lambda options=options: nn.MultiheadAttention(4, 2, batch_first=True, **options),
            parameter,
            queries_keys_values,
        )
        for options, parameters in [
            (packed, ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v")),
            (separate, ("q_proj_weight", "k_proj_weight", "v_proj_weight")),
        ]
        for parameter in parameters
    ]


def affine(build: Callable[[], nn.Module], run: Callable[[nn.Module], Tensor]) -> list[Case]:
    module = build()
    return [
        Case(type(module).__name__, build, name, run)
        for name, _ in module.named_parameters(recurse=False)
    ]


CASES: list[Case] = [
    *affine(lambda: nn.Linear(4, 3), on((5, 4))),
    *affine(lambda: NonDynamicallyQuantizableLinear(4, 3), on((5, 4))),
    *affine(lambda: nn.Bilinear(3, 4, 2), on((5, 3), (5, 4))),
    *convolution_cases(),
    Case("Embedding", lambda: nn.Embedding(4, 3), "weight", tokens),
    Case("EmbeddingBag", lambda: nn.EmbeddingBag(4, 3), "weight", tokens),
    *attention_cases(),
    *recurrent_cases(),
    *affine(lambda: nn.LayerNorm((2, 3)), entries(5, 2, 3)),
    *affine(lambda: nn.RMSNorm((2, 3)), entries(5, 2, 3)),
    *affine(lambda: nn.GroupNorm(2, 4), channels(5, 4, 3)),
    *affine(lambda: nn.BatchNorm1d(4), channels(5, 4, 3)),
    *affine(lambda: nn.BatchNorm2d(4), channels(5, 4, 3, 2)),
    *affine(lambda: nn.BatchNorm3d(4), channels(5, 4, 3, 2, 2)),
    *affine(lambda: nn.InstanceNorm1d(4, affine=True), channels(5, 4, 3)),
    *affine(lambda: nn.InstanceNorm2d(4, affine=True), channels(5, 4, 3, 2)),
    *affine(lambda: nn.InstanceNorm3d(4, affine=True), channels(5, 4, 3, 2, 2)),
    *affine(lambda: nn.PReLU(4), channels(5, 4, 3)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_neurons_are_those_that_derivatives_find(case: Case) -> None:
    module = case.build().double()
    row = find_row(module, case.parameter)
    assert row is not None
    p = module.get_parameter(case.parameter)
    axes = row.axes(module, p)
    assert axes is not None
    assert classes_by_layout(NeuronLayout(tuple(p.shape), axes)) == case.classes(module)


# Types that own parameters but are not tested above, each with the reason.
NOT_LAYERS = {
    nn.Module: "owns what its subclasses give it",
    nn.ParameterList: "its parameters are those of the module that holds it",
    nn.ParameterDict: "its parameters are those of the module that holds it",
    nn.SyncBatchNorm: "needs a process group to run; has BatchNorm's rows through its base",
}
ABSTRACT = (nn.RNNBase, nn.RNNCellBase)


@functools.cache
def owners_in_torch() -> list[type[nn.Module]]:
    """Every public module type of torch.nn of which a base class creates parameters."""

    def creates(module_type: type) -> bool:
        names = getattr(vars(module_type).get("__init__"), "__code__", creates.__code__).co_names
        return bool({"Parameter", "UninitializedParameter", "register_parameter"} & set(names))

    found = set()
    for info in pkgutil.walk_packages(nn.modules.__path__, "torch.nn.modules."):
        for value in vars(importlib.import_module(info.name)).values():
            if inspect.isclass(value) and issubclass(value, nn.Module):
                bases = [b for b in value.__mro__ if issubclass(b, nn.Module)]
                if value is nn.Module or any(creates(b) for b in bases if b is not nn.Module):
                    found.add(value)
    return sorted(found, key=lambda t: t.__name__)


def test_every_owner_in_torch_is_tested() -> None:
    tested = {type(case.build()) for case in CASES} | set(NOT_LAYERS) | set(ABSTRACT)
    owners = owners_in_torch()
    assert len(owners) > 40, "the search finds too few: is it broken?"
    untested = [
        t.__name__
        for t in owners
        if t not in tested and not t.__name__.startswith("_") and "Lazy" not in t.__name__
    ]
    assert not untested, "add a row to registry/torch_nn.py and a case here"


@pytest.mark.parametrize("name", [t.__name__ for t in owners_in_torch() if "Lazy" in t.__name__])
def test_lazy_modules(name: str) -> None:
    if name.startswith("_"):
        return
    arguments = {"LazyLinear": (3,), "LazyBatchNorm": (), "LazyInstanceNorm": ()}
    kind = name.rstrip("123d") if name[-1] == "d" else name
    options = {"affine": True} if kind == "LazyInstanceNorm" else {}
    lazy = getattr(nn, name)(*arguments.get(kind, (4, 2)), **options)
    with pytest.raises(ValueError, match=r"'weight', 'bias' of Lazy.* run a batch"):
        param_groups(lazy)
    axes = 1 if kind == "LazyLinear" else int(name[-2])
    shape = (2, 3, *(4,) * axes) if kind != "LazyLinear" else (2, 3)
    lazy(torch.randn(shape))
    assert sum(len(group["params"]) for group in param_groups(lazy)) == 2


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 20, [4, 10], head_bias=True),
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        lambda: nn.SyncBatchNorm(4),
    ],
)
def test_composites_hold_nothing_unknown(build: Callable[[], nn.Module]) -> None:
    model = build()
    assigned = plan(model)
    assert [id(each.parameter) for each in assigned] == [id(p) for p in model.parameters()]
    for each in assigned:
        assert each.layout.neurons * each.layout.fan_in == each.parameter.numel()


class Base(nn.Module):
    """y = x @ kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(5, 3))
        self.kernel_2 = nn.Parameter(torch.randn(5, 3))


@pytest.fixture(autouse=True)
def _forget_registrations(monkeypatch: pytest.MonkeyPatch) -> Any:
    from nero.model.registry import lookup as registry

    monkeypatch.setattr(registry, "_user_rows", [])
    registry._rows.cache_clear()
    yield
    registry._rows.cache_clear()


def axes_of(module: nn.Module) -> list[Any]:
    return [each.layout.neuron_axes for each in plan(module)]


def test_registered_rows_hold_for_names_patterns_and_subclasses() -> None:
    class Derived(Base):
        pass

    register(Base, "kernel", neuron_axes=(1,))
    with pytest.raises(ValueError, match="kernel_2"):
        param_groups(Base())
    register(Base, "kernel_*", neuron_axes=[1])
    assert axes_of(Base()) == [(1,), (1,)]
    assert axes_of(Derived()) == [(1,), (1,)]
    register(Derived, "kernel*", neuron_axes=(0,), role="embedding")
    assert axes_of(Derived()) == [(0,), (0,)]
    assert axes_of(Base()) == [(1,), (1,)]
    assert {each.role for each in plan(Derived())} == {"embedding"}


def test_a_registered_row_wins_over_the_built_in_one() -> None:
    register(nn.Linear, "weight", neuron_axes=(1,))
    assert plan(nn.Linear(3, 2))[0].layout.neuron_axes == (1,)
    assert plan(NonDynamicallyQuantizableLinear(3, 2))[0].layout.neuron_axes == (1,)
    register(nn.Linear, "weight", neuron_axes=(0,))
    assert plan(nn.Linear(3, 2))[0].layout.neuron_axes == (0,), "the latest registration wins"


def test_registration_by_qualified_name_and_by_function() -> None:
    register("*test_registry.Base", "kernel*", neuron_axes=lambda module, p: (p.ndim - 1,))
    assert axes_of(Base()) == [(1,), (1,)]


def test_gains_and_biases_are_per_entry_whatever_their_axes() -> None:
    row = Row("bias", "bias", (0,))
    assert row.axes(nn.Identity(), torch.zeros(2, 3)) == (0, 1)
    assert NeuronLayout((2, 3), (0, 1)).neurons == math.prod((2, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Linear, "weight", {"role": "heads"}), ValueError, "role must be one of"),
        ((3, "weight", {}), TypeError, "module_type"),
        ((nn.Linear(2, 2), "weight", {}), TypeError, "module_type"),
        ((nn.Linear, "weight", {"neuron_axes": 0}), TypeError, "neuron_axes"),
    ],
)
def test_register_refuses(arguments: Any, error: type[Exception], message: str) -> None:
    module_type, name, options = arguments
    with pytest.raises(error, match=message):
        register(module_type, name, **options)
