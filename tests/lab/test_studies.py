import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from typer.testing import CliRunner

from lab.tiny_data import write_fashion_mnist, write_texts
from nero_lab.cli.app import app
from nero_lab.records.old import RecordStore, RunConfig, RunRecord, RunResult
from nero_lab.studies.finetune import finetune_study
from nero_lab.studies.heads import heads_study
from nero_lab.studies.plan import Study
from nero_lab.studies.precision import precision_study
from nero_lab.studies.report import markdown, summary, write_report
from nero_lab.train import train, weights_path

STUDIES: dict[str, Callable[..., Study]] = {
    "heads": heads_study,
    "finetune": finetune_study,
    "precision": precision_study,
}
DATA = {
    "heads": ("fashion-mnist", "anarchism"),
    "finetune": ("fashion-mnist", "anarchism", "target"),
    "precision": ("anarchism",),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("data")
    write_fashion_mnist(top / "fashion-mnist")
    write_texts(top / "anarchism", "no gods nor masters rule over those who share")
    write_texts(top / "target", "install the package and read its manual before you configure it")
    names = ("fashion-mnist", "anarchism", "target", "weights")
    return {name: str(top / name) for name in names}


def _options(folders: dict[str, str], name: str) -> list[str]:
    flags = {"target": "--data-target-text"}
    return [x for d in DATA[name] for x in (flags.get(d, f"--data-{d}"), folders[d])]


def _recorded(study: Study, measure: Callable[[RunConfig], dict]) -> dict[str, RunRecord]:
    """Return a made-up record of every run."""
    made = {}
    for run_id, config in study.runs.items():
        numbers = {"train_metric": 0.5, "val_metric": 0.5, "test_metric": 0.5, "status": "finished"}
        result = RunResult(steps=7, seconds=1.0, curves={}, **numbers | measure(config))
        made[run_id] = RunRecord(config, result)
    return made


def _find(records: dict[str, RunRecord]):
    return lambda config: records.get(config.run_id)


def test_heads_varies_what_it_says_and_nothing_else(folders):
    study = heads_study(folders, quick=False)
    assert len(study.runs) == (7 + 14 + 7) * 2 * 3
    for case in study.cases:
        first = case.arms[0].template
        for arm in case.arms:
            same = dataclasses.replace(arm.template, groups=first.groups, model=first.model)
            assert same == first
            assert (arm.template.groups or {})["preset"] == "balanced"
        options = [(str(arm.template.groups), arm.template.model.get("tied")) for arm in case.arms]
        assert len(set(options)) == len(options)


@pytest.mark.parametrize("quick", [True, False])
def test_group_options_reach_the_optimizer(folders, quick):
    from nero_lab.tasks import load_task
    from nero_lab.train import _build_optimizer

    for case in heads_study(folders, quick).cases:
        for arm in case.arms:
            model = load_task(arm.template.task).model(**arm.template.model)
            optimizer = _build_optimizer(arm.template, model)
            head = (arm.template.groups or {}).get("head")
            name = f"{head}.weight" if arm.varies == "head" else "token_embedding.weight"
            group = next(g for g in optimizer.param_groups if name in g["param_names"])
            assert group["center"] == ("balanced" in arm.label)
            radius = "initial" if "initial" in arm.label else None
            assert group["radius"] == (None if "free" in arm.label else radius or "unit")
            assert group["momentum"] == (0.9 if "momentum" in arm.label else 0.0)
            others = [g for g in optimizer.param_groups if g["role"] == "weight"]
            assert {(g["center"], g["radius"], g["momentum"]) for g in others} == {
                (True, "unit", 0.0)
            }


def test_precision_varies_the_dtype_and_the_rounding_and_nothing_else(folders):
    (case,) = precision_study(folders, quick=True).cases
    reference, *others = (arm.template for arm in case.arms)
    dtypes = [(run.model["dtype"], run.groups["overrides"]["*"]["rounding"]) for run in others]
    assert dtypes == [("bfloat16", "stochastic"), ("bfloat16", "nearest")]
    for run in others:
        assert dataclasses.replace(run, model=reference.model, groups=reference.groups) == reference
    results = [train(run) for run in (reference, *others)]
    assert len({result.test_metric for result in results}) == 3
    starts = [result.start_metric for result in results]
    assert starts[1] == starts[2] == pytest.approx(starts[0], rel=0.01)


def test_an_arm_of_reference_is_what_the_others_are_set_against(folders):
    study = precision_study(folders, quick=False)

    def measure(config: RunConfig) -> dict:
        return {"test_metric": 4.0 if config.model["dtype"] == "float32" else 4.01 + config.lr}

    table = markdown(study, _find(_recorded(study, measure)), finished=True)
    assert "test loss against float32, by lr" in table
    rows = [line for line in table.splitlines() if line.startswith("| weights |")]
    assert "0.001: +0.28%, 0.01: +0.50%" in rows[1]
    assert "%" not in rows[0]


def test_best_rate_follows_validation_in_the_metrics_direction(folders):
    study = heads_study(folders, quick=False)
    images, language, _ = study.cases

    def measure(config: RunConfig) -> dict:
        return {"val_metric": {0.003: 0.6, 0.01: 0.7, 0.03: 0.65}[config.lr], "test_metric": 0.1}

    find = _find(_recorded(study, measure))
    assert {study.best_lr(images, arm, find) for arm in images.arms} == {0.01}
    assert {study.best_lr(language, arm, find) for arm in language.arms} == {0.03}


def test_a_rate_that_diverged_is_not_chosen_and_the_table_says_so(folders, tmp_path):
    study = heads_study(folders, quick=False)

    def measure(config: RunConfig) -> dict:
        if config.lr == 0.01 and config.seed == 1:
            return {"val_metric": float("nan"), "test_metric": float("nan"), "status": "diverged"}
        return {"val_metric": config.lr}

    store = RecordStore(tmp_path / "records.jsonl")
    for record in _recorded(study, measure).values():
        store.append(record)
    # As read from the disk, where a number that is not finite has become null.
    find = RecordStore(store.path).get
    case = study.cases[0]
    assert study.best_lr(case, case.arms[0], find) == 0.03
    table = markdown(study, find, finished=True)
    assert "not finite (1 diverged)" in table
    write_report(study, find, tmp_path, finished=True)
    row = json.loads((tmp_path / "summary.json").read_text())["cases"][0]["rows"][0]
    assert row["by_lr"]["0.01"]["val"] == {
        "mean": None,
        "values": [0.01, None, 0.01],
        "diverged": 1,
    }


def test_tables_carry_numbers_and_settings(folders):
    study = finetune_study(folders, quick=False)

    def measure(config: RunConfig) -> dict:
        start = 0.25 if config.epochs == 0 else 0.75
        return {"test_metric": 0.5 + config.seed / 8, "start_metric": start}

    table = markdown(study, _find(_recorded(study, measure)), finished=True)
    rows = [line for line in table.splitlines() if line.startswith("| optimiser |")]
    assert len(rows) == 2 * 3
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert "| 0.2500 [0.2500, 0.2500] | 0.7500 [0.7500, 0.7500] |" in rows[0]
    assert "0.6250 [0.5000, 0.7500]" in rows[0]
    assert "0.6250 [0.7500, 0.5000]" in rows[-1]  # of losses the highest is the worst
    run = study.cases[0].arms[0].template
    for told in (
        run.data["digest"],
        "batch 32",
        "7 steps",
        "seeds 0, 1, 2",
        "Not tuned",
        "warm-up",
    ):
        assert told in table


def test_tables_of_a_study_that_has_only_begun(folders):
    study = finetune_study(folders, quick=False)
    records = _recorded(study, lambda config: {})
    some = {run_id: record for run_id, record in records.items() if record.config.seed == 0}
    assert "1 of 3 seeds" in markdown(study, _find(some), finished=False)
    assert "Not all runs are in yet" in markdown(study, _find({}), finished=False)
    assert summary(study, _find({}), finished=False)["cases"][0]["rows"][0]["best_lr"] is None


def test_fine_tuning_waits_for_its_own_seeds_weights(folders):
    study = finetune_study(folders, quick=False)
    sources = study.pretraining()
    assert len(sources) == 2 * 3
    assert study.due(lambda config: None) == sources
    done = _recorded(study, lambda config: {})[sources[0].run_id]
    due = study.due(lambda config: done if config == sources[0] else None)
    started = [config for config in due if config.start_from is not None]
    assert started
    for config in started:
        assert (config.task, config.seed) == (sources[0].task, sources[0].seed)


@pytest.mark.parametrize("case", [0, 1])
def test_finetune_preset_changes_nothing_and_paper_does(folders, case):
    study = finetune_study(folders, quick=True)
    arms = {arm.label: arm for arm in study.cases[case].arms}
    source = arms["AdamW"].pretraining_config(0)
    assert source is not None
    end = train(source).val_metric

    def after_building(label: str) -> float | None:
        config = arms[label].source_config(0)
        assert config is not None
        result = train(config)
        assert result.steps == 0
        return result.start_metric

    assert after_building("AdamW") == end
    assert after_building('Nero, preset "finetune"') == end
    assert after_building('Nero, preset "paper"') != end


def test_a_new_head_is_fresh_and_the_rest_is_kept(folders):
    from nero_lab.tasks import load_task
    from nero_lab.train import _build_model

    study = finetune_study(folders, quick=True)
    arm = study.cases[0].arms[0]
    source = arm.pretraining_config(0)
    assert source is not None
    train(source)
    weights = torch.load(weights_path(source), weights_only=True)
    torch.manual_seed(5)
    model = _build_model(load_task("fashion-cnn"), arm.config(0.01, 0))
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]) != name.startswith("head.")


@pytest.mark.parametrize(("name", "case"), [("heads", 0), ("heads", 1), ("finetune", 0)])
def test_same_seed_same_result_bit_for_bit(folders, name, case):
    study = STUDIES[name](folders, quick=True)
    arm = study.cases[case].arms[-1]
    source = arm.pretraining_config(0)
    if source is not None:
        train(source)
    config = arm.config(arm.default_lr, 0)
    first = train(config)
    torch.rand(7)
    again = train(config)
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(again, seconds=0)


def test_where_data_lie_is_no_part_of_a_runs_identity(folders):
    config = heads_study(folders, quick=True).cases[0].arms[0].template
    assert dataclasses.replace(config, folders={}).run_id == config.run_id
    data = {**config.data, "digest": "0"}
    assert dataclasses.replace(config, data=data).run_id != config.run_id


@pytest.mark.parametrize("name", STUDIES)
def test_missing_data_is_a_two_line_error(folders, tmp_path, name):
    command = ["study", name, *_options(folders, name), "--out", str(tmp_path)]
    command += [f"--data-{DATA[name][0]}", str(tmp_path / "none")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 2
    package = {"fashion-mnist": "dataset-fashion-mnist"}.get(DATA[name][0], DATA[name][0])
    assert f"apt-get install {package}" in result.output


@pytest.mark.parametrize("name", STUDIES)
def test_quick_study_from_end_to_end_and_again(folders, tmp_path, monkeypatch, name):
    command = ["study", name, "--quick", "--out", str(tmp_path), "--jobs", "1"]
    command += _options(folders, name)
    if name != "finetune":  # one of them with processes is enough: they take long to start
        monkeypatch.setattr("nero_lab.sweeps.progress.local_processes", ThreadPoolExecutor)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    made = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert made == {"records.jsonl", "table.md", "summary.json", "scores.png"}
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG\r\n")
    records = (tmp_path / "records.jsonl").read_bytes()
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["finished"] is True
    assert all(row["best_lr"] for case in told["cases"] for row in case["rows"])

    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert "recorded already" in again.output
    assert (tmp_path / "records.jsonl").read_bytes() == records


def test_ctrl_c_keeps_what_is_there(folders, tmp_path, monkeypatch):
    def interrupt(*_arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nero_lab.studies.run.train_missing", interrupt)
    command = ["study", "heads", "--quick", "--out", str(tmp_path), *_options(folders, "heads")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130
    assert "The same command again trains the rest" in result.output
    assert json.loads((tmp_path / "summary.json").read_text())["finished"] is False


def test_lost_weights_are_trained_again(folders, tmp_path):
    from nero_lab.studies.run import _forget_lost_weights

    study = finetune_study({**folders, "weights": str(tmp_path / "weights")}, quick=True)
    store = RecordStore(tmp_path / "records.jsonl")
    for record in _recorded(study, lambda config: {}).values():
        store.append(record)
    _forget_lost_weights(study, store)
    assert [c for c in study.runs.values() if store.get(c) is None] == study.pretraining()
