"""Nero's presets and AdamW on networks that are trained already: two transfers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nero_lab.data.fashion_mnist import fashion_mnist_digest
from nero_lab.data.text import text_digest
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.records.old import RunConfig
from nero_lab.studies.heads import BALANCED, CONTEXT, LM_BATCH, language_run
from nero_lab.studies.plan import Arm, Case, Study

PRESETS = ("finetune", "paper")


@dataclass(frozen=True)
class Sizes:
    """How large the study is."""

    seeds: tuple[int, ...]
    grids: Mapping[str, tuple[float, ...]]
    """learning rates by optimiser"""
    source_images: int
    source_epochs: int
    target_images: int
    target_epochs: int
    val_images: int
    source_steps: int
    target_tokens: int
    target_passes: int
    eval_tokens: int
    vocabulary: int
    lm_width: int


WHOLE = Sizes(
    seeds=(0, 1, 2),
    grids={"nero": (1e-2, 3e-2, 1e-1, 3e-1), "adamw": (1e-3, 3e-3, 1e-2, 3e-2)},
    source_images=20_000,
    source_epochs=2,
    target_images=500,
    target_epochs=20,
    val_images=2_000,
    source_steps=800,
    target_tokens=98_304,
    target_passes=3,
    eval_tokens=16_384,
    vocabulary=1024,
    lm_width=128,
)
QUICK = Sizes(
    seeds=(0,),
    grids={"nero": (1e-2,), "adamw": (1e-3,)},
    source_images=640,
    source_epochs=1,
    target_images=100,
    target_epochs=1,
    val_images=100,
    source_steps=4,
    target_tokens=2048,
    target_passes=1,
    eval_tokens=1024,
    vocabulary=320,
    lm_width=32,
)
TARGET_BATCH = 32
_GRIDS_NOTE = (
    'The grids were set after trial runs on seed 0 with AdamW and Nero\'s preset "finetune", and '
    "raised until the best rates of the trials lay inside or their neighbours were level."
)
_SOURCE_CLASSES, _TARGET_CLASSES = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]


def finetune_study(folders: Mapping[str, str], quick: bool) -> Study:
    """Return the study over "fashion-mnist", "anarchism" and "target" in `folders`.

    `folders` also says where the trained weights go: "weights".

    Raises:
        MissingData: a folder lacks its files.
    """
    sizes = QUICK if quick else WHOLE
    return Study(
        name="finetune",
        title="Fine-tuning networks that AdamW has trained",
        cases=(_images(folders, sizes), _language(folders, sizes)),
        seeds=sizes.seeds,
        seconds={"fashion-cnn": 0.04, "small-lm": 0.055},
        left_out="one seed, one learning rate and a few steps on small networks: it shows how the "
        "study goes, and compares nothing."
        if quick
        else "",
    )


def _images(folders: Mapping[str, str], sizes: Sizes) -> Case:
    source_data = {
        "digest": fashion_mnist_digest(Path(folders["fashion-mnist"])),
        "classes": _SOURCE_CLASSES,
        "train_size": sizes.source_images,
        "val_size": sizes.val_images,
    }
    source = RunConfig(
        task="fashion-cnn",
        optimizer="adamw",
        lr=1e-3,
        seed=0,
        epochs=sizes.source_epochs,
        batch_size=128,
        lr_decay="linear",
        warmup_epochs=_warmup("adamw", sizes.source_epochs),
        model={"classes": 5, "batch_norm": True},
        data=source_data,
        optimizer_options=OPTIMIZERS["adamw"].options,
        save_weights=True,
        folders={name: folders[name] for name in ("fashion-mnist", "weights")},
    )
    target = replace(
        source,
        epochs=sizes.target_epochs,
        batch_size=TARGET_BATCH,
        data={**source_data, "classes": _TARGET_CLASSES, "train_size": sizes.target_images},
        fresh=("head",),
    )
    return Case(
        "fashion-cnn",
        "Fashion-MNIST: from classes 0-4 to classes 5-9, network with BatchNorm",
        _arms(source, target, sizes, new_head=True),
        (
            f"Trained on {sizes.source_images:,} images of the source classes by AdamW (lr 0.001, "
            f"not tuned); fine-tuned on {sizes.target_images:,} of the target classes, all layers.",
            "The head is new, with PyTorch's default initial weights. It holds nothing worth "
            'keeping, so under preset "finetune" it is balanced (an override), as "paper" has it.',
            _GRIDS_NOTE,
        ),
    )


def _language(folders: Mapping[str, str], sizes: Sizes) -> Case:
    texts = {name: folders[name] for name in ("anarchism", "target", "weights")}
    source = language_run(texts, sizes.vocabulary, sizes.lm_width, sizes.eval_tokens)
    digest = text_digest(Path(folders["target"]), "--data-target-text", "debian-reference-en")
    source = replace(
        source,
        optimizer="adamw",
        lr=1e-3,
        warmup_epochs=_warmup("adamw", 1),
        data={**source.data, "train_tokens": sizes.source_steps * LM_BATCH * CONTEXT},
        optimizer_options=OPTIMIZERS["adamw"].options,
        save_weights=True,
    )
    target = replace(
        source,
        epochs=sizes.target_passes,
        data={
            **source.data,
            "corpus": "target",
            "digests": {**source.data["digests"], "target": digest},
            "train_tokens": sizes.target_tokens,
        },
    )
    return Case(
        "small-lm",
        "Language model: from An Anarchist FAQ to another text (default: the Debian Reference)",
        _arms(source, target, sizes, new_head=False),
        (
            f"Trained for {sizes.source_steps} steps by AdamW (lr 0.001, not tuned); fine-tuned on "
            f"at most {sizes.target_tokens:,} tokens, {sizes.target_passes} times over, all "
            "layers, with the tokenizer of the source.",
            "The head is not tied to the embedding, and comes with the trained network.",
            _GRIDS_NOTE,
        ),
    )


def _arms(source: RunConfig, target: RunConfig, sizes: Sizes, new_head: bool) -> tuple[Arm, ...]:
    arms = [
        _arm(f'Nero, preset "{preset}"', "nero", _groups(preset, new_head), source, target, sizes)
        for preset in PRESETS
    ]
    return (*arms, _arm("AdamW", "adamw", None, source, target, sizes))


def _groups(preset: str, new_head: bool) -> dict[str, Any]:
    groups: dict[str, Any] = {"preset": preset, "head": "head"}
    if new_head and preset == "finetune":
        groups["overrides"] = {"head.weight": BALANCED}
    return groups


def _arm(
    label: str,
    optimizer: str,
    groups: dict[str, Any] | None,
    source: RunConfig,
    target: RunConfig,
    sizes: Sizes,
) -> Arm:
    spec = OPTIMIZERS[optimizer]
    template = replace(
        target,
        optimizer=optimizer,
        optimizer_options=spec.options,
        lr=spec.default_lr,
        warmup_epochs=_warmup(optimizer, target.epochs),
        groups=groups,
        save_weights=False,
    )
    unchanged = replace(template, data=source.data, epochs=0, warmup_epochs=0, fresh=())
    if groups and "overrides" in groups:  # they are for a new head, and this one is trained
        kept = {name: x for name, x in groups.items() if name != "overrides"}
        unchanged = replace(unchanged, groups=kept)
    return Arm(
        "optimiser",
        label,
        template,
        sizes.grids[optimizer],
        spec.default_lr,
        pretraining=source,
        on_source=unchanged,
    )


def _warmup(optimizer: str, epochs: int) -> float:
    return OPTIMIZERS[optimizer].warmup * epochs
