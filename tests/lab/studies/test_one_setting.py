"""The benchmark of one setting: scores by hand, rows that are whole, and a quick run of it all."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from lab.tiny_data import (
    write_cifar,
    write_fashion_mnist,
    write_pairs,
    write_texts,
    write_wikitext,
)
from nero_lab.cli.app import app
from nero_lab.experiments.run import Result as RunResult
from nero_lab.experiments.run import Run, variant_spec
from nero_lab.experiments.task import Metric
from nero_lab.models.mlp import PlainMLP
from nero_lab.records.store import Records
from nero_lab.studies.one_setting import command
from nero_lab.studies.one_setting.cases import cases
from nero_lab.studies.one_setting.collect import collect
from nero_lab.studies.one_setting.command import Benchmark, run_benchmark
from nero_lab.studies.one_setting.contestants import CONTESTANTS, DRAWN, PARTS
from nero_lab.studies.one_setting.scores import (
    Cell,
    Result,
    area,
    best_single_lr,
    profile,
    ratios,
    regret_over,
)
from nero_lab.studies.one_setting.table import tables
from nero_lab.sweeps.jobs import Event, Job, train_job

ACCURACY = Metric("accuracy", "fraction", "higher")
LOSS = Metric("loss", "nats", "lower")


def cell(val: float | None, test: float | None, *curve: float) -> Cell:
    """With a value of the curve every ten steps."""
    return Cell(val, test, [(10.0 * (i + 1), value) for i, value in enumerate(curve)], 0.1)


# Best of all at its best rate, by validation: "a" at 0.1, 0.9 on the test part.
IMAGES = Result(
    "images",
    ACCURACY,
    chance=0.1,
    cells={
        "a": {
            0.01: cell(0.7, 0.74, 0.2, 0.5, 0.7),
            0.1: cell(0.9, 0.9, 0.5, 0.87, 0.9),
            1.0: cell(None, None),
        },
        "b": {
            0.01: cell(0.8, 0.82, 0.5, 0.7, 0.8),
            0.1: cell(0.85, 0.86, 0.3, 0.6, 0.86),
            1.0: cell(0.3, 0.1, 0.1, 0.2, 0.3),
        },
    },
)
# Best: "b" at 1, 2 nats; chance 4.
TEXT = Result(
    "text",
    LOSS,
    chance=4.0,
    cells={
        "a": {
            0.01: cell(2.5, 2.6, 3.0, 2.6, 2.5),
            0.1: cell(4.5, 4.4, 4.5, 4.5, 4.5),
            1.0: cell(2.8, 2.8, 3.0, 2.9, 2.8),
        },
        "b": {
            0.01: cell(3.0, 3.0, 3.9, 3.5, 3.0),
            0.1: cell(2.2, 2.2, 2.5, 2.3, 2.2),
            1.0: cell(2.0, 2.0, 2.3, 2.05, 2.0),
        },
    },
)
RESULTS = (IMAGES, TEXT)


def test_regret_is_the_share_of_what_can_be_learned() -> None:
    # On the test part from 0.1 to 0.9 and from 4 to 2.
    assert IMAGES.regret("a", 0.01) == pytest.approx(0.16 / 0.8)
    assert IMAGES.regret("b", 0.1) == pytest.approx(0.04 / 0.8)
    assert TEXT.regret("a", 1.0) == pytest.approx(0.8 / 2)
    assert TEXT.regret("b", 1.0) == 0
    assert IMAGES.regret("a", 0.01, "val") == pytest.approx(0.2 / 0.8)


def test_chance_worse_and_divergence_are_a_regret_of_1() -> None:
    assert IMAGES.regret("b", 1.0) == 1
    assert TEXT.regret("a", 0.1) == 1
    assert IMAGES.regret("a", 1.0) == 1


def test_better_than_the_best_by_validation_is_no_negative_regret() -> None:
    other = {0.01: cell(0.8, 0.95), 0.1: cell(0.85, 0.0)}
    lucky = replace(IMAGES, cells={**IMAGES.cells, "b": other})
    assert lucky.best("test") == 0.9
    assert lucky.regret("b", 0.01) == 0


def test_regret_over_tasks_at_a_setting() -> None:
    found = regret_over(RESULTS, "b", {"images": 0.01, "text": 0.1})
    assert (found.where, found.worst) == ("images", pytest.approx(0.08 / 0.8))
    assert found.mean == pytest.approx((0.08 / 0.8 + 0.2 / 2) / 2)


def test_the_best_single_rate_has_the_least_worst_regret_on_validation() -> None:
    # a: 0.01 has 0.25 and 0.25; 0.1 has 0 and 1; 1 has 1 and 0.4.
    # b: 0.01 has 0.125 and 0.5; 0.1 has 0.0625 and 0.1; 1 has 0.75 and 0.
    assert best_single_lr(RESULTS, "a") == 0.01
    assert best_single_lr(RESULTS, "b") == 0.1


def test_rates_as_good_as_the_best() -> None:
    near = {0.01: cell(0.893, 0.1), 0.1: cell(0.9, 0.1), 1.0: cell(0.85, 0.1), 10.0: cell(None, 0)}
    assert replace(IMAGES, cells={"a": near}).good_lrs("a") == [0.01, 0.1]


def test_the_best_rate_between_those_of_the_grid_is_the_peak_of_a_parabola() -> None:
    def parabola(lrs: Sequence[float], peak: float) -> dict[float, Cell]:
        return {lr: cell(0.9 - 0.1 * math.log10(lr / peak) ** 2, 0.1) for lr in lrs}

    cells = {
        "inside": parabola((1e-4, 0.015, 0.05, 0.15, 10), 0.07),
        "at the end": parabola((0.01, 0.03, 0.1), 0.3),
        "beside a run that diverged": {**parabola((0.01, 0.03), 0.04), 0.1: cell(None, None)},
    }
    found = replace(IMAGES, cells=cells)
    assert found.peak_lr("inside") == pytest.approx(0.07)
    assert found.peak_lr("at the end") == 0.1
    assert found.peak_lr("beside a run that diverged") == 0.03
    loss = {0.1: cell(3.0, 3.0), 1.0: cell(2.0, 2.0), 10.0: cell(3.0, 3.0)}
    assert replace(TEXT, cells={"a": loss}).peak_lr("a") == pytest.approx(1.0)


def test_best_rates_of_a_series_and_their_ratio() -> None:
    labels, one = {"a": "A", "b": "B"}, {"a": 0.1, "b": 0.1}
    series = {"images": "layers", "text": "layers"}
    text = tables(RESULTS, labels, one, one, series)
    # At the ends of the grids, or beside a run that diverged, but for b on images.
    assert "| optimiser | layers | all of these |" in text
    assert "| A | 0.01 to 0.1, 10 | 0.01 to 0.1, 10 |" in text
    assert f"| B | {IMAGES.peak_lr('b'):.2g} to 1, {1 / IMAGES.peak_lr('b'):.0f} |" in text
    assert 0.01 < IMAGES.peak_lr("b") < 0.1
    assert "layers" not in tables(RESULTS, labels, one, one, {"images": "layers"})


def test_steps_to_the_target_and_the_profile() -> None:
    # Targets: 0.9 - 0.05 * 0.8 = 0.86 and 2 + 0.05 * 2 = 2.1.
    best = {name: {each.case: each.best_lr(name) for each in RESULTS} for name in ("a", "b")}
    assert best == {"a": {"images": 0.1, "text": 0.01}, "b": {"images": 0.1, "text": 1.0}}
    steps = [[each.steps_to_target(n, best[n][each.case]) for each in RESULTS] for n in ("a", "b")]
    assert steps == [[20, math.inf], [30, 20]]
    found = ratios(RESULTS, best)
    assert found == {"a": [1, math.inf], "b": [1.5, 1]}
    assert [profile(found["b"], r) for r in (1, 1.4, 1.5, 4)] == [0.5, 0.5, 1, 1]
    # The profile of b is 1/2 from 1 to 1.5, and 1 from there to 4.
    assert area(found["b"]) == pytest.approx((0.5 * 0.5 + 2.5) / 3)
    assert area(found["a"]) == 0.5


def test_where_none_reaches_the_target_all_have_failed() -> None:
    slow = {"a": {each.case: 1.0 for each in RESULTS}}
    assert ratios(RESULTS, slow) == {"a": [math.inf, math.inf]}
    assert area([math.inf]) == 0


# ------------------------------------------------------------------ what is run


@pytest.mark.parametrize("quick", [False, True])
def test_every_task_has_every_contestant_on_runs_of_its_own(quick: bool) -> None:
    names = [each.name for each in cases(quick)]
    assert len(set(names)) == len(names)
    for case in cases(quick):
        comparison = case.comparison(CONTESTANTS, (0,), quick)
        due = comparison.due(lambda run: None)
        starts = 5  # contestants with isometric weights, which only plain chains have
        distinct = len(CONTESTANTS) - (0 if case.chain else starts)
        assert len({run.variant for run in due}) == len(CONTESTANTS)
        assert len({replace(run, lr=0.0).plan_id for run in due}) == distinct
        assert {run.seed for run in due} == {0}


def test_grids_are_half_decades_around_the_default_and_the_same_on_all_tasks() -> None:
    assert {each.name for each in CONTESTANTS} >= set(DRAWN)
    for each in CONTESTANTS:
        spec = variant_spec(each.variant(chain=True))
        assert spec.default_lr in spec.lr_grid
        steps = [b / a for a, b in zip(spec.lr_grid, spec.lr_grid[1:], strict=False)]
        assert all(2.9 < step < 3.5 for step in steps)


def test_a_grid_grows_by_half_decades_beyond_its_ends_alone() -> None:
    (each,) = (each for each in CONTESTANTS if each.name == "schedule-free")
    assert each.with_rate_beyond(2.5e-3) == each
    assert each.with_rate_beyond(2.5e-2).lr_grid == (*each.lr_grid, 8e-2)
    longer = each.with_rate_beyond(2.5e-4).with_rate_beyond(8e-5)
    assert longer.lr_grid == (2.5e-5, 8e-5, *each.lr_grid)
    short = PARTS[0]
    assert len(short.lr_grid) == 3
    assert short.with_rate_beyond(1.5e-1).lr_grid == (*short.lr_grid, 5e-1)


def test_parts_differ_from_the_recommendation_in_their_options_alone() -> None:
    recommended, *others = PARTS
    (whole,) = (each for each in CONTESTANTS if each.name == recommended.name)
    assert replace(recommended, lr_grid=whole.lr_grid) == whole
    assert set(recommended.lr_grid) < set(whole.lr_grid)
    model = PlainMLP(3, 8)
    for each in others:
        assert each.lr_grid == recommended.lr_grid
        spec = variant_spec(each.variant(chain=True))
        optimizer = spec.build_for(model, batch=(torch.randn(4, 64),))
        (weights,) = (
            group for group in optimizer.param_groups if "layers.1.weight" in group["param_names"]
        )
        assert {key: weights[key] for key in each.optimizer_options} == each.optimizer_options


def test_the_first_tasks_are_of_different_kinds() -> None:
    assert len({case.task for case in cases(quick=False)[:4]}) == 3


# ------------------------------------------------------------------ rows, budget, resuming


class MadeUp:
    """A pool that makes results up: accuracy falls with the distance to a rate of 0.01."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.left = stop_after
        self.trained: list[Run] = []
        self.queue: list[Job] = []

    def __enter__(self) -> "MadeUp":
        return self

    def __exit__(self, *exc: object) -> None:
        self.queue.clear()

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def wait(self) -> list[Event]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        job = self.queue.pop(0)
        self.trained.append(job.run)
        value = 0.5 + 0.1 * abs(math.log10(job.run.lr / 0.01)) + 0.01 * job.run.seed
        part = {"unexplained variance": value}
        curves = {"step": [5, 10], "val_unexplained variance": [0.9, value]}
        parts = {"val": part, "test": part}
        return [Event("finished", job, result=RunResult("finished", 10, 1.0, parts, curves))]


FEW = tuple(each for each in CONTESTANTS if each.name in ("nero", "adamw"))
# AdamW's best rate, 0.01, is the last of its grid, and so a further one is trained.
RUNS = sum(len(each.lr_grid) for each in FEW) + 1


def regressions(seeds: Sequence[int]) -> Benchmark:
    chosen = tuple(each for each in cases(quick=False) if each.task == "diabetes")
    return Benchmark(chosen, FEW, tuple(seeds))


def run(plan: Benchmark, folder: Path, pool: MadeUp, minutes: float | None = None) -> int:
    console = Console(quiet=True)
    return run_benchmark(plan, folder, minutes, folder, None, lambda: pool, False, console)


def test_task_after_task_and_further_seeds_last(tmp_path: Path) -> None:
    pool = MadeUp()
    assert run(regressions((0, 1, 2)), tmp_path, pool) == 0
    order = list(dict.fromkeys((run.seed > 0, run.preset) for run in pool.trained))
    assert order == [
        (False, "diabetes"),
        (False, "diabetes-standardised"),
        (True, "diabetes"),
        (True, "diabetes-standardised"),
    ]
    first = [run for run in pool.trained if run.seed == 0]
    assert len(first) == 2 * RUNS
    # Of the others the default rate (0.01 and 0.001) and, where it is another, the best (0.01).
    others = {(run.variant, run.lr) for run in pool.trained if run.seed}
    assert others == {("nero", 0.01), ("adamw", 0.001), ("adamw", 0.01)}


def test_after_the_budget_no_task_is_begun_and_the_last_one_is_whole(tmp_path: Path) -> None:
    clock = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.time, "monotonic", lambda: 60.0 * next(clock))
        assert run(regressions((0,)), tmp_path, pool := MadeUp(), minutes=1) == 0
    assert {run.preset for run in pool.trained} == {"diabetes"}
    assert len(pool.trained) == RUNS


def test_an_interrupted_benchmark_goes_on_and_shows_what_is_whole(tmp_path: Path) -> None:
    plan = regressions((0,))
    assert run(plan, tmp_path, MadeUp(stop_after=3)) == 130
    assert not (tmp_path / "table.md").exists()
    assert run(plan, tmp_path, MadeUp(stop_after=RUNS)) == 130
    table = (tmp_path / "table.md").read_text()
    assert "| optimiser | diabetes |\n" in table
    rest = MadeUp()
    assert run(plan, tmp_path, rest) == 0
    assert len(rest.trained) == 2 * RUNS - 3 - RUNS
    assert "| optimiser | diabetes | diabetes-standardised |" in (tmp_path / "table.md").read_text()


def test_results_are_what_is_recorded(tmp_path: Path) -> None:
    plan = regressions((0, 1))
    run(plan, tmp_path, MadeUp())
    result, _ = collect(plan.cases, FEW, Records(tmp_path), plan.seeds, quick=False)
    assert result.chance == 1.0
    assert result.best_lr("adamw") == 0.01
    # Of seed 0 alone away from the default and the best rate.
    # The best is the last of its grid: a further one was tried.
    assert {lr: len(cell.tests) for lr, cell in result.cells["adamw"].items()} == {
        1e-4: 1,
        3e-4: 1,
        1e-3: 2,
        3e-3: 1,
        1e-2: 2,
        3e-2: 1,
    }
    assert result.cells["adamw"][1e-2].test == pytest.approx(0.505)
    assert result.cells["adamw"][1e-3].seconds == 0.1
    assert result.steps_to_target("adamw", 1e-2) == 10
    table = (tmp_path / "table.md").read_text()
    # At the default: nero's 0.505; AdamW's 0.605 of what goes from 1 to 0.505.
    assert "| Nero, the paper | 0.01 | 0.000 (diabetes) | 0.000 | 1.00, 100% | 0.01 |" in table
    assert f"| AdamW | 0.001 | {0.1 / 0.495:.3f} (diabetes) | {0.1 / 0.495:.3f} |" in table
    assert "| AdamW | 0.6, 0.61 | 0.6, 0.61 |" in table  # seed by seed


# ------------------------------------------------------------------ from end to end


class Serial(MadeUp):
    """A pool that trains in this process."""

    def wait(self) -> list[Event]:
        job = self.queue.pop(0)
        return [Event("finished", job, result=train_job(job, lambda progress: None))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("data")
    write_fashion_mnist(top / "fashion-mnist")
    write_fashion_mnist(top / "mnist")
    write_texts(top / "anarchism")
    write_cifar(top / "cifar-10")
    write_wikitext(top / "wikitext-2")
    write_pairs(top / "multi30k")
    return top


def study(data: Path, out: Path) -> str:
    arguments = ["study", "one-setting", "--quick", "--data", str(data), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


# Adapters start at zero, and the task of the GAN says which axes count its neurons.
@pytest.mark.filterwarnings("ignore:parameter 'adapters:UserWarning")
@pytest.mark.filterwarnings("ignore:parameters behind a parametrisation:UserWarning")
def test_a_quick_benchmark_from_end_to_end_and_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nero_lab.sweeps.grid.open_pool", lambda *where: Serial)
    three = ("nero-for-model", "adamw", "muon")
    monkeypatch.setattr(command, "CONTESTANTS", [c for c in CONTESTANTS if c.name in three])
    study(data, tmp_path)
    for name in ("profiles.png", "best-rates.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    table = (tmp_path / "table.md").read_text()
    names = [each.name for each in cases(quick=True)]
    assert f"| optimiser | {' | '.join(names)} |" in table
    records = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert {path.stem for path in records} == {each.task for each in cases(quick=True)}
    output = study(data, tmp_path)
    assert output.count("runs are recorded already") == len(names)
    assert records == {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert (tmp_path / "table.md").read_text() == table


def test_chance_of_the_gan_is_measured_without_a_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gan,) = (each for each in cases(quick=True) if each.chance is None)
    plan = Benchmark((gan,), FEW, (0,), quick=True)
    run_benchmark(plan, tmp_path, None, tmp_path, data, Serial, False, Console(quiet=True))
    (result,) = collect(plan.cases, FEW, Records(tmp_path), (0,), quick=True)
    untrained = [each for each in Records(tmp_path).of_task("cgan") if not each.result.steps]
    assert [each.result.metric("test", gan.measure) for each in untrained] == [result.chance]
