"""A state machine over all that one may do to a run, each step of it held to the float64 oracle."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

import nero.checkpoint
import nero.state
import nero.step.plan
import nero.step.reference
from operations import DTYPES, GRADIENTS, LRS, MEMORY, PATHS, ROWS, World
from optimizer_table import CONSTRAINTS

# `make soak` runs more of them, each time other ones.
IN_CI = 120
EXAMPLES = int(os.environ.get("NERO_FUZZ_EXAMPLES", IN_CI))
LEAST_STEPS = 5000
LEAST_OF_EACH = 1

SEEDS = st.integers(0, 2**31)
TENSORS = st.sampled_from(sorted(ROWS))
CONSTRAINT = st.sampled_from(sorted(CONSTRAINTS))
MOMENTUM = st.sampled_from([0.0, 0.9])
WHICH = st.integers(0, 9)
NAMES = st.lists(TENSORS, min_size=1, max_size=2)
# How many, by gradients of which kinds in turns over the parameters, and the seed of those.
STEPS = st.tuples(
    st.integers(1, 4), st.lists(st.sampled_from(GRADIENTS), min_size=1, max_size=4), SEEDS
)

done: Counter[str] = Counter()
"""how often each operation was carried out, for the test that the machine does its work"""


class Operations(RuleBasedStateMachine):
    """A run of training, and what one may do in the middle of it: each time, steps come after."""

    @initialize(
        names=st.lists(TENSORS, min_size=1, max_size=3), how=CONSTRAINT, m=MOMENTUM, s=SEEDS
    )
    def start(self, names: list[str], how: str, m: float, s: int) -> None:
        self.world = World.new(names, how, m, s)

    def did(self, what: str, then: tuple[int, list[str], int]) -> None:
        """Count an operation and take the steps after it."""
        done[what] += 1
        steps, kinds, seed = then
        for index in range(steps):
            self.world.step(kinds[index:] + kinds[:index], seed + 100 * index)
        done["steps"] += steps
        done.update(kinds)

    @rule(then=STEPS)
    def go_on(self, then: Any) -> None:
        self.did("nothing else", then)

    @rule(kind=st.sampled_from(["nan", "inf"]), seed=SEEDS, then=STEPS)
    def refused_step(self, kind: str, seed: int, then: Any) -> None:
        self.world.refused_step(kind, seed)
        self.did("refused step", then)

    @rule(names=NAMES, how=CONSTRAINT, momentum=MOMENTUM, seed=SEEDS, then=STEPS)
    def add_group(self, names: list[str], how: str, momentum: float, seed: int, then: Any) -> None:
        added = self.world.add_group(names, how, momentum, seed)
        self.did("add_group" if added else "nothing else", then)

    @rule(lr=st.sampled_from(LRS), then=STEPS)
    def set_lr(self, lr: float, then: Any) -> None:
        self.world.set_lr(lr)
        self.did(f"lr {lr}", then)

    @rule(path=st.sampled_from(sorted(PATHS)), in_backward=st.booleans(), then=STEPS)
    def set_path(self, path: str, in_backward: bool, then: Any) -> None:
        self.world.set_path(path, in_backward)
        self.did(f"{path}, in backward" if in_backward else path, then)

    @rule(which=WHICH, dtype=st.sampled_from(DTYPES), then=STEPS)
    def set_dtype(self, which: int, dtype: torch.dtype, then: Any) -> None:
        self.world.set_dtype(which, dtype)
        self.did(str(dtype), then)

    @rule(which=WHICH, kind=st.sampled_from(MEMORY), then=STEPS)
    def set_memory(self, which: int, kind: str, then: Any) -> None:
        self.world.set_memory(which, kind)
        self.did(kind, then)

    @rule(then=STEPS)
    def save(self, then: Any) -> None:
        self.world.save()
        self.did("save", then)

    @rule(which=WHICH, then=STEPS)
    def load(self, which: int, then: Any) -> None:
        self.did(f"load: {self.world.load(which)}", then)

    @rule(how=st.sampled_from(["deepcopy", "pickle"]), then=STEPS)
    def duplicate(self, how: str, then: Any) -> None:
        self.world.duplicate(how)
        self.did(how, then)

    @rule(then=STEPS)
    def project(self, then: Any) -> None:
        self.world.project()
        self.did("project_", then)

    @invariant()
    def finite(self) -> None:
        if hasattr(self, "world"):
            self.world.check_finite()


def run(examples: int, **options: Any) -> None:
    done.clear()
    how = settings(max_examples=examples, stateful_step_count=30, deadline=None, **options)
    run_state_machine_as_test(Operations, settings=how)


@pytest.mark.slow
def test_every_step_is_the_oracles_whatever_is_done_between(capsys: pytest.CaptureFixture[str]):
    always_the_same = {"derandomize": True, "database": None} if EXAMPLES == IN_CI else {}
    run(EXAMPLES, **always_the_same)
    with capsys.disabled():
        print(f"\n{EXAMPLES} runs, {done['steps']} steps: {dict(sorted(done.items()))}")
    assert done["steps"] >= LEAST_STEPS
    wanted = {*GRADIENTS, *MEMORY, *PATHS, *(f"{path}, in backward" for path in PATHS)}
    wanted |= {*map(str, DTYPES), *(f"lr {lr}" for lr in LRS), "refused step", "add_group", "save"}
    wanted |= {"load: done", "load: refused", "deepcopy", "pickle", "project_"}
    rare = {name: done[name] for name in wanted if done[name] < LEAST_OF_EACH}
    assert not rare, f"operations that the machine does not carry out: {rare}"


def forgotten_bias_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nero.state, "one_minus_power", lambda beta, t: 1.0)


def forgotten_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(value: Tensor, p: Tensor, key: str, capturable: bool) -> Tensor:
        return torch.zeros_like(value) if key == "rms" else value.clone()

    monkeypatch.setattr(nero.checkpoint, "_placed", place)


def forgotten_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nero.step.plan, "in_working_dtype", lambda p, state: {})


def infinity_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = nero.state.rule_arguments

    def propagate(*given: Any) -> dict[str, Any]:
        return {**arguments(*given), "propagate": True}

    monkeypatch.setattr(nero.step.reference, "rule_arguments", propagate)


@pytest.mark.parametrize(
    "mutant",
    [forgotten_bias_correction, forgotten_state, forgotten_conversion, infinity_let_through],
)
def test_the_machine_finds_what_is_wrong(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    mutant(monkeypatch)
    phases = [Phase.generate]  # found is enough here: no smallest example
    with pytest.raises((AssertionError, RuntimeError)):
        run(40, phases=phases, derandomize=True, database=None, print_blob=False)
