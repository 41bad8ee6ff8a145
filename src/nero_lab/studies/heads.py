"""What the preset "balanced" should give to heads and embeddings: three tasks, every option."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nero_lab.data.fashion_mnist import fashion_mnist_digest
from nero_lab.data.text import text_digest
from nero_lab.records.old import RunConfig
from nero_lab.studies.plan import Arm, Case, Study

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
    "initial norm": INITIAL,
    "free norm": FREE,
}
_TIED: Mapping[str, Options] = {
    **_EMBEDDINGS,
    "free norm, momentum 0.9": {**FREE, "momentum": 0.9},
}


@dataclass(frozen=True)
class Sizes:
    """How large the study is."""

    seeds: tuple[int, ...]
    lrs: tuple[float, ...]
    digit_lrs: tuple[float, ...]
    """for the deep plain network, which wants lower rates"""
    images: int
    image_epochs: int
    val_images: int
    lm_steps: int
    eval_tokens: int
    vocabulary: int
    lm_width: int
    depth: int
    digit_epochs: int


WHOLE = Sizes(
    seeds=(0, 1, 2),
    lrs=(0.01, 0.03),
    digit_lrs=(0.003, 0.01),
    images=20_000,
    image_epochs=2,
    val_images=5_000,
    lm_steps=450,
    eval_tokens=32_768,
    vocabulary=1024,
    lm_width=128,
    depth=50,
    digit_epochs=100,
)
QUICK = Sizes(
    seeds=(0,),
    lrs=(0.01,),
    digit_lrs=(0.01,),
    images=640,
    image_epochs=1,
    val_images=100,
    lm_steps=4,
    eval_tokens=1024,
    vocabulary=320,
    lm_width=32,
    depth=5,
    digit_epochs=1,
)
CONTEXT = 64
LM_BATCH = 16


def heads_study(folders: Mapping[str, str], quick: bool) -> Study:
    """Return the study over the data in `folders`: "fashion-mnist" and "anarchism".

    Raises:
        MissingData: a folder lacks its files.
    """
    sizes = QUICK if quick else WHOLE
    return Study(
        name="heads",
        title="Constraints for heads and embeddings, hidden weights balanced",
        cases=(_images(folders, sizes), _language(folders, sizes), _digits(sizes)),
        seeds=sizes.seeds,
        seconds={"fashion-cnn": 0.065, "small-lm": 0.055, "digits-mlp": 0.008},
        left_out="one seed, one learning rate and a few steps on small networks: it shows how the "
        "study goes, and compares nothing."
        if quick
        else "",
    )


def _images(folders: Mapping[str, str], sizes: Sizes) -> Case:
    template = _run(
        "fashion-cnn",
        epochs=sizes.image_epochs,
        batch_size=128,
        model={"classes": 10},
        data={
            "digest": fashion_mnist_digest(Path(folders["fashion-mnist"])),
            "classes": list(range(10)),
            "train_size": sizes.images,
            "val_size": sizes.val_images,
        },
        folders={"fashion-mnist": folders["fashion-mnist"]},
    )
    return Case(
        "fashion-cnn",
        "Fashion-MNIST, small VGG-like network without normalisation",
        tuple(_arm("head", label, template, sizes, "head", o) for label, o in _HEADS.items()),
        (f"{sizes.images:,} of the 60,000 training images are learned from.",),
    )


def _language(folders: Mapping[str, str], sizes: Sizes) -> Case:
    template = language_run(
        {"anarchism": folders["anarchism"]}, sizes.vocabulary, sizes.lm_width, sizes.eval_tokens
    )
    tokens = sizes.lm_steps * LM_BATCH * CONTEXT
    template = replace(template, data={**template.data, "train_tokens": tokens})
    tied = replace(template, model={**template.model, "tied": True})
    arms = [_arm("head", label, template, sizes, "head", o) for label, o in _HEADS.items()]
    # The initial norm with a free head is among the heads already: it is the preset as it stands.
    arms += [
        _arm("embeddings", label, template, sizes, "head", FREE, {"*_embedding.weight": o})
        for label, o in _EMBEDDINGS.items()
        if o is not INITIAL
    ]
    arms.append(
        _arm(
            "head and embeddings",
            "balanced (centred, norm 1)",
            template,
            sizes,
            "head",
            BALANCED,
            {"*_embedding.weight": BALANCED},
        )
    )
    arms += [
        _arm("tied embedding", label, tied, sizes, None, {}, {"token_embedding.weight": o})
        for label, o in _TIED.items()
    ]
    return Case(
        "small-lm",
        "Language model on An Anarchist FAQ",
        tuple(arms),
        (
            "Where the head varies, the embeddings keep their initial norms; where the embeddings "
            "vary (tokens and positions), the head's norms are free, without momentum; where the "
            "token embedding is the head too, the positions keep their initial norms.",
            f"Byte-level BPE of {sizes.vocabulary} tokens, learned on the training text.",
            "The two rates were set after trials on seed 0 with a free head: in so few steps 0.003 "
            "learns little.",
        ),
    )


def language_run(folders: Mapping[str, str], vocabulary: int, width: int, tokens: int) -> RunConfig:
    """Return a run of the small language model on `anarchism`, of one epoch, but for its length."""
    folder = Path(folders["anarchism"])
    return _run(
        "small-lm",
        epochs=1,
        batch_size=LM_BATCH,
        model={"vocabulary": vocabulary, "context": CONTEXT, "width": width},
        data={
            "corpus": "anarchism",
            "tokenizer": "anarchism",
            "digests": {"anarchism": text_digest(folder, "--data-anarchism", "anarchism")},
            "vocabulary": vocabulary,
            "eval_tokens": tokens,
            "context": CONTEXT,
        },
        folders=folders,
    )


def _digits(sizes: Sizes) -> Case:
    template = _run(
        "digits-mlp",
        epochs=sizes.digit_epochs,
        batch_size=128,
        model={"depth": sizes.depth, "width": 64, "init": "default"},
        data={"split_seed": 0},
        folders={},
    )
    sizes = replace(sizes, lrs=sizes.digit_lrs)
    head = f"layers.{sizes.depth - 1}"
    return Case(
        "digits-mlp",
        f"Digits, plain network of {sizes.depth} layers",
        tuple(_arm("head", label, template, sizes, head, o) for label, o in _HEADS.items()),
        ("PyTorch's default initial weights, which building Nero projects.",),
    )


def _run(task: str, *, folders: Mapping[str, str], **options: Any) -> RunConfig:
    return RunConfig(
        task=task,
        optimizer="nero",
        lr=0.01,
        seed=0,
        lr_decay="linear",
        warmup_epochs=0,
        folders=folders,
        **options,
    )


def _arm(
    varies: str,
    label: str,
    template: RunConfig,
    sizes: Sizes,
    head: str | None,
    head_options: Options,
    others: Mapping[str, Options] | None = None,
) -> Arm:
    overrides = {**({f"{head}.weight": head_options} if head else {}), **(others or {})}
    groups = {"preset": "balanced", "overrides": overrides}
    if head:
        groups["head"] = head
    return Arm(varies, label, replace(template, groups=groups), sizes.lrs, default_lr=0.01)
