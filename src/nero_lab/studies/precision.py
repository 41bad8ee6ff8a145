"""What keeping the weights in bfloat16 costs a small language model, by how they are rounded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nero_lab.records.old import RunConfig
from nero_lab.studies.heads import CONTEXT, LM_BATCH, language_run
from nero_lab.studies.plan import Arm, Case, Study

FLOAT32 = "float32"
ARMS: Mapping[str, tuple[str, str]] = {
    FLOAT32: ("float32", "nearest"),
    "bfloat16, stochastic rounding": ("bfloat16", "stochastic"),
    "bfloat16, rounding to nearest": ("bfloat16", "nearest"),
}
"""label -> dtype of weights, gradients and activations; rounding of new weights"""


@dataclass(frozen=True)
class Sizes:
    """How large the study is."""

    seeds: tuple[int, ...]
    lrs: tuple[float, ...]
    steps: int
    eval_tokens: int
    vocabulary: int
    width: int


WHOLE = Sizes(
    seeds=(0, 1, 2),
    lrs=(0.001, 0.01),
    steps=500,
    eval_tokens=16_384,
    vocabulary=1024,
    width=64,
)
QUICK = Sizes(seeds=(0,), lrs=(0.01,), steps=4, eval_tokens=1024, vocabulary=320, width=32)


def precision_study(folders: Mapping[str, str], quick: bool) -> Study:
    """Return the study over the text in `folders`: "anarchism".

    Raises:
        MissingData: the folder lacks its files.
    """
    sizes = QUICK if quick else WHOLE
    template = language_run(folders, sizes.vocabulary, sizes.width, sizes.eval_tokens)
    tokens = sizes.steps * LM_BATCH * CONTEXT
    template = replace(template, data={**template.data, "train_tokens": tokens})
    case = Case(
        "small-lm",
        "Language model on An Anarchist FAQ",
        tuple(_arm(label, template, sizes) for label in ARMS),
        (
            'Preset "balanced". In bfloat16 weights, gradients and activations are bfloat16; the '
            "loss is computed in float32 and Nero's state is float32.",
            f"Byte-level BPE of {sizes.vocabulary} tokens, learned on the training text.",
        ),
        reference=FLOAT32,
    )
    return Study(
        name="precision",
        title="Weights in bfloat16",
        cases=(case,),
        seeds=sizes.seeds,
        seconds={"small-lm": 0.04},
        left_out="one seed, one learning rate and a few steps on a small network: it shows how the "
        "study goes, and compares nothing."
        if quick
        else "",
    )


def _arm(label: str, template: RunConfig, sizes: Sizes) -> Arm:
    dtype, rounding = ARMS[label]
    groups: dict[str, Any] = {
        "preset": "balanced",
        "head": "head",
        "overrides": {"*": {"rounding": rounding}},
    }
    run = replace(template, model={**template.model, "dtype": dtype}, groups=groups)
    return Arm("weights", label, run, sizes.lrs, default_lr=0.01)
