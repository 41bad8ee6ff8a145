"""What keeping the weights in bfloat16 costs a small language model, by how they are rounded."""

from nero_lab.experiments.task import Variant
from nero_lab.studies.run import Study, full_grid
from nero_lab.tasks.small_lm import BATCH, CONTEXT, SmallLM

_LRS = (0.001, 0.01)
_WEIGHTS = (
    ("float32", "float32", "nearest"),
    ("bfloat16, stochastic rounding", "bfloat16", "stochastic"),
    ("bfloat16, rounding to nearest", "bfloat16", "nearest"),
)
"""label, dtype of weights, gradients and activations, rounding of new weights"""


def precision_study(quick: bool) -> Study:
    """Return the study; the quick version is far too small to compare anything."""
    task = SmallLM()
    base = task.presets["tiny" if quick else "cpu"]
    sizes = {"train_tokens": 500 * BATCH * CONTEXT, "eval_tokens": 16_384}
    comparison = full_grid(
        task,
        "precision",
        [_variant(*each) for each in _WEIGHTS],
        quick,
        model={**base.model, **({} if quick else {"width": 64})},
        data={**base.data, **({} if quick else sizes)},
        notes=(
            'Preset "paper". In bfloat16 weights, gradients and activations are bfloat16; the '
            "loss is computed in float32 and Nero's state is float32.",
            "Byte-level BPE, learned on the training text.",
        ),
    )
    return Study("Weights in bfloat16", (comparison,))


def _variant(label: str, dtype: str, rounding: str) -> Variant:
    groups = {"preset": "paper", "head": "head", "overrides": {"*": {"rounding": rounding}}}
    return Variant(label, label, "nero", _LRS, groups=groups, model={"dtype": dtype})
