"""Constraints for heads and embeddings, hidden weights balanced: three tasks, every option.

Every group is spelled out, so that what is compared does not change with the presets of
`nero.param_groups`.
"""

from collections.abc import Mapping
from typing import Any

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Variant
from nero_lab.studies.run import Study, full_grid
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.digits_mlp import DigitsMLP
from nero_lab.tasks.fashion_cnn import FashionCNN
from nero_lab.tasks.small_lm import SmallLM

BALANCED = {"center": True, "radius": "unit"}
UNIT = {"center": False, "radius": "unit"}
INITIAL = {"center": False, "radius": "initial"}
FREE = {"center": False, "radius": None}

Options = Mapping[str, Any]

_HEADS: Mapping[str, Options] = {
    "balanced (centred, norm 1)": BALANCED,
    "unit norm": UNIT,
    "initial norm": INITIAL,
    "free norm": FREE,
    "balanced, momentum 0.9": {**BALANCED, "momentum": 0.9},
    "initial norm, momentum 0.9": {**INITIAL, "momentum": 0.9},
    "free norm, momentum 0.9": {**FREE, "momentum": 0.9},
}
_EMBEDDINGS: Mapping[str, Options] = {
    "balanced (centred, norm 1)": BALANCED,
    "free norm": FREE,
}
_TIED: Mapping[str, Options] = {
    "balanced (centred, norm 1)": BALANCED,
    "initial norm": INITIAL,
    "free norm": FREE,
    "free norm, momentum 0.9": {**FREE, "momentum": 0.9},
}
_LRS, _DIGIT_LRS = (0.01, 0.03), (0.003, 0.01)
"""The deep plain network wants lower rates."""

_LANGUAGE_NOTES = (
    "Where the head varies, the embeddings keep their initial norms; where the embeddings vary "
    "(tokens and positions), the head's norms are free, without momentum; where the token "
    "embedding is the head too, the positions keep their initial norms.",
    "Byte-level BPE, learned on the training text.",
    "The two rates were set after trials on seed 0 with a free head: in so few steps 0.003 learns "
    "little.",
)


def heads_study(quick: bool) -> Study:
    """Return the study; the quick version is far too small to compare anything."""
    return Study(
        "Constraints for heads and embeddings, hidden weights balanced",
        (
            full_grid(FashionCNN(), "heads", _head_variants("head"), quick),
            full_grid(SmallLM(), "heads", _language_variants(), quick, notes=_LANGUAGE_NOTES),
            _digits(quick),
        ),
    )


def _variant(
    varies: str, option: str, head: str | None, overrides: Mapping[str, Options], **more: Any
) -> Variant:
    groups: dict[str, Any] = {"preset": "paper", "overrides": dict(overrides)}
    if head is not None:
        groups["head"] = head
    name = f"{varies}: {option}"
    return Variant(name, name, "nero", groups=groups, **{"lr_grid": _LRS, **more})


def _head_variants(head: str, **more: Any) -> tuple[Variant, ...]:
    return tuple(
        _variant("head", name, head, {f"{head}.weight": options}, **more)
        for name, options in _HEADS.items()
    )


def _language_variants() -> tuple[Variant, ...]:
    def variant(varies: str, option: str, head: Options, embeddings: Options) -> Variant:
        overrides = {"head.weight": head, "*_embedding.weight": embeddings}
        return _variant(varies, option, "head", overrides)

    def tied(option: str, options: Options) -> Variant:
        overrides = {"position_embedding.weight": INITIAL, "token_embedding.weight": options}
        return _variant("tied embedding", option, None, overrides, model={"tied": True})

    return (
        *(variant("head", option, options, INITIAL) for option, options in _HEADS.items()),
        # Those of initial norm beside a free head are among the heads already.
        *(variant("embeddings", option, FREE, options) for option, options in _EMBEDDINGS.items()),
        variant("head and embeddings", "balanced (centred, norm 1)", BALANCED, BALANCED),
        *(tied(option, options) for option, options in _TIED.items()),
    )


def _digits(quick: bool) -> Comparison:
    task = DigitsMLP()
    depth = task.presets["tiny" if quick else "cpu"].model["depth"]
    variants = _head_variants(f"layers.{depth - 1}", lr_grid=_DIGIT_LRS)
    notes = ("PyTorch's default initial weights, which building Nero projects.",)
    return full_grid(task, "heads", variants, quick, schedule=Schedule("linear"), notes=notes)
