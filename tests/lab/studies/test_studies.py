"""The studies: what they vary, what they start from, and that they run from end to end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lab.fake_records import fake_record
from lab.tiny_data import write_fashion_mnist, write_texts
from nero_lab.cli.app import app
from nero_lab.experiments.run import Run, find_variant, variant_spec
from nero_lab.optimizers import find_optimizer
from nero_lab.records.store import Record, Records
from nero_lab.studies.finetune import finetune_study
from nero_lab.studies.heads import heads_study
from nero_lab.studies.precision import precision_study
from nero_lab.studies.run import Study
from nero_lab.sweeps import grid
from nero_lab.sweeps.comparison import Comparison
from nero_lab.sweeps.jobs import Event, Job, train_job

STUDIES: dict[str, Callable[[bool], Study]] = {
    "heads": heads_study,
    "finetune": finetune_study,
    "precision": precision_study,
}
DATA = {
    "heads": ("fashion-mnist", "anarchism"),
    "finetune": ("fashion-mnist", "anarchism", "debian-reference"),
    "precision": ("anarchism",),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("data")
    write_fashion_mnist(top / "fashion-mnist")
    write_texts(top / "anarchism")
    write_texts(top / "debian-reference", "install the package and read its manual before you ask")
    return top


class InThisProcess:
    """A pool that trains when it is waited for."""

    def __init__(self) -> None:
        self.queue: list[Job] = []

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def wait(self) -> list[Event]:
        job = self.queue.pop(0)
        return [Event("finished", job, result=train_job(job, lambda progress: None))]

    @contextmanager
    def open(self) -> Iterator["InThisProcess"]:
        yield self


class Interrupted(InThisProcess):
    """One that is interrupted before it trains anything."""

    def wait(self) -> list[Event]:
        raise KeyboardInterrupt


def command(name: str, data: Path, out: Path) -> list[str]:
    return ["study", name, "--quick", "--jobs", "1", "--data", str(data), "--out", str(out)]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that runs a quick study once, and returns its folder."""
    done: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in done:
            out = done[name] = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(grid, "open_pool", lambda *_: InThisProcess().open)
                result = CliRunner().invoke(app, command(name, data, out))
            assert result.exit_code == 0, result.output
        return done[name]

    return run


def at(study: Study, name: str, task: str) -> Comparison:
    return next(c for c in study.comparisons if (c.preset.name, c.task.name) == (name, task))


def runs(comparison: Comparison, lr: float = 0.01, seed: int = 0) -> list[Run]:
    return [comparison.run(variant, lr, seed) for variant in comparison.variants]


def test_heads_varies_what_it_says_and_nothing_else():
    comparisons = heads_study(quick=False).comparisons
    assert sum(len(each.due(lambda run: None)) for each in comparisons) == (7 + 14 + 7) * 2 * 3
    for comparison in comparisons:
        first, *others = planned = runs(comparison)
        for run in others:
            assert replace(run, groups=first.groups, model=first.model, variant="") == replace(
                first, variant=""
            )
        options = [(str(run.groups), run.model.get("tied")) for run in planned]
        assert len(set(options)) == len(options)


@pytest.mark.parametrize("quick", [True, False])
def test_heads_spells_out_every_group(quick: bool):
    for comparison in heads_study(quick).comparisons:
        for variant in comparison.variants:
            run = comparison.run(variant, 0.01, 0)
            optimizer = find_optimizer("nero").build_for(
                comparison.task.build_model(**run.model), 0.01, groups=run.groups
            )
            by_name = {n: g for g in optimizer.param_groups for n in g["param_names"]}
            groups: Any = run.groups
            varies, _, option = variant.label.partition(": ")
            name = f"{groups.get('head')}.weight" if varies == "head" else "token_embedding.weight"
            group = by_name[name]
            assert group["center"] == ("balanced" in option)
            radius = "initial" if "initial" in option else "unit"
            assert group["radius"] == (None if "free" in option else radius)
            assert group["momentum"] == (0.9 if "momentum" in option else 0.0)
            if varies == "head" and "position_embedding.weight" in by_name:
                kept = by_name["position_embedding.weight"]
                assert (kept["center"], kept["radius"]) == (False, "initial")
            hidden = [g for g in optimizer.param_groups if g["role"] == "weight"]
            assert {(g["center"], g["radius"], g["momentum"]) for g in hidden} == {
                (True, "unit", 0.0)
            }


def test_precision_varies_the_dtype_and_the_rounding_and_nothing_else():
    (comparison,) = precision_study(quick=False).comparisons
    reference, *others = runs(comparison)
    settings = [
        (run.model["dtype"], run.groups["overrides"]["*"]["rounding"])  # pyright: ignore
        for run in others
    ]
    assert settings == [("bfloat16", "stochastic"), ("bfloat16", "nearest")]
    for run in others:
        same = {"model": reference.model, "groups": reference.groups, "variant": reference.variant}
        assert replace(run, **same) == reference


def test_precision_starts_alike_and_ends_apart(trained):
    records = Records(trained("precision")).of_task("small-lm")
    ends = {record.run.variant: record.result.metric("test", "loss") for record in records}
    assert len(set(ends.values())) == 3


def test_every_rate_is_tried_on_every_seed_and_the_mean_decides():
    comparison = at(heads_study(quick=False), "heads", "fashion-cnn")
    variant = comparison.variants[0]
    values = {0.01: (0.7, 0.7, 0.7), 0.03: (0.9, 0.5, 0.5)}
    records: dict[str, Record] = {}
    for lr, by_seed in values.items():
        for seed, value in enumerate(by_seed):
            assert comparison.best_lr(variant, lambda run: records.get(run.plan_id)) is None
            run = comparison.run(variant, lr, seed)
            records[run.plan_id] = fake_record(run, comparison.task.metric, value)
    assert comparison.best_lr(variant, lambda run: records.get(run.plan_id)) == 0.01


def test_fine_tuning_waits_for_its_own_seeds_weights(tmp_path: Path):
    study = finetune_study(quick=False)
    sources = [at(study, "source", task) for task in ("fashion-cnn", "small-lm")]
    planned = {run.plan_id: run for each in sources for run in each.due(lambda run: None)}
    assert study.starts == set(planned)
    for comparison in study.comparisons:
        for run in comparison.due(lambda run: None):
            if comparison.preset.name == "source":
                assert run.start is None
            else:
                assert run.start is not None
                source = planned[run.start["run"]]
                assert (source.task, source.seed) == (run.task, run.seed)


def test_finetune_preset_changes_nothing_and_paper_does(trained):
    records = Records(trained("finetune"))
    for task, metric in (("fashion-cnn", "accuracy"), ("small-lm", "loss")):
        by_preset = {
            (record.run.preset, record.run.variant): record.result
            for record in records.of_task(task)
        }
        source = by_preset["source", "adamw"]
        for variant in ("adamw", "nero-finetune"):
            built = by_preset["built", variant]
            assert built.steps == 0
            assert built.weights == source.weights
            assert built.metrics == source.metrics
        paper = by_preset["built", "nero-paper"]
        assert paper.weights != source.weights
        assert paper.metric("val", metric) != source.metric("val", metric)


def test_a_new_head_is_fresh_and_the_rest_is_kept(trained, data: Path):
    out = trained("finetune")
    comparison = at(finetune_study(quick=True), "before", "fashion-cnn")
    run = comparison.run(find_variant(comparison.preset, "adamw"), 0.001, 0)
    assert run.start is not None
    assert run.start["fresh"] == ["head"]
    weights = out / "weights" / f"{run.start['run']}.pt"
    kept = torch.load(weights, weights_only=True)
    torch.manual_seed(0)
    fresh = comparison.task.build_model(**run.model).state_dict()
    found = comparison.task.find_data(data, **run.data)
    result = train_job(
        Job(run.on(found), "fashion-cnn", data, weights=out / "new.pt", start=weights),
        lambda progress: None,
    )
    assert result.steps == 0
    for name, value in torch.load(out / "new.pt", weights_only=True).items():
        assert torch.equal(value, (fresh if name.startswith("head.") else kept)[name])


def test_a_run_that_starts_from_weights_asks_for_them(data: Path):
    comparison = at(finetune_study(quick=True), "before", "fashion-cnn")
    run = runs(comparison)[0]
    run = run.on(comparison.task.find_data(data, **run.data))
    with pytest.raises(ValueError, match="starts from the weights of run"):
        train_job(Job(run, "fashion-cnn", data), lambda progress: None)


@pytest.mark.parametrize("name", STUDIES)
def test_missing_data_are_reported_and_the_rest_is_trained(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(grid, "open_pool", lambda *_: InThisProcess().open)
    monkeypatch.setattr("nero_lab.sweeps.due.train_missing_runs", lambda *_: 0)
    result = CliRunner().invoke(app, command(name, tmp_path / "none", tmp_path))
    assert result.exit_code == 1
    assert result.output.count("Get it:") == len(STUDIES[name](True).comparisons) - (
        name == "heads"  # the digits need no files
    )


@pytest.mark.parametrize("name", STUDIES)
def test_a_quick_study_from_end_to_end_and_again(trained, name: str, data: Path):
    out = trained(name)
    made = {path.name for path in out.iterdir() if path.is_file()}
    tasks = {each.task.name for each in STUDIES[name](True).comparisons}
    files = {"report.html", "table.md", "curves.png", "curves.svg"}
    assert made - {"new.pt"} == {*files, *(f"{task}.jsonl" for task in tasks)}
    table = (out / "table.md").read_text()
    for comparison in STUDIES[name](True).comparisons:
        for variant in comparison.variants:
            assert f"| {variant.label} | {variant_spec(variant).default_lr:g} |" in table
    records = {task: (out / f"{task}.jsonl").read_bytes() for task in tasks}
    again = CliRunner().invoke(app, command(name, data, out))
    assert again.exit_code == 0, again.output
    assert "runs are recorded already" in again.output
    assert records == {task: (out / f"{task}.jsonl").read_bytes() for task in tasks}


def test_weights_without_a_record_are_not_started_from(data: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "weights").mkdir()
    for plan_id in finetune_study(quick=True).starts:
        (tmp_path / "weights" / f"{plan_id}.pt").write_bytes(b"of other data")
    pool = Interrupted()
    monkeypatch.setattr(grid, "open_pool", lambda *_: pool.open)
    assert CliRunner().invoke(app, command("finetune", data, tmp_path)).exit_code == 130
    assert {job.run.preset for job in pool.queue} == {"source"}


def test_lost_weights_are_trained_again(trained, data: Path, monkeypatch):
    out = trained("finetune")
    weights = sorted((out / "weights").iterdir())
    contents = [path.read_bytes() for path in weights]
    for path in weights:
        path.unlink()
    monkeypatch.setattr(grid, "open_pool", lambda *_: InThisProcess().open)
    result = CliRunner().invoke(app, command("finetune", data, out))
    assert result.exit_code == 0, result.output
    assert [path.read_bytes() for path in weights] == contents
