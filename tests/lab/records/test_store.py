"""What identifies a run of a task, and the records of such runs."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nero_lab.data.found import FoundData
from nero_lab.experiments.run import Result, Run, find_variant, plan_run
from nero_lab.experiments.task import Variant
from nero_lab.records.store import CURVE_POINTS, Record, Records
from nero_lab.tasks.table import load_task

MNIST = FoundData("MNIST", "abc")
FASHION = FoundData("Fashion-MNIST", "def", stand_in_for="MNIST")


@pytest.fixture
def run() -> Run:
    task = load_task("deep-mlp")
    return plan_run(task, task.presets["tiny"], task.presets["tiny"].variants[0], 0.01, 0)


@pytest.fixture
def outcome() -> Result:
    return Result(
        status="finished",
        steps=8,
        seconds=1.23456789,
        metrics={"val": {"accuracy": 0.5, "loss": float("nan")}, "test": {"accuracy": 1 / 3}},
        curves={"epoch": [1, 2], "train_loss": [2.0, None], "val_accuracy": [0.25, 0.5]},
        weights="0123",
    )


def test_preset_and_variant_are_names_only(run: Run):
    assert replace(run, preset="other", variant="other").run_id == run.run_id


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": 2},
        {"optimizer": "adam"},
        {"optimizer_options": {"center": False}},
        {"lr": 0.02},
        {"seed": 1},
        {"epochs": 3},
        {"schedule": {"kind": "constant"}},
        {"warmup_epochs": 1.0},
        {"model": {"depth": 4}},
        {"data": {"train_size": 100}},
        {"loss": {"label_smoothing": 0.1}},
        {"groups": {"preset": "paper"}},
        {"clip_norm": 0.25},
        {"precision": "bf16-mixed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_configuration_is_another_run(run: Run, change):
    assert replace(run, **change).run_id != run.run_id
    assert replace(run, **change).plan_id != run.plan_id


def test_data_set_is_part_of_the_run_but_not_of_the_plan(run: Run):
    assert run.on(MNIST).run_id != run.on(FASHION).run_id
    assert run.on(MNIST).plan_id == run.on(FASHION).plan_id == run.plan_id


def test_a_run_survives_json(tmp_path: Path, run: Run, outcome: Result):
    record = Record(run.on(FASHION), outcome, data_stands_in_for="MNIST")
    Records(tmp_path).append(record)
    found = Records(tmp_path).get(run.on(FASHION))
    assert found is not None
    assert found.run == record.run
    assert found.data_stands_in_for == "MNIST"
    assert found.result.metric("val", "loss") is None
    assert found.result.metric("test", "accuracy") == 0.333333
    assert found.result.metric("train", "accuracy") is None
    assert found.result.seconds == 1.23457


def test_a_learning_rate_keeps_all_its_digits(run: Run, outcome: Result):
    run = replace(run, lr=0.1234567891234)
    assert Record.from_json(Record(run, outcome).to_json()).run == run


def test_records_are_found_without_the_data_set(tmp_path: Path, run: Run, outcome: Result):
    records = Records(tmp_path)
    assert records.get(run) is None
    records.append(Record(run.on(MNIST), replace(outcome, steps=1)))
    records.append(Record(run.on(FASHION), replace(outcome, steps=2)))
    again = Records(tmp_path)
    for wanted, steps in ((run.on(MNIST), 1), (run.on(FASHION), 2), (run, 2)):
        found = again.get(wanted)
        assert found is not None
        assert found.result.steps == steps
    assert len(again.of_task("deep-mlp")) == 2
    assert again.get(replace(run, seed=7)) is None


def test_a_record_says_where_it_ran(run: Run, outcome: Result):
    fields = json.loads(Record(run, outcome).to_json())
    assert {"torch", "platform", "cores"} <= set(fields["environment"])
    assert fields["id"] == run.run_id


def test_long_curves_are_cut_and_keep_their_end(run: Run, outcome: Result):
    curves = {"step": list(range(1, 1001)), "val_accuracy": [0.5] * 1000}
    record = Record.from_json(Record(run, replace(outcome, curves=curves)).to_json())
    kept = record.result.curves["step"]
    assert len(kept) == CURVE_POINTS
    assert kept[-1] == 1000
    gaps = {later - earlier for earlier, later in itertools.pairwise(kept)}
    assert gaps == {25}


def test_columns_of_layers_are_cut_too_and_old_records_have_none(run: Run, outcome: Result):
    layers = {"step": list(range(1, 1001)), "angle/mean/w": [None, *[0.123456789] * 999]}
    record = Record.from_json(Record(run, replace(outcome, layers=layers)).to_json())
    assert len(record.result.layers["step"]) == CURVE_POINTS
    assert record.result.layers["step"][-1] == 1000
    assert record.result.layers["angle/mean/w"][-1] == 0.123457
    fields = json.loads(record.to_json())
    del fields["result"]["layers"]
    assert Record.from_json(json.dumps(fields)).result.layers == {}
    fields["result"]["layers"] = {"step": [1, 2], "angle/mean/w": [0.1]}
    with pytest.raises(ValueError, match="different lengths"):
        Record.from_json(json.dumps(fields))


def test_a_cut_line_is_passed_over(tmp_path: Path, run: Run, outcome: Result):
    records = Records(tmp_path)
    records.append(Record(run, outcome))
    path = tmp_path / "deep-mlp.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = Records(tmp_path)
    assert again.get(run) is None
    assert list(again.unreadable()) == [(path, 1)]
    again.append(Record(run, outcome))
    assert Records(tmp_path).get(run) is not None


def test_a_record_under_a_wrong_id_is_not_used(tmp_path: Path, run: Run, outcome: Result):
    line = Record(run, outcome).to_json().replace('"lr": 0.01', '"lr": 0.1')
    (tmp_path / "deep-mlp.jsonl").write_text(line + "\n")
    records = Records(tmp_path)
    assert records.of_task("deep-mlp") == []
    assert list(records.unreadable()) == [(tmp_path / "deep-mlp.jsonl", 1)]


def test_records_that_are_set_aside_get_names_of_their_own(tmp_path: Path, run: Run, outcome):
    records = Records(tmp_path)
    assert records.set_aside("deep-mlp") is None
    for number in (1, 2):
        records.append(Record(run, replace(outcome, steps=number)))
        assert records.set_aside("deep-mlp") == tmp_path / f"deep-mlp.jsonl.{number}"
        assert records.get(run) is None
        kept = (tmp_path / f"deep-mlp.jsonl.{number}").read_text()
        assert Record.from_json(kept).result.steps == number


def test_where_weights_come_from_is_part_of_a_run_that_starts_from_some(run: Run):
    digests = {replace(run, start=start).plan_id for start in (None, *STARTS)}
    assert len(digests) == 1 + len(STARTS)


STARTS = (
    {"run": "0", "fresh": []},
    {"run": "1", "fresh": []},
    {"run": "0", "fresh": ["head"]},
)


def test_a_run_without_a_start_has_the_id_of_records_that_knew_none():
    task = load_task("deep-mlp")
    preset = task.presets["cpu"]
    run = plan_run(task, preset, preset.variants[0], 0.01, 0)
    recorded = Records(Path(__file__).parents[3] / "results" / "cpu")
    assert recorded.get(run) is not None


def test_customary_warmup_only_where_the_recipe_has_none(run: Run):
    task = load_task("deep-mlp")
    preset = task.presets["paper"]
    adam = find_variant(preset, "adam")
    assert plan_run(task, preset, adam, 1e-3, 0).warmup_epochs == 0.05 * 50
    warm = replace(preset, schedule=replace(preset.schedule, warmup_epochs=5))
    assert plan_run(task, warm, adam, 1e-3, 0).warmup_epochs == 0
    assert plan_run(task, preset, find_variant(preset, "nero"), 1e-3, 0).warmup_epochs == 0


def test_an_optimiser_that_averages_keeps_its_rate_after_the_recipe_s_warmup(run: Run):
    task = load_task("deep-mlp")
    preset = task.presets["paper"]
    preset = replace(preset, schedule=replace(preset.schedule, warmup_epochs=5))
    averaging = Variant("averaging", "Averaging", "schedule-free")
    schedule = plan_run(task, preset, averaging, 1e-3, 0).schedule
    assert schedule["kind"] == "constant"
    assert schedule["warmup_epochs"] == 5
