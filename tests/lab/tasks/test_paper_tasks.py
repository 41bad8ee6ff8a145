"""Each experiment of the paper: a few steps on tiny data in the format of the real ones."""

from pathlib import Path

import pytest
import torch

from lab.tiny_data import (
    write_cifar,
    write_fashion_mnist,
    write_image_folder,
    write_pairs,
    write_texts,
    write_wikitext,
)
from nero_lab.experiments.run import Run, plan_run, variant_spec
from nero_lab.experiments.task import Task
from nero_lab.tasks.table import PAPER_TASKS, load_task
from nero_lab.tasks.variants import standard_variants, with_more_rates
from nero_lab.training.context import Context
from nero_lab.training.loop import train_run

WRITERS = {
    "ablation": write_cifar,
    "granularity": write_cifar,
    "cwn": write_fashion_mnist,
    "deep-mlp": write_fashion_mnist,
    "imagenet": write_image_folder,
    "cgan": write_cifar,
    "cifar": write_cifar,
    "wikitext2": write_wikitext,
    "translation": write_pairs,
    "diabetes": write_cifar,
    "digits-mlp": write_cifar,
    "fashion-cnn": write_fashion_mnist,
    "small-lm": write_texts,
    "small-lstm": write_texts,
    "small-vit": write_fashion_mnist,
}

VARIANTS = [
    (name, variant.name) for name in WRITERS for variant in load_task(name).presets["tiny"].variants
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    written = {writer: writer(root / writer.__name__) for writer in set(WRITERS.values())}
    return {name: written[writer] for name, writer in WRITERS.items()}


def tiny_run(name: str, variant_name: str, seed: int = 0) -> tuple[Task, Run]:
    task = load_task(name)
    preset = task.presets["tiny"]
    variant = next(variant for variant in preset.variants if variant.name == variant_name)
    return task, plan_run(task, preset, variant, variant_spec(variant).default_lr, seed)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_few_steps_run_and_are_measured(name: str, variant: str, folders: dict[str, Path]):
    task, run = tiny_run(name, variant)
    found = task.find_data(folders[name], **run.data)
    if name in PAPER_TASKS:
        assert found.name == f"data of {folders[name].name}", "made-up data go by their own name"
        assert found.stand_in_for is not None
    data = task.load_data(found, run.batch_size, **run.data)
    result = train_run(task, run.on(found), Context(data_folder=folders[name], accelerator="cpu"))
    assert result.status == "finished"
    assert result.steps == run.epochs * len(data.train)
    for part in ("val", "test"):
        value = result.metric(part, task.metric.name)
        assert value is not None
        assert 0 <= value <= (1 if task.metric.name == "accuracy" else 1000)


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_seed_gives_the_same_weights(name: str, folders: dict[str, Path]):
    task, run = tiny_run(name, load_task(name).presets["tiny"].variants[0].name)
    run = run.on(task.find_data(folders[name], **run.data))
    context = Context(data_folder=folders[name], accelerator="cpu")
    torch.manual_seed(5)
    first = train_run(task, run, context).weights
    torch.manual_seed(6)
    assert train_run(task, run, context).weights == first


def test_the_networks_of_the_paper_have_the_sizes_of_the_paper():
    def build(name: str, variant: int = 0) -> torch.nn.Module:
        preset = load_task(name).presets["paper"]
        with torch.device("meta"):
            return load_task(name).build_model(**{**preset.model, **preset.variants[variant].model})

    def count(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    # 3x3 convolutions without bias; the classifier's layers with one.
    pairs = ((3, 64), (64, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 3)
    vgg = sum(9 * a * b for a, b in pairs) + 513 * 4096 + 4097 * 4096 + 4097 * 10
    for name in ("ablation", "granularity", "cifar"):
        assert count(build(name)) == vgg
    assert count(build("cwn")) == 4 * 784**2 + 784 * 10
    assert count(build("deep-mlp")) == 99 * (784**2 + 784) + 784 * 10 + 10
    assert count(build("imagenet")) == 25_557_032  # torchvision's ResNet-50
    words, layer = 33_278, 4 * 200**2 + 2 * 200**2 + 10 * 200
    assert count(build("wikitext2")) == words * 401 + 2 * layer
    attention, mlp = 4 * 512**2 + 4 * 512, 2 * 512 * 2048 + 2048 + 512
    assert count(build("translation")) == 10_000 * 512 + 6 * (3 * attention + 2 * mlp)


def test_presets_of_the_paper_are_its_section_5():
    presets = {name: load_task(name).presets["paper"] for name in PAPER_TASKS if name in WRITERS}
    settings = {name: (each.epochs, each.batch_size) for name, each in presets.items()}
    assert settings == {
        "ablation": (200, 128),
        "granularity": (200, 128),
        "cwn": (5, 250),
        "deep-mlp": (50, 250),
        "imagenet": (90, 400),
        "cgan": (120, 256),
        "cifar": (200, 128),
        "wikitext2": (20, 20),
        "translation": (100, 128),
    }
    cifar = presets["cifar"].schedule
    rates = [cifar.factor(epoch * 391, 391, 200) for epoch in (5, 99, 100, 150, 180, 199)]
    assert rates == pytest.approx([1, 1, 0.2, 0.04, 0.008, 0.008])
    assert cifar.factor(0, 391, 200) == pytest.approx(1 / (5 * 391))
    assert presets["deep-mlp"].schedule.factor(240, 240, 50) == pytest.approx(0.9)
    assert [presets["wikitext2"].schedule.factor(s, 1, 20) for s in (9, 10)] == pytest.approx(
        [1, 0.1]
    )
    assert presets["wikitext2"].clip_norm == 0.25
    assert [
        variant.optimizer_options.get("momentum") for variant in presets["cifar"].variants[1::4]
    ] == [0, 0]


def test_further_rates_join_the_grid_of_the_variant_they_name() -> None:
    nero, sgd, *_ = with_more_rates(standard_variants(grid=(0.01, 0.1)), {"nero": (0.03, 0.1)})
    assert nero.lr_grid == (0.01, 0.03, 0.1)
    assert sgd.lr_grid == (0.01, 0.1)
