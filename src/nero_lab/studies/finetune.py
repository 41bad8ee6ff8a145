"""Nero's presets and AdamW on networks that are trained already: two transfers.

Each seed trains a source network of its own, from which all variants of that seed start. What
building the optimiser does by itself is measured by runs of no steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nero_lab.experiments.task import Preset, Start, Task, Variant
from nero_lab.studies.heads import BALANCED
from nero_lab.studies.run import Study, full_grid
from nero_lab.sweeps.comparison import Comparison
from nero_lab.tasks.fashion_cnn import FashionCNN
from nero_lab.tasks.small_lm import BATCH, CONTEXT, SmallLM

PRESETS = ("finetune", "paper")
_GRIDS = {"nero": (1e-2, 3e-2, 1e-1, 3e-1), "adamw": (1e-3, 3e-3, 1e-2, 3e-2)}
_GRIDS_NOTE = (
    'The grids were set after trial runs on seed 0 with AdamW and Nero\'s preset "finetune", and '
    "raised until the best rates of the trials lay inside or their neighbours were level."
)


def finetune_study(quick: bool) -> Study:
    """Return the study; the quick version is far too small to compare anything."""
    return Study(
        "Fine-tuning networks that AdamW has trained", (*_images(quick), *_language(quick))
    )


def _images(quick: bool) -> tuple[Comparison, ...]:
    sizes = (
        {"train_size": 640, "val_size": 100} if quick else {"train_size": 20_000, "val_size": 2_000}
    )
    source = {"classes": [0, 1, 2, 3, 4], **sizes}
    target = {**source, "classes": [5, 6, 7, 8, 9], "train_size": 100 if quick else 500}
    return _transfer(
        FashionCNN(),
        quick,
        fresh=("head",),
        source={"model": {"classes": 5, "batch_norm": True}, "data": source},
        target={"data": target, "epochs": 1 if quick else 20, "batch_size": 32},
        notes=(
            f"Trained on {source['train_size']:,} images of classes 0 to 4 by AdamW (lr 0.001, not "
            f"tuned); fine-tuned on {target['train_size']:,} of classes 5 to 9, all layers.",
            "The head is new, with PyTorch's default initial weights. It holds nothing worth "
            'keeping, so under preset "finetune" it is balanced (an override), as "paper" has it.',
        ),
    )


def _language(quick: bool) -> tuple[Comparison, ...]:
    task = SmallLM()
    base = task.presets["tiny" if quick else "cpu"]
    steps = 4 if quick else 800
    source = {
        **base.data,
        "train_tokens": steps * BATCH * CONTEXT,
        "eval_tokens": 1024 if quick else 16_384,
    }
    tokens = 2048 if quick else 98_304
    target = {**source, "corpus": "debian-reference", "train_tokens": tokens}
    return _transfer(
        task,
        quick,
        fresh=(),
        source={"data": source},
        target={"data": target, "epochs": 1 if quick else 3},
        notes=(
            f"Trained for {steps} steps by AdamW (lr 0.001, not tuned) on An Anarchist FAQ; "
            f"fine-tuned on at most {tokens:,} tokens of the Debian Reference, all layers, with "
            "the tokenizer of the source.",
            "The head is not tied to the embedding, and comes with the trained network.",
        ),
    )


def _transfer(
    task: Task,
    quick: bool,
    *,
    fresh: tuple[str, ...],
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    notes: tuple[str, ...],
) -> tuple[Comparison, ...]:
    """Return the source, it and the target with no step made, and the target trained."""
    adamw = Variant("adamw", "AdamW", "adamw", lr_grid=(1e-3,))
    trained = full_grid(task, "source", [adamw], quick, title="the source, by AdamW", **source)
    start, new = Start(trained.preset), Start(trained.preset, fresh)
    tuned = full_grid(
        task,
        "target",
        _variants(fresh),
        quick,
        **{**source, **target, "start": new},
        title="the target, fine-tuned",
        notes=(*notes, _GRIDS_NOTE),
    )
    return (
        trained,
        _untrained(task, trained.preset, "built", "the source, optimiser built", start, ()),
        _untrained(task, tuned.preset, "before", "the target, before the first step", new, fresh),
        tuned,
    )


def _untrained(
    task: Task, preset: Preset, name: str, title: str, start: Start, fresh: tuple[str, ...]
) -> Comparison:
    """Return what the variants measure once the optimiser is built and no step is made."""
    variants = tuple(replace(each, lr_grid=()) for each in _variants(fresh))
    changes = {"variants": variants, "start": start, "notes": ()}
    return Comparison(task, replace(preset, name=name, title=title, epochs=0, **changes))


def _variants(fresh: tuple[str, ...]) -> tuple[Variant, ...]:
    """Return Nero with each preset, and AdamW."""
    nero = [
        Variant(
            f"nero-{preset}",
            f'Nero, preset "{preset}"',
            "nero",
            _GRIDS["nero"],
            groups={"preset": preset, "head": "head", **_new_head(preset, fresh)},
        )
        for preset in PRESETS
    ]
    return (*nero, Variant("adamw", "AdamW", "adamw", _GRIDS["adamw"]))


def _new_head(preset: str, fresh: tuple[str, ...]) -> dict[str, Any]:
    if preset != "finetune" or not fresh:
        return {}
    return {"overrides": {f"{module}.weight": BALANCED for module in fresh}}
