"""What the records say about each claim: the verdict, and the figures that it rests on.

A claim is answered by the test metric, at learning rates that were chosen on validation, and only
where all seeds are in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nero_lab.analysis.measured import Measured, Series
from nero_lab.analysis.scores import Scores, standing
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.sweeps.comparison import learned_from

Verdict = Literal["holds", "holds in part", "does not hold", "not measured"]
Evidence = Mapping[str, Measured]
"""by the name of the task"""

SPREAD = 0.1
"""How far the worst seed may be from the mean, relative to it, for training to count as reliable.
"""
TUNING = 0.05
"""How far the default rate may be from the best one, relative to it, to count as tuned."""
PARTS_OF_OTHERS = ("ablation", "granularity")
"""Experiments whose Nero is figure 6's on VGG-11 again; it is not counted thrice."""
ENOUGH = 4
"""On how many experiments at least a claim about all of them has to be seen to hold."""
STUCK = 2.0
"""Below so many times chance, a network counts as not having learned."""
SCALE = 0.05
"""From which difference in training accuracy on, the initial scale counts as having mattered."""


@dataclass(frozen=True)
class Answer:
    """A verdict and the figures that it rests on, a sentence each."""

    verdict: Verdict
    figures: tuple[str, ...]


def _all_seeds(series: Series | None, lr: float | None) -> Scores | None:
    """Return the test metric of every seed at a rate, None while any is missing."""
    if series is None or lr is None:
        return None
    scores = series.scores(lr)
    return scores if scores.values and scores.complete else None


def _best(measured: Measured | None, name: str) -> Scores | None:
    series = measured.variant(name) if measured else None
    return _all_seeds(series, series.best_lr if series else None)


def _on(measured: Measured) -> str:
    stands_in = f" for {measured.stands_in_for}" if measured.stands_in_for else ""
    return f"{measured.name} ({measured.data_name}{stands_in})"


def _unmeasured(*missing: str) -> Answer:
    return Answer("not measured", (f"Not all in yet: {', '.join(missing)}.",))


def _counted(good: int, of: int) -> Verdict:
    """Return the verdict where `good` of `of` tasks agree: all, at least half, or fewer."""
    if not of:
        return "not measured"
    return "holds" if good == of else "holds in part" if 2 * good >= of else "does not hold"


def _over_experiments(good: Sequence[bool], experiments: set[str]) -> Verdict:
    """Return the verdict on a claim about all experiments, by the variants that agree."""
    verdict = _counted(sum(good), len(good))
    return "holds in part" if verdict == "holds" and len(experiments) < ENOUGH else verdict


def _learned(scores: Scores) -> bool:
    """Return whether every seed got beyond what an untrained network reaches."""
    threshold = learned_from(scores.metric)
    ranks = map(scores.metric.rank, scores.finite)
    return len(scores.finite) == len(scores.values) and all(rank > threshold for rank in ranks)


def _near(value: float | None, target: float | None, scores: Scores, within: float) -> bool:
    """Return whether a value is no worse than a target by more than a share of the target."""
    if value is None or target is None:
        return False
    return scores.metric.rank(value) >= scores.metric.rank(target) - within * abs(target)


def _cases(evidence: Evidence, optimizer: str) -> Iterator[tuple[Measured, Series]]:
    """Yield the variants of an optimiser in all experiments; Nero's with both constraints."""
    for measured in evidence.values():
        if measured.name not in PARTS_OF_OTHERS:
            for series in measured.series:
                if series.optimizer == optimizer and series.name not in measured.extra:
                    yield measured, series


def reliable(evidence: Evidence) -> Answer:
    """Return how far Nero's seeds are apart."""
    figures, good, experiments = [], [], set()
    for measured, series in _cases(evidence, "nero"):
        scores = _all_seeds(series, series.best_lr)
        if scores is None:
            continue
        worst = scores.finite[-1] if scores.finite else None
        fine = (
            not scores.diverged
            and _learned(scores)
            and _near(worst, scores.mean, scores, within=SPREAD)
        )
        good.append(fine)
        experiments.add(measured.name)
        figures.append(
            f"{_on(measured)}, {series.label}: {scores} at {series.best_lr:g}"
            f"{'' if fine else ', which is not reliable'}."
        )
    if not good:
        return _unmeasured("Nero at its best rate in any experiment")
    return Answer(_over_experiments(good, experiments), (_score(good, "reliable"), *figures))


def _score(good: Sequence[bool], what: str) -> str:
    return f"{sum(good)} of {len(good)} variants measured: {what}."


def untuned(evidence: Evidence) -> Answer:
    """Return how far 0.01 is from the best rate."""
    figures, good, experiments = [], [], set()
    for measured, series in _cases(evidence, "nero"):
        near = _needs_no_tuning(series)
        if near is not None:
            good.append(near)
            experiments.add(measured.name)
            figures.append(
                f"{_on(measured)}, {series.label}: {series.at_default} at "
                f"{series.default_lr:g}, {series.best} at {series.best_lr:g}"
                f"{'' if near else ': tuning matters'}."
            )
    if not good:
        return _unmeasured("Nero at 0.01 and at its best rate in any experiment with a grid")
    for peer in ("sgd", "adam", "lamb"):
        found = [_needs_no_tuning(series) for _, series in _cases(evidence, peer)]
        if peers := [near for near in found if near is not None]:
            label = OPTIMIZERS[peer].label
            figures.append(f"For comparison, {label}: {_score(peers, 'no tuning needed')}")
    verdict = _over_experiments(good, experiments)
    return Answer(verdict, (_score(good, "no tuning needed"), *figures))


def _needs_no_tuning(series: Series) -> bool | None:
    """Return whether the default rate is about as good as the best; None: cannot say."""
    box, best = _all_seeds(series, series.default_lr), _all_seeds(series, series.best_lr)
    if box is None or best is None or len(series.lrs) < 2 or not _learned(best):
        return None
    return not box.diverged and _near(box.mean, best.mean, best, within=TUNING)


def where_others_fail(evidence: Evidence) -> Answer:
    """Return whether Nero trains deep-mlp where Adam and SGD do not."""
    deep = evidence.get("deep-mlp")
    nero = _best(deep, "nero")
    peers = {name: deep.variant(name) for name in ("sgd", "adam")} if deep else {}
    if deep is None or nero is None or any(s is None or s.best_lr is None for s in peers.values()):
        return _unmeasured("deep-mlp: Nero, SGD and Adam from default initial weights")
    chance = deep.metric.chance or 0.1
    figures = [f"{_on(deep)}, default initial weights: Nero {nero}."]
    stuck = []
    for series in filter(None, peers.values()):
        top = max(_every_value(series), default=0.0)
        stuck.append(top < STUCK * chance)
        figures.append(
            f"{series.label} from default weights: at most {top:.4f} over its whole grid "
            f"({', '.join(f'{lr:g}' for lr in series.lrs)})."
        )
    controls = []
    for name in ("sgd-kaiming", "adam-kaiming", "sgd-balanced", "adam-balanced"):
        scores = _best(deep, name)
        series = deep.variant(name)
        if scores is None or series is None:
            figures.append(f"The control {name} is not all in yet.")
            continue
        controls.append(standing(nero, scores))
        figures.append(f"{series.label}: {scores} at {series.best_lr:g}; Nero is {controls[-1]}.")
    trains = not nero.diverged and min(nero.finite, default=0.0) >= STUCK * chance
    if not trains or not all(stuck):
        return Answer("does not hold", tuple(figures))
    outright = len(controls) == 4 and all(each == "better" for each in controls)
    return Answer("holds" if outright else "holds in part", tuple(figures))


def _every_value(series: Series) -> list[float]:
    values = (
        record.result.metric("test", series.metric.name) for record in series.records.values()
    )
    return [value for value in values if value is not None]


def small_state(evidence: Evidence) -> Answer:
    """Return how much state Nero keeps."""
    from nero_lab.analysis.memory import bytes_of_resnet18, floats_of_layer

    figures, roots = [], []
    for width in (64, 256, 1024):
        nero, adam = floats_of_layer("nero", width), floats_of_layer("adam", width)
        roots.append(nero <= adam**0.5)
        figures.append(
            f"A {width} x {width} layer without biases: {nero} floats of Nero's, {adam} of Adam's "
            f"(root: {adam**0.5:.0f})."
        )
    whole = {name: bytes_of_resnet18(name) for name in ("nero", "sgd", "adam", "lamb")}
    counts = ", ".join(f"{OPTIMIZERS[name].label} {count:,}" for name, count in whole.items())
    share = f"{whole['nero'] / whole['adam']:.2%}"
    figures.append(
        f"torchvision's ResNet-18, state in bytes: {counts}; Nero's is {share} of Adam's."
    )
    return Answer(_counted(sum(roots), len(roots)), tuple(figures))


def _beats(
    measured: Measured | None, task: str, pairs: Sequence[tuple[str, str]], missing: str
) -> Answer:
    """Judge a claim that the first of each pair of variants beats the second."""
    figures, standings = [], []
    for one, other in pairs:
        a, b = _best(measured, one), _best(measured, other)
        if measured is None or a is None or b is None:
            return _unmeasured(f"{task}: {missing}")
        standings.append(standing(a, b))
        labels = [series.label for name in (one, other) if (series := measured.variant(name))]
        figures.append(f"{labels[0]} {a}, {labels[1]} {b}: {standings[-1]}.")
    assert measured is not None
    wins = standings.count("better")
    verdict = "holds" if wins == len(pairs) else "holds in part" if wins else "does not hold"
    return Answer(verdict, (f"On {_on(measured)}, best of grid:", *figures))


def both_constraints(evidence: Evidence) -> Answer:
    """Return how the ablation of the constraints ends."""
    pairs = [("nero", "nero-none"), ("nero", "nero-mean"), ("nero", "nero-norm")]
    return _beats(evidence.get("ablation"), "ablation", pairs, "all four variants")


def per_neuron(evidence: Evidence) -> Answer:
    """Return how relative updates of other granularity do."""
    pairs = [
        ("nero", "madam-balanced"),
        ("nero", "lamb-balanced"),
        ("nero-none", "madam"),
        ("nero-none", "lamb"),
    ]
    return _beats(evidence.get("granularity"), "granularity", pairs, "all six variants")


def projection(evidence: Evidence) -> Answer:
    """Return whether the initial scale matters to weight normalisation."""
    cwn = evidence.get("cwn")
    by_scale: dict[float, Series] = {}
    figures = []
    for series in cwn.series if cwn else ():
        if not series.at(series.default_lr):
            continue
        model = series.at(series.default_lr)[0].run.model
        ends = [_training(series, epoch) for epoch in (0, -1)]
        figures.append(
            f"{series.label}, lr {series.default_lr:g}: training accuracy "
            f"{ends[0]} after the first epoch, {ends[1]} after the last."
        )
        if model.get("reparameterised", True):
            by_scale[model.get("scale", 1.0)] = series
    small, large = (by_scale[f(by_scale)] if by_scale else None for f in (min, max))
    if cwn is None or small is None or large is None or len(by_scale) < 2:
        return _unmeasured("cwn from two initial scales")
    if not all(_training(series, 0).complete for series in (small, large)):
        return _unmeasured("cwn on every seed")
    apart = [_apart(_training(small, epoch), _training(large, epoch)) for epoch in (0, -1)]
    verdict = "holds" if all(apart) else "holds in part" if any(apart) else "does not hold"
    return Answer(verdict, (f"On {_on(cwn)}, means over seeds [worst, best]:", *figures))


def _training(series: Series, epoch: int) -> Scores:
    """Return the mean training metric over an epoch, of every seed, at the default rate."""
    records = series.at(series.default_lr)
    columns = [record.result.curves.get(f"train_{series.metric.name}", ()) for record in records]
    return Scores(
        values=tuple(column[epoch] if column else None for column in columns),
        wanted=len(series.seeds),
        diverged=sum(record.result.status == "diverged" for record in records),
        metric=series.metric,
    )


def _apart(small: Scores, large: Scores) -> bool:
    """Return whether every seed from the large scale is lower than every one from the small."""
    return bool(small.finite) and max(large.finite, default=0.0) + SCALE < small.finite[-1]
