"""Which runs an experiment needs, and how many and how long they still take."""

import math
from collections.abc import Callable

import pytest

from lab.fake_records import by_distance, fake_record, fake_records
from lab.fake_tasks import ACCURACY, ADAM, NERO, PERPLEXITY, fake_comparison
from nero_lab.analysis.catalogue import figure_of, select
from nero_lab.experiments.run import Run
from nero_lab.experiments.task import Metric
from nero_lab.records.store import Record, Records
from nero_lab.sweeps.comparison import Comparison, learned_from
from nero_lab.sweeps.estimate import cheapest_first, minutes, remaining
from nero_lab.sweeps.selection import Outcome, best_lr

Find = Callable[[Run], Record | None]


class Book:
    """Records by plan, made as the test says."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.records: dict[str, Record] = {}

    def put(self, lr: float, seed: int = 0, value: float | None = 0.5, **changes) -> None:
        run = self.comparison.run(self.comparison.variants[0], lr, seed)
        record = fake_record(run, self.comparison.task.metric, value, **changes)
        self.records[run.plan_id] = record

    def find(self, run: Run) -> Record | None:
        return self.records.get(run.plan_id)

    def due(self) -> set[tuple[float, int]]:
        return {(run.lr, run.seed) for run in self.comparison.due(self.find)}

    @property
    def best(self) -> float | None:
        return self.comparison.best_lr(self.comparison.variants[0], self.find)


@pytest.fixture
def adam() -> Book:
    return Book(fake_comparison(ADAM))


def test_first_the_grid_on_the_first_seed_and_the_default_on_all(adam: Book):
    assert adam.due() == {(1e-4, 0), (1e-3, 0), (1e-2, 0), (1e-3, 1), (1e-3, 2)}
    assert adam.best is None
    assert len(list(adam.comparison.undecided(adam.find))) == 2


def test_the_default_is_trained_even_where_the_grid_leaves_it_out():
    variant = type(NERO)("nero", "Nero", "nero", lr_grid=(1e-4, 1e-3))
    book = Book(fake_comparison(variant))
    assert (1e-2, 0) in book.due()


def test_the_best_rate_is_chosen_by_validation_and_not_by_test(adam: Book):
    adam.put(1e-4, value=0.5, test=0.9)
    adam.put(1e-3, value=0.6, test=0.2)
    adam.put(1e-2, value=0.7, test=0.1)
    assert adam.best == 1e-2
    assert {(1e-2, 1), (1e-2, 2)} < adam.due()
    assert (1e-4, 1) not in adam.due()
    assert list(adam.comparison.undecided(adam.find)) == []


def test_all_seeds_together_may_prefer_the_default(adam: Book):
    for lr, value in ((1e-4, 0.7), (1e-3, 0.6), (1e-2, 0.5)):
        adam.put(lr, value=value)
    for seed in (1, 2):
        adam.put(1e-3, seed, 0.9)
    adam.put(1e-4, 1, 0.7)
    due = adam.due()
    assert adam.best == 1e-4  # the last of its seeds is not in yet
    adam.put(1e-4, 2, 0.7)
    assert adam.best == 1e-3
    assert adam.due() == due


def test_ties_go_to_the_default_and_differences_at_chance_are_ties(adam: Book):
    for lr, value in ((1e-4, 0.11), (1e-3, 0.09), (1e-2, 0.12)):
        adam.put(lr, value=value)
    assert adam.best == 1e-3
    adam.put(1e-4, value=0.16)
    assert adam.best == 1e-4


def test_diverged_runs_lose_to_all_others(adam: Book):
    adam.put(1e-4, value=0.11)
    adam.put(1e-3, value=0.9, status="diverged")
    adam.put(1e-2, value=None)
    assert adam.best == 1e-4


def test_lower_is_better_where_the_metric_says_so():
    book = Book(fake_comparison(ADAM, metric=PERPLEXITY))
    for lr, value in ((1e-4, 90.0), (1e-3, 80.0), (1e-2, 70.0)):
        book.put(lr, value=value)
    assert book.best == 1e-2


def test_without_a_validation_part_the_test_part_decides(adam: Book):
    for lr, value in ((1e-4, 0.5), (1e-3, 0.4), (1e-2, 0.3)):
        adam.put(lr, value=value, splits=("train", "test"))
    assert adam.best == 1e-4


def test_equals_go_to_the_favoured_rate_and_then_to_the_smaller():
    equal = {lr: [Outcome(True, 0.5)] for lr in (0.1, 0.01, 0.001)}
    assert best_lr(equal, ACCURACY, favoured=0.1) == 0.1
    assert best_lr(equal, ACCURACY, favoured=1.0) == 0.001


def test_what_remains_is_estimated_from_recorded_times(tmp_path):
    comparison = fake_comparison(NERO, ADAM)
    store = Records(tmp_path)
    nothing = remaining(comparison, store.get)
    assert (nothing.runs, nothing.seconds, nothing.recorded) == (2 * 7, None, 0)
    assert "time not known yet" in str(nothing)
    every = fake_records(comparison, by_distance(0.9, 0.1, {"nero": 1e-2, "adam": 1e-4}))
    for record in every[:4]:
        store.append(record)
    some = remaining(comparison, store.get)
    assert some.recorded == 4
    each = every[0].result.seconds
    assert some.seconds == pytest.approx(each * some.runs, rel=0.5)
    for record in every[4:]:
        store.append(record)
    done = remaining(comparison, store.get)
    # Adam's best rate is another than its default, Nero's is not.
    assert (done.runs, done.recorded) == (0, 5 + 7)
    assert "all 12 runs are recorded" in str(done)
    assert cheapest_first([nothing, some, done]) == [done, some, nothing]


def test_times_for_people():
    assert [minutes(s) for s in (40, 600, 9000)] == ["40 s", "10 min", "2.5 h"]


def test_experiments_by_figure_and_by_name():
    assert figure_of(fake_comparison(figure="3 right").task) == "fig3"
    assert figure_of(fake_comparison().task) is None
    every = {c.task.name for c in select([], "cpu")}
    assert [c.task.name for c in select(["deep-mlp"], "cpu")] == ["deep-mlp"]
    assert "deep-mlp" in [c.task.name for c in select(["fig3"], "cpu")]
    assert len(select(["all"], "cpu")) == len(select([], "cpu")) == len(select(list(every), "cpu"))
    with pytest.raises(ValueError, match=r"no figure or experiment 'fig99'.*fig3.*deep-mlp"):
        select(["fig99"], "cpu")
    with pytest.raises(ValueError, match=r"no experiment has a preset 'huge'.*cpu"):
        select([], "huge")


def test_what_counts_as_learned_is_beyond_chance_on_either_side_of_zero():
    accuracy = Metric("accuracy", "fraction", "higher", chance=0.1)
    assert learned_from(accuracy) == pytest.approx(0.15)
    returns = Metric("return", "points", "higher", chance=-20.7)
    assert -20.7 < learned_from(returns) == pytest.approx(-13.8)
    assert learned_from(Metric("perplexity", "", "lower")) == -math.inf
