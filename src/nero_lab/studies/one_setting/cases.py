"""The tasks of the benchmark: which presets, how bad chance is, and which series they belong to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nero_lab.experiments.run import variant_spec
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Metric, Variant
from nero_lab.studies.one_setting.contestants import Contestant
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.small_lm import BATCH, CONTEXT
from nero_lab.tasks.table import load_task

UNTRAINED = Variant("untrained", "no step made", "sgd", lr_grid=(), default_lr=1e-3)


@dataclass(frozen=True)
class Case:
    """A task at a preset of its own."""

    name: str
    task: str
    """one of `nero tasks`"""
    measure: str
    """the metric that regret is counted in, of those that the task evaluates"""
    chance: float | None
    """what a network that has learned nothing reaches in it; None: one that has made no step is
    measured"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """fields of the preset that are others than in "cpu" """
    quick: Mapping[str, Any] = field(default_factory=dict)
    """fields of the preset that are others than in "tiny", in the quick version"""
    chain: bool = False
    """whether the network is a plain chain, whose initial weights are an option"""
    series: tuple[str, int] | None = None
    """of what, and how much of it, where it is one of a series of depths or widths"""

    @property
    def metric(self) -> Metric:
        """Return the metric that regret is counted in."""
        own = load_task(self.task).metric
        return own if own.name == self.measure else Metric(self.measure, "nats", "lower")

    def comparison(
        self, contestants: Sequence[Contestant], seeds: Sequence[int], quick: bool
    ) -> Comparison:
        """Return the runs of the contestants: the grid on the first seed, the rest on all."""
        variants = [each.variant(self.chain) for each in contestants]
        if quick:
            variants = [
                replace(each, lr_grid=(variant_spec(each).default_lr,)) for each in variants
            ]
        return self._comparison(self.name, variants, seeds, quick)

    def preparations(self, quick: bool) -> list[Comparison]:
        """Return what is trained or measured besides: sources of weights, untrained networks."""
        found = []
        start = self._comparison(self.name, [UNTRAINED], (0,), quick).preset.start
        if start is not None:
            found.append(Comparison(load_task(self.task), replace(start.preset, seeds=(0, 1, 2))))
        if self.chance is None:
            found.append(self._comparison(f"{self.name}, untrained", [UNTRAINED], (0,), quick, 0))
        return found

    def _comparison(
        self,
        name: str,
        variants: Sequence[Variant],
        seeds: Sequence[int],
        quick: bool,
        epochs: int | None = None,
    ) -> Comparison:
        task = load_task(self.task)
        base = task.presets["tiny" if quick else "cpu"]
        changes = {**(self.quick if quick else self.changes)}
        if epochs is not None:
            changes["epochs"] = epochs
        preset = replace(
            base,
            name=name,
            title=name,
            variants=tuple(variants),
            seeds=tuple(seeds),
            grid_seeds=1,
            **changes,
        )
        return Comparison(task, preset)


_DEPTH, _WIDTH = "layers of a plain MLP", "width of a plain MLP"


def _mlp(name: str, series: str, depth: int, width: int, images: int) -> Case:
    return Case(
        name,
        "deep-mlp",
        "accuracy",
        0.1,
        {
            "epochs": 10,
            "schedule": Schedule("linear"),
            "model": {"depth": depth, "width": width},
            "data": {"train_size": images, "val_size": 2_000, "test_size": 5_000},
            "groups": {"head": f"layers.{depth - 1}"},
            "deviations": f"{depth} layers of width {width}, {images // 10:,} steps, linear decay.",
        },
        {"groups": {"head": "layers.2"}},
        chain=True,
        series=(series, depth if series == _DEPTH else width),
    )


def _lm(
    name: str,
    depth: int,
    width: int,
    vocabulary: int,
    steps: int,
    series: tuple[str, int] | None = None,
) -> Case:
    return Case(
        name,
        "small-lm",
        "loss",
        math.log(vocabulary),
        {
            "epochs": 10,
            "model": {
                "vocabulary": vocabulary,
                "context": CONTEXT,
                "width": width,
                "depth": depth,
            },
            "data": {
                "corpus": "anarchism",
                "tokenizer": "anarchism",
                "vocabulary": vocabulary,
                "context": CONTEXT,
                "train_tokens": steps * BATCH * CONTEXT,
                "eval_tokens": 16_384,
                "epoch_steps": steps // 10,
            },
        },
        series=series,
    )


def _gpt(depth: int) -> Case:
    series = ("blocks of a GPT", depth)
    return _lm(f"gpt-{depth}", depth, width=64, vocabulary=512, steps=300, series=series)


def _cnn(kind: str, depth: int) -> Case:
    residual = kind == "residual"
    return Case(
        f"{kind}-cnn-{depth}",
        "fashion-cnn",
        "accuracy",
        0.1,
        {
            "epochs": 6,
            "batch_size": 64,
            "model": {"network": "deep-cnn", "depth": depth, "residual": residual},
            "data": {"train_size": 6_400, "val_size": 2_000, "test_size": 5_000},
            "deviations": f"A {kind} network of {depth} layers, 600 steps, linear decay.",
        },
        {"model": {"network": "deep-cnn", "depth": 6, "width": 4, "residual": residual}},
        chain=not residual,
        series=(f"layers of a {kind} CNN", depth),
    )


def _diabetes(name: str, standardised: bool) -> Case:
    data = {"data": {"standardised": standardised}}
    return Case(name, "diabetes", "unexplained variance", 1.0, data, data, chain=True)


_CASES = (
    _mlp("mlp-2", _DEPTH, 2, 64, 15_000),
    _diabetes("diabetes", standardised=False),
    _diabetes("diabetes-standardised", standardised=True),
    Case("adapters", "adapters", "accuracy", 0.2),
    _mlp("mlp-5", _DEPTH, 5, 64, 15_000),
    *(_mlp(f"mlp-width-{width}", _WIDTH, 3, width, 6_000) for width in (64, 128)),
    _mlp("mlp-20", _DEPTH, 20, 64, 15_000),
    _mlp("mlp-100", _DEPTH, 100, 64, 15_000),
    _gpt(2),
    Case("lstm", "small-lstm", "loss", math.log(512)),
    Case("vit", "small-vit", "accuracy", 0.1),
    Case(
        "vgg-11",
        "cifar",
        "accuracy",
        0.1,
        {"model": {"network": "vgg11", "width": 0.125}},
        {"model": {"network": "vgg11", "width": 0.0625}},
    ),
    Case("cgan", "cgan", "Frechet distance", None),
    _gpt(6),
    _mlp("mlp-50", _DEPTH, 50, 64, 15_000),
    Case("wikitext2", "wikitext2", "loss", math.log(4_000), {"groups": {"head": "head"}}),
    Case("translation", "translation", "loss", math.log(2_000)),
    *(_mlp(f"mlp-width-{width}", _WIDTH, 3, width, 6_000) for width in (256, 512)),
    _gpt(12),
    _lm("gpt-characters", 4, width=96, vocabulary=256, steps=400),
    Case(
        "resnet-18",
        "cifar",
        "accuracy",
        0.1,
        {"model": {"network": "resnet18", "width": 0.125}},
        {"model": {"network": "resnet18", "width": 0.0625}},
    ),
    *(_cnn(kind, depth) for depth in (8, 20, 40) for kind in ("plain", "residual")),
    _mlp("mlp-200", _DEPTH, 200, 64, 15_000),
    _gpt(24),
    *(_lm(f"gpt-{n}-steps", 4, width=64, vocabulary=512, steps=n) for n in (1_200, 3_600)),
)
"""the cheap ones first, with one of each kind among the first"""

_QUICK = ("mlp-2", "diabetes", "adapters", "gpt-2", "lstm", "vit", "vgg-11", "cgan", "wikitext2")
_QUICK_TOO = ("translation", "resnet-18", "diabetes-standardised", "plain-cnn-8", "residual-cnn-8")


_OF_PARTS = ("mlp-20", *_QUICK[1:], "translation")


def cases(quick: bool, parts: bool = False) -> tuple[Case, ...]:
    """Return the tasks, the cheap ones first; in the quick version one of each kind.

    `parts`: those on which parts of nero.for_model are left out, one of each kind.
    """
    if quick:
        return tuple(each for each in _CASES if each.name in (*_QUICK, *_QUICK_TOO))
    if parts:
        return tuple(each for each in _CASES if each.name in _OF_PARTS)
    return _CASES
