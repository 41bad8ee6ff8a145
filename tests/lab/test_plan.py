import dataclasses

import pytest

from nero_lab.plan import Arm, Plan, Preset
from nero_lab.records.old import RecordStore, RunRecord, RunResult

ARM = Arm(depth=3, optimizer="adam", init="default")


@pytest.fixture
def plan(preset: Preset) -> Plan:
    return Plan(dataclasses.replace(preset, arms=(("adam", "default"),)))


@pytest.fixture
def put(plan: Plan, store: RecordStore, result: RunResult):
    """Return a function that records one run of ARM with the accuracies given."""

    def put(lr: float, seed: int = 0, **changes) -> None:
        measured = dataclasses.replace(result, **changes)
        store.append(RunRecord(plan.config(ARM, lr, seed), measured))

    return put


def _due(plan: Plan, store: RecordStore) -> set[tuple[float, int]]:
    return {(config.lr, config.seed) for config in plan.due(store.get)}


def test_first_the_grid_on_the_first_seed_and_the_default_on_all(plan: Plan, store: RecordStore):
    assert _due(plan, store) == {(1e-4, 0), (1e-3, 0), (1e-2, 0), (1e-3, 1), (1e-3, 2)}
    assert plan.best_lr(ARM, store.get) is None
    assert len(plan.remaining_at_most(store.get)) == 5 + 2


def test_best_lr_is_chosen_by_validation_and_not_by_test(plan: Plan, store: RecordStore, put):
    put(1e-4, val_metric=0.5, test_metric=0.9, train_metric=0.9)
    put(1e-3, val_metric=0.6, test_metric=0.2, train_metric=0.2)
    put(1e-2, val_metric=0.7, test_metric=0.1, train_metric=0.1)
    assert plan.best_lr(ARM, store.get) == 1e-2
    assert {(1e-2, 1), (1e-2, 2)} <= _due(plan, store)
    assert (1e-4, 1) not in _due(plan, store)
    assert len(plan.remaining_at_most(store.get)) == 4


def test_all_seeds_together_may_prefer_the_default(plan: Plan, store: RecordStore, put):
    for lr, accuracy in ((1e-4, 0.7), (1e-3, 0.6), (1e-2, 0.5)):
        put(lr, val_metric=accuracy)
    for seed in (1, 2):
        put(1e-3, seed=seed, val_metric=0.9, test_metric=0.1)
    put(1e-4, seed=1, val_metric=0.7, test_metric=0.9)
    due = _due(plan, store)
    assert plan.best_lr(ARM, store.get) == 1e-4  # the last of its seeds is not in yet
    put(1e-4, seed=2, val_metric=0.7, test_metric=0.9)
    assert plan.best_lr(ARM, store.get) == 1e-3
    assert _due(plan, store) == due


def test_ties_go_to_the_default(plan: Plan, store: RecordStore, put):
    for lr in (1e-4, 1e-3, 1e-2):
        put(lr, val_metric=0.4)
    assert plan.best_lr(ARM, store.get) == 1e-3


def test_differences_at_chance_choose_nothing(plan: Plan, store: RecordStore, put):
    for lr, accuracy in ((1e-4, 0.11), (1e-3, 0.09), (1e-2, 0.12)):
        put(lr, val_metric=accuracy)
    assert plan.best_lr(ARM, store.get) == 1e-3
    put(1e-4, val_metric=0.16)
    assert plan.best_lr(ARM, store.get) == 1e-4


def test_warmup_goes_to_those_whose_row_says_so(preset: Preset, store: RecordStore):
    warmup = {run.optimizer: run.warmup_epochs for run in Plan(preset).due(store.get)}
    assert warmup == {"nero": 0, "sgd": 0, "adam": 1, "lamb": 1}


def test_diverged_runs_lose_to_all_others(plan: Plan, store: RecordStore, put):
    put(1e-4, val_metric=0.1)
    put(1e-3, val_metric=0.9, status="diverged")
    put(1e-2, val_metric=0.2)
    assert plan.best_lr(ARM, store.get) == 1e-2


def test_all_arms_of_a_depth_get_the_same_steps_and_schedule(preset: Preset, store: RecordStore):
    plan = Plan(preset)
    shared = {
        (run.epochs, run.batch_size, run.lr_decay, run.model["width"], run.data["split_seed"])
        for run in plan.due(store.get)
    }
    assert len(shared) == 1
    arms = {(run.optimizer, run.model["init"]) for run in plan.due(store.get)}
    assert {("adam", "kaiming"), ("sgd", "kaiming"), ("nero", "default")} < arms
