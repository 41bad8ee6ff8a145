"""What is known of a step's tensors: recognised while nothing changes, and never for longer."""

import copy
import gc
import os
import weakref
from collections.abc import Callable
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from helpers import bits
from nero.kernels.cpu.library import Library, load
from nero.kernels.cpu.seen import Seen, python_functions
from nero.step.gradients import checked_gradients

pytestmark = pytest.mark.skipif(
    os.environ.get("NERO_CPU") == "none", reason="there is no C++ compiler, and no kernel"
)


class Step:
    """Parameters with gradients and state, two of which have no gradient."""

    def __init__(self) -> None:
        base = torch.randn(6, 8)
        self.params: list[nn.Parameter] = [
            nn.Parameter(x)
            for x in (
                base,
                base[2:, 1:],  # another first entry
                base.T,
                torch.randn(3, 4),
                torch.randn(3, 4, 5, 2).to(memory_format=torch.channels_last),
                torch.randn(3, 4),
                torch.tensor(1.0, dtype=torch.float64),
                torch.zeros(0, 3),
                torch.zeros(4, dtype=torch.bfloat16),
            )
        ]
        self.states: dict[Tensor, dict[str, Any]] = {}
        for p in self.params:
            p.grad = torch.ones_like(p)
            self.states[p] = {"step": torch.zeros(()), "rms": torch.zeros(3)}
        self.params[0].grad = self.params[5].grad = None

    @property
    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.params if p.grad is not None]

    @property
    def with_gradient(self) -> list[Tensor]:
        return [p for p in self.params if p.grad is not None]

    def known_to(self, seen: Seen) -> None:
        seen.know(self.with_gradient, self.gradients, self.states)

    def is_same(self, seen: Seen, given: bool = False) -> bool:
        """As the parameters' own gradients say, or as gradients say that are given."""
        if given:
            return seen.same(self.with_gradient, self.gradients, self.states)
        found = seen.gradients(list(self.params), self.states)
        if found is None:
            return False
        assert len(found) == len(self.gradients)
        assert all(a is b for a, b in zip(found, self.gradients, strict=True))
        return True


@pytest.fixture(params=["kernel", "attributes"])
def seen(request: pytest.FixtureRequest) -> Seen:
    library = load()
    assert isinstance(library, Library), library
    assert python_functions() is not None
    return Seen(library.look if request.param == "kernel" else None)


every_way = pytest.mark.parametrize("given", [False, True], ids=["own", "given"])


@every_way
def test_tensors_are_recognised_and_found(seen: Seen, given: bool):
    step = Step()
    assert not step.is_same(seen, given)
    step.known_to(seen)
    for _ in range(2):
        for p in step.with_gradient:
            p.grad = torch.zeros_like(p)  # other entries, elsewhere
        assert step.is_same(seen, given)
        pairs = zip(step.with_gradient, step.gradients, strict=True)
        expected = [x.data_ptr() for pair in pairs for x in pair]
        assert list(seen.addresses)[: len(expected)] == expected


def other_grad(index: int, grad: Tensor | None) -> Callable[[Step], None]:
    def change(step: Step) -> None:
        step.params[index].grad = grad

    return change


def other_data(index: int, data: Tensor) -> Callable[[Step], None]:
    def change(step: Step) -> None:
        grad = step.params[index].grad
        step.params[index].grad = None
        step.params[index].data = data
        step.params[index].grad = None if grad is None else torch.ones_like(step.params[index])

    return change


def in_state(index: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Step], None]:
    def in_its_state(step: Step) -> None:
        change(step.states[step.params[index]])

    return in_its_state


class Odd(Tensor):
    """A tensor of a class that the kernel does not know."""


CHANGES: dict[str, Callable[[Step], object]] = {
    "the shape of a parameter": other_data(3, torch.zeros(3, 5)),
    "the axes of a parameter": other_data(3, torch.zeros(12)),
    "the strides of a parameter": other_data(3, torch.zeros(4, 3).T),
    "the width of a parameter": other_data(3, torch.zeros(3, 4, dtype=torch.float64)),
    "the kind of 16 bits": other_data(8, torch.zeros(4, dtype=torch.float16)),
    "the class of a parameter": lambda step: step.params.__setitem__(
        3, nn.Parameter(torch.zeros(3, 4).as_subclass(Odd))
    ),
    "a parameter for another in its place": lambda step: (
        step.params.__setitem__(3, nn.Parameter(step.params[3].data)),
        other_grad(3, torch.zeros(3, 4))(step),
        step.states.update({step.params[3]: {**list(step.states.values())[3]}}),
    ),
    "the strides of a gradient": other_grad(3, torch.zeros(4, 3).T),
    "the class of a gradient": other_grad(3, torch.zeros(3, 4).as_subclass(Odd)),
    "a gradient less": other_grad(3, None),
    "the last gradient less": other_grad(8, None),
    "a gradient more": other_grad(5, torch.zeros(3, 4)),
    "another that lacks a gradient": lambda step: (
        other_grad(3, None)(step),
        other_grad(5, torch.zeros(3, 4))(step),
    ),
    "no gradient": lambda step: [setattr(p, "grad", None) for p in step.params],
    "a parameter less": lambda step: step.params.pop(),
    "all parameters less": lambda step: step.params.clear(),
    "a parameter more": lambda step: (
        step.params.append(nn.Parameter(torch.zeros(3, 4))),
        other_grad(-1, torch.zeros(3, 4))(step),
        step.states.update({step.params[-1]: {}}),
    ),
    "the order": lambda step: step.params.reverse(),
    "the memory of a tensor in a state": in_state(
        3, lambda state: setattr(state["rms"], "data", torch.zeros(3))
    ),
    "the dtype of a tensor in a state": in_state(
        3, lambda state: setattr(state["rms"], "data", torch.zeros(3, dtype=torch.float64))
    ),
    "a name in a state": in_state(3, lambda state: state.update(root=state.pop("rms"))),
    "a note in a state": in_state(3, lambda state: state.update(note="new")),
    "a tensor in a state": in_state(3, lambda state: state.update(rms=torch.zeros(3))),
    "a tensor more in a state": in_state(3, lambda state: state.update(exp_avg=torch.zeros(3))),
    "a tensor less in a state": in_state(3, lambda state: state.pop("rms")),
    "a tensor less in the last state": in_state(8, lambda state: state.pop("rms")),
    "an empty state": in_state(3, lambda state: state.clear()),
}


@every_way
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(seen: Seen, given: bool, change: Callable[[Step], object]):
    step = Step()
    step.known_to(seen)
    assert step.is_same(seen, given)
    kept = list(step.params), [p.grad for p in step.params]
    change(step)
    for p in step.params:
        step.states.setdefault(p, {})
    assert not step.is_same(seen, given)
    assert not step.is_same(seen, given)  # what is not known again is not the same again
    del kept


@every_way
def test_what_does_not_matter_is_not_noticed(seen: Seen, given: bool):
    step = Step()
    step.known_to(seen)
    step.states = {p: dict(state) for p, state in reversed(step.states.items())}
    assert step.is_same(seen, given)
    for state in step.states.values():
        state["rms"] = state["rms"].detach()  # another object in the same memory
    assert step.is_same(seen, given)
    step.states[torch.zeros(2)] = {}
    assert step.is_same(seen, given)
    step.params[5].data = torch.zeros(7)  # it has no gradient
    assert step.is_same(seen, given)


@every_way
def test_what_is_forgotten_or_known_anew(seen: Seen, given: bool):
    step, other = Step(), Step()
    step.known_to(seen)
    seen.forget()
    assert not step.is_same(seen, given)
    step.known_to(seen)
    assert step.is_same(seen, given)
    other.known_to(seen)
    assert other.is_same(seen, given)
    assert not step.is_same(seen, given)


def test_gradients_are_let_go_and_parameters_are_kept(seen: Seen):
    step = Step()
    step.known_to(seen)
    p = step.params.pop(3)
    gradient, parameter = weakref.ref(p.grad), weakref.ref(p)
    del step, p
    gc.collect()
    assert parameter() is not None  # or another one could take its address
    parameter().grad = None
    assert gradient() is None


def test_tensors_that_have_no_header_are_compared_by_attributes():
    library = load()
    assert isinstance(library, Library)
    seen = Seen(library.look)
    step = Step()
    step.known_to(seen)
    p = nn.Parameter(torch.zeros(3, 4, device="meta"))
    step.params.append(p)
    step.states[p] = {}
    other_grad(-1, torch.zeros(3, 4, device="meta"))(step)
    assert not step.is_same(seen)
    step.known_to(seen)
    assert step.is_same(seen)
    other_grad(3, torch.zeros(4, 3).T)(step)
    assert not step.is_same(seen)


def test_a_parameter_without_state_is_not_taken():
    library = load()
    assert isinstance(library, Library)
    seen, step = Seen(library.look), Step()
    step.known_to(seen)
    del step.states[step.params[3]]
    assert not step.is_same(seen)


# ---- the same, of an optimiser -------------------------------------------------------------------


def set_option(name: str, value: Any) -> Callable[[nero.Nero], None]:
    return lambda optimizer: optimizer.param_groups[1].__setitem__(name, value)


def first_of(optimizer: nero.Nero, group: int) -> Tensor:
    return optimizer.param_groups[group]["params"][0]


def load_other_state(optimizer: nero.Nero) -> None:
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["rms"] *= 3
    optimizer.load_state_dict(saved)


def move(optimizer: nero.Nero) -> None:
    for p in optimizer.param_groups[0]["params"]:
        p.data = p.data.clone()


def move_state(optimizer: nero.Nero) -> None:
    for state in optimizer.state.values():
        for x in state.values():
            x.data = 3 * x.data


def add_group(optimizer: nero.Nero) -> None:
    p = nn.Parameter(torch.ones(4, 6).cumsum(1))
    p.grad = torch.ones(4, 6).cumsum(0)
    optimizer.add_param_group({"params": [p]})


EVENTS: dict[str, Callable[[nero.Nero], object]] = {
    "nothing": lambda optimizer: None,
    "another lr": set_option("lr", 0.3),
    "another beta": set_option("beta", 0.5),
    "momentum": set_option("momentum", 0.5),
    "no centring": set_option("center", False),
    "another radius": set_option("radius", 2.0),
    "the radius that it has": set_option("radius", "initial"),
    "ascent": set_option("maximize", True),
    "other paths": lambda optimizer: [
        group.update(foreach=True, fused=None) for group in optimizer.param_groups
    ],
    "a gradient less": lambda optimizer: setattr(first_of(optimizer, 0), "grad", None),
    "a gradient that is not finite": lambda optimizer: first_of(optimizer, 1).grad[1].fill_(nan),
    "another state": load_other_state,
    "a state in other memory": move_state,
    "other memory": move,
    "a group more": add_group,
}


def trained(event: Callable[[nero.Nero], object], **options: Any) -> tuple[list[Tensor], int]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 6)) for _ in range(4)]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.1}]
    optimizer = nero.Nero(groups, **options)
    for step in range(7):
        for p in params:
            p.grad = torch.randn(4, 6)
        if step == 3:
            event(optimizer)
        optimizer.step()
    tensors = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    tensors += [state["rms"] for state in optimizer.state.values()]
    return tensors, optimizer.skipped_neurons()


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_what_happens_between_two_steps_is_heeded(event: Callable[[nero.Nero], object]):
    ours, skipped = trained(event)
    rules, expected = trained(event, foreach=False)
    assert skipped == expected
    for a, b in zip(ours, rules, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def two_groups() -> tuple[nero.Nero, list[nn.Parameter]]:
    """Several steps into a run."""
    params = [nn.Parameter(torch.randn(4, 6)) for _ in range(4)]
    optimizer = nero.Nero([{"params": params[:2]}, {"params": params[2:]}])
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(4, 6)
        optimizer.step()
    return optimizer, params


def test_a_step_like_the_last_one_asks_no_questions(monkeypatch: pytest.MonkeyPatch):
    optimizer, params = two_groups()
    asked = []
    monkeypatch.setattr(
        "nero.optimizer.checked_gradients",
        lambda *args: asked.append(args) or checked_gradients(*args),
    )
    for lr in (0.1, 0.2):
        optimizer.param_groups[1]["lr"] = lr
        before = bits(params)
        for p in params:
            p.grad = torch.randn(4, 6)
        optimizer.step()
        assert bits(params) != before
    assert not asked
    params[3].grad = None
    optimizer.step()
    optimizer.step()
    assert len(asked) == 1


@pytest.mark.parametrize("options", [{}, {"nonfinite": "raise"}], ids=["sparse", "not finite"])
def test_a_bad_gradient_after_many_good_ones_changes_nothing(options: dict[str, Any]):
    optimizer, params = two_groups()
    optimizer.param_groups[1].update(options)
    params[3].grad = torch.full((4, 6), nan) if options else torch.eye(4, 6).to_sparse()
    before = bits([params, optimizer.state_dict()])
    with pytest.raises(RuntimeError, match=r"parameter 1 of shape \(4, 6\)"):
        optimizer.step()
    assert bits([params, optimizer.state_dict()]) == before
    params[3].grad = torch.ones(4, 6)
    optimizer.step()
    assert bits([params, optimizer.state_dict()]) != before


def test_gradients_do_not_outlive_the_step():
    optimizer, params = two_groups()
    for _ in range(2):
        gradients = [torch.randn(4, 6) for _ in params]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer.step()
    alive = [weakref.ref(g) for g in gradients]
    del gradients, g
    optimizer.zero_grad()
    assert not any(g() for g in alive)


def test_an_older_torch_has_its_attributes_read(monkeypatch: pytest.MonkeyPatch):
    new = bits(trained(EVENTS["a gradient less"]))
    monkeypatch.setattr("nero.kernels.cpu.seen.python_functions", lambda: None)
    assert bits(trained(EVENTS["a gradient less"])) == new


@pytest.mark.parametrize("major", [0, 2])
def test_another_version_of_dlpack_is_not_used(monkeypatch: pytest.MonkeyPatch, major: int):
    monkeypatch.setattr("nero.kernels.cpu.seen.DLPACK_VERSION", major)
    assert python_functions.__wrapped__() is None
