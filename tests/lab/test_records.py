import dataclasses
import json

import pytest

from nero_lab.records.old import RecordStore, RunConfig, RunRecord, RunResult


@pytest.fixture
def record(config: RunConfig, result: RunResult) -> RunRecord:
    return RunRecord(config, result)


def test_round_trip(store: RecordStore, record: RunRecord):
    store.append(record)
    (line,) = store.path.read_text().splitlines()
    assert json.loads(line)["run"] == record.config.run_id
    assert RecordStore(store.path).get(record.config) == record


def test_says_where_it_ran(record: RunRecord):
    assert {"python", "torch", "platform", "cores"} <= set(record.environment)
    assert record.config.software["torch"] == record.environment["torch"]


def test_numbers_that_are_not_finite_become_null(record: RunRecord):
    curves = {"train_loss": [float("nan"), float("inf")]}
    record = dataclasses.replace(record, result=dataclasses.replace(record.result, curves=curves))
    line = record.to_json()
    assert "NaN" not in line
    assert json.loads(line)["result"]["curves"]["train_loss"] == [None, None]


def test_line_cut_short_is_passed_over_and_its_run_is_redone(store: RecordStore, record: RunRecord):
    other = dataclasses.replace(record, config=dataclasses.replace(record.config, seed=1))
    store.append(record)
    store.append(other)
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:-40])

    cut = RecordStore(store.path)
    assert cut.unreadable == 1
    assert cut.get(record.config) == record
    assert cut.get(other.config) is None

    cut.append(other)
    mended = RecordStore(store.path)
    assert mended.get(other.config) == other
    assert mended.get(record.config) == record


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 2e-3},
        {"seed": 1},
        {"epochs": 3},
        {"batch_size": 64},
        {"lr_decay": 0.8},
        {"warmup_epochs": 0},
        {"model": {"depth": 4, "width": 16, "init": "default"}},
        {"data": {"split_seed": 1}},
        {"software": {"torch": "0.1"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_recipe_is_another_run(store: RecordStore, record: RunRecord, change):
    store.append(record)
    assert RecordStore(store.path).get(dataclasses.replace(record.config, **change)) is None


def test_record_under_a_wrong_id_is_not_used(store: RecordStore, record: RunRecord):
    store.path.write_text(record.to_json().replace('"lr": 0.001', '"lr": 0.1') + "\n")
    found = RecordStore(store.path)
    assert found.unreadable == 1
    assert not found.records
