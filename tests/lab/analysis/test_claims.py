"""The paper's claims are answered by their stated criteria, from records and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from lab.fake_records import fake_records
from lab.fake_tasks import ADAM, NERO, SGD, fake_comparison
from nero_lab.analysis.claims import CLAIMS, answers
from nero_lab.analysis.measured import Measured, measure
from nero_lab.analysis.verdicts import Answer
from nero_lab.experiments.run import Run
from nero_lab.experiments.task import Variant
from nero_lab.sweeps.comparison import Comparison

VERDICTS = {claim.key: claim.verdict for claim in CLAIMS}


def measured(comparison: Comparison, end: Callable[[Run], float | None]) -> Measured:
    """Return the experiment with every run recorded; a run that ends with None diverged."""

    def ending(run: Run) -> tuple[float | None, str]:
        value = end(run)
        return value, "diverged" if value is None else "finished"

    return measure(comparison, fake_records(comparison, ending))[0]


def answer_to(key: str, *experiments: Measured) -> Answer:
    return VERDICTS[key]({each.name: each for each in experiments})


def by_variant(values: Mapping[str, float], spread: float = 0.001) -> Callable[[Run], float]:
    return lambda run: values[run.variant] + spread * run.seed


def test_without_records_nothing_is_measured_but_memory():
    verdicts = {claim.key: answer.verdict for claim, answer in answers({})}
    assert verdicts.pop("C4") == "holds"
    assert verdicts == dict.fromkeys(verdicts, "not measured")
    assert len(verdicts) == 6


def test_c1_asks_every_seed_to_finish_and_to_agree():
    steady = measured(fake_comparison(NERO, name="a"), lambda run: 0.8 + 0.01 * run.seed)
    apart = measured(fake_comparison(NERO, name="b"), lambda run: 0.8 - 0.15 * run.seed)
    breaks = measured(fake_comparison(NERO, name="c"), lambda run: None if run.seed == 1 else 0.8)
    chance = measured(fake_comparison(NERO, name="d"), lambda run: 0.1)
    assert answer_to("C1", steady).verdict == "holds in part"  # one experiment is not enough
    four = [
        measured(fake_comparison(NERO, name=name), lambda run: 0.8 + 0.01 * run.seed)
        for name in "wxyz"
    ]
    assert answer_to("C1", *four).verdict == "holds"
    half = answer_to("C1", steady, apart)
    assert half.verdict == "holds in part"
    assert "1 of 2 variants measured" in half.figures[0]
    assert answer_to("C1", steady, apart, breaks).verdict == "does not hold"
    assert answer_to("C1", chance).verdict == "does not hold"


CONTROLS = [
    replace(
        variant,
        name=f"{variant.name}-{init}",
        label=f"{variant.label}, {init}",
        model={"init": init},
    )
    for variant in (SGD, ADAM)
    for init in ("kaiming", "balanced")
]


@pytest.mark.parametrize(
    ("adam", "control", "nero", "verdict"),
    [
        (0.1, 0.5, 0.8, "holds"),
        (0.1, 0.9, 0.8, "holds in part"),
        (0.3, 0.5, 0.8, "does not hold"),
        (0.1, 0.5, 0.12, "does not hold"),
    ],
    ids=["outright", "not against a good start", "Adam learns too", "Nero does not"],
)
def test_c2_shows_default_weights_and_the_control(adam, control, nero, verdict):
    values = {"nero": nero, "sgd": 0.1, "adam": adam} | {
        variant.name: control for variant in CONTROLS
    }
    comparison = fake_comparison(NERO, SGD, ADAM, *CONTROLS, name="deep-mlp")
    answer = answer_to("C2", measured(comparison, by_variant(values)))
    assert answer.verdict == verdict
    text = " ".join(answer.figures)
    assert f"Adam, kaiming: {control + 0.001:.4f}" in text
    assert "Adam, balanced" in text


def test_c2_one_rate_at_which_a_peer_learns_is_enough():
    values = by_variant({"nero": 0.8, "sgd": 0.1, "adam": 0.1})

    def end(run: Run) -> float:
        return 0.5 if (run.variant, run.lr) == ("sgd", 0.1) else values(run)

    comparison = fake_comparison(NERO, SGD, ADAM, name="deep-mlp")
    assert answer_to("C2", measured(comparison, values)).verdict == "holds in part"
    assert answer_to("C2", measured(comparison, end)).verdict == "does not hold"


def test_c3_compares_the_default_with_the_best_and_says_how_peers_do():
    def end(run: Run) -> float | None:
        if run.variant == "nero":
            return 0.8 if run.lr == 0.01 else 0.5
        return 0.8 if run.lr == 1e-4 else 0.5

    tuned = measured(fake_comparison(NERO, ADAM, name="a"), end)
    answer = answer_to("C3", tuned)
    assert answer.verdict == "holds in part"  # one experiment is not enough to say more
    four = [measured(fake_comparison(NERO, ADAM, name=name), end) for name in "wxyz"]
    assert answer_to("C3", *four).verdict == "holds"
    assert "For comparison, Adam: 0 of 1 variants" in answer.figures[-1]

    wide = measured(fake_comparison(NERO, name="b"), lambda run: 0.8 if run.lr == 1e-3 else 0.5)
    assert answer_to("C3", wide).verdict == "does not hold"
    assert answer_to("C3", tuned, wide).verdict == "holds in part"

    def breaks(run: Run) -> float | None:
        return None if run.lr == 0.01 and run.seed == 2 else 0.8

    assert answer_to("C3", measured(fake_comparison(NERO, name="c"), breaks)).verdict != "holds"
    nothing = measured(fake_comparison(NERO, name="d"), lambda run: 0.1)
    assert answer_to("C3", nothing).verdict == "not measured"


def test_c4_counts_real_state():
    answer = answer_to("C4")
    assert answer.verdict == "holds"
    assert "64 x 64 layer without biases: 64 floats of Nero's, 8192 of Adam's" in answer.figures[0]
    assert "ResNet-18" in answer.figures[-1]


ABLATION = [
    Variant(name, name, name, (0.01,)) for name in ("nero-none", "nero-mean", "nero-norm", "nero")
]


@pytest.mark.parametrize(
    ("norm", "verdict"), [(0.6, "holds"), (0.8, "holds in part"), (0.9, "holds in part")]
)
def test_c5_better_means_every_seed(norm, verdict):
    values = {"nero-none": 0.5, "nero-mean": 0.6, "nero-norm": norm, "nero": 0.8}
    ablation = measured(
        fake_comparison(*ABLATION, name="ablation"), by_variant(values, spread=0.005)
    )
    assert answer_to("C5", ablation).verdict == verdict


GRANULARITY = [
    Variant(name, name, name, (0.01,))
    for name in ("nero-none", "lamb", "madam", "nero", "lamb-balanced", "madam-balanced")
]


@pytest.mark.parametrize(
    ("free_lamb", "verdict"), [(0.5, "holds"), (0.7, "holds in part"), (0.9, "holds in part")]
)
def test_c6_asks_for_both_with_and_without_constraints(free_lamb, verdict):
    comparison = fake_comparison(*GRANULARITY, name="granularity")
    values = dict.fromkeys((variant.name for variant in GRANULARITY), 0.4)
    values |= {"nero": 0.8, "nero-none": 0.7, "lamb": free_lamb}
    answer = answer_to("C6", measured(comparison, by_variant(values)))
    assert answer.verdict == verdict
    assert "nero 0.8010 [0.8000, 0.8020], madam-balanced" in answer.figures[1]


def test_c5_does_not_hold_where_nothing_is_better():
    worst = {"nero-none": 0.5, "nero-mean": 0.6, "nero-norm": 0.6, "nero": 0.4}
    ablation = measured(fake_comparison(*ABLATION, name="ablation"), by_variant(worst))
    assert answer_to("C5", ablation).verdict == "does not hold"
    some = measured(fake_comparison(ABLATION[0], name="ablation"), by_variant(worst))
    assert answer_to("C5", some).verdict == "not measured"


@pytest.mark.parametrize(
    ("large", "verdict"), [(0.3, "holds"), (0.9, "does not hold"), (0.87, "does not hold")]
)
def test_c7_looks_at_the_initial_scale(large, verdict):
    variants = [
        Variant(f"adam-{scale}", f"Adam, scale {scale}", "adam", (0.001,), model={"scale": scale})
        for scale in (1, 100)
    ]
    values = {"adam-1": 0.9, "adam-100": large}
    cwn = measured(fake_comparison(*variants, name="cwn", epochs=1), by_variant(values))
    answer = answer_to("C7", cwn)
    assert answer.verdict == verdict
    assert "Adam, scale 100" in answer.figures[-1]
    only = measured(fake_comparison(variants[0], name="cwn"), by_variant(values))
    assert answer_to("C7", only).verdict == "not measured"
