import warnings
from dataclasses import replace

import pytest
import torch

import nero
from lab.tiny_data import write_cifar, write_fashion_mnist
from nero_lab.experiments.run import find_variant, plan_run
from nero_lab.models.gan import GAN
from nero_lab.optimizers import OPTIMIZERS
from nero_lab.tasks.cgan import ConditionalGAN
from nero_lab.training.context import Context, Stopped
from nero_lab.training.loop import train_run

TASK = ConditionalGAN()


def small():
    torch.manual_seed(0)
    return GAN(base=2, classes=3, chunk=4, class_features=5, size=16, channels=1)


def noise_and_classes(rows=6):
    torch.manual_seed(1)
    return torch.randn(rows, 16), torch.arange(rows) % 3


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3)])
def test_shapes(size, channels):
    gan = GAN(base=2, size=size, channels=channels)
    noise, classes = torch.randn(4, 80), torch.arange(4)
    images = gan("generate", noise, classes)
    assert images.shape == (4, channels, size, size)
    assert images.abs().max() <= 1
    assert gan("judge", images, classes).shape == (4,)
    assert gan("judge generated", noise, classes).shape == (4,)


def test_the_papers_networks_have_64_base_features_and_four_chunks_of_20():
    gan = GAN(**TASK.presets["paper"].model)
    assert gan.generator.noise_features == 80
    assert gan.generator.linear.weight.shape == (4 * 64 * 4 * 4, 20)
    assert {block.second.weight.shape[0] for block in gan.generator.blocks} == {256}


def test_every_weight_of_both_is_under_spectral_norm():
    gan = small()
    free = [
        name
        for name, p in gan.named_parameters()
        if p.ndim > 1 and not name.endswith("parametrizations.weight.original")
    ]
    assert free == ["generator.embedding.weight"]
    for _ in range(50):  # power iterations
        weights = [
            m.weight.detach().flatten(1)
            for m in gan.modules()
            if hasattr(m, "parametrizations") and "weight" in m.parametrizations
        ]
    for w in weights:
        assert torch.linalg.svdvals(w)[0] == pytest.approx(1, abs=0.02)


def test_class_and_every_chunk_of_noise_matter():
    gan = small().eval()
    # At the start the gains and biases of the condition are all that differs between classes.
    noise, classes = noise_and_classes()
    images = gan("generate", noise, classes)
    assert not torch.equal(images, gan("generate", noise, (classes + 1) % 3))
    for chunk in range(4):
        other = noise.clone()
        other[:, 4 * chunk : 4 * chunk + 4] += 1
        assert not torch.equal(images, gan("generate", other, classes))
    judged = gan("judge", images, classes)
    assert not torch.equal(judged, gan("judge", images, (classes + 1) % 3))


@pytest.mark.parametrize(
    ("options", "message"), [({"base": 1}, "base must be"), ({"size": 20}, "size must be")]
)
def test_sizes_that_do_not_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GAN(**options)


def groups():
    return TASK.presets["cpu"].groups


def test_nero_balances_the_weights_under_spectral_norm():
    gan = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizers = [
            OPTIMIZERS["nero"].build_for(part, groups=groups())
            for part in (gan.generator, gan.discriminator)
        ]
    noise, classes = noise_and_classes()
    for _ in range(2):
        gan("judge generated", noise, classes).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    held = 0
    for name, p in gan.named_parameters():
        layout = nero.NeuronLayout(tuple(p.shape)) if p.ndim > 1 else None
        if layout is not None and layout.can_hold(center=True, normalize=True):
            assert nero.geometry.is_balanced(p.detach(), layout, atol=1e-5).all(), name
            held += 1
    assert held > 20


def train_one_batch(gan, lrs):
    """Take a step of the task with SGD; return which parts were updated, in order."""
    parts = TASK.trained_modules(gan)
    optimizers = {name: torch.optim.SGD(parts[name].parameters(), lr=lrs[name]) for name in parts}
    order = []

    def update(loss, name):
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
        order.append(name)

    torch.manual_seed(2)
    real, classes = torch.rand(6, 1, 16, 16) * 2 - 1, torch.arange(6) % 3
    numbers = TASK.training_step(gan, (real, classes), update)
    return order, numbers


def test_a_batch_trains_the_discriminator_then_the_generator():
    gan = small()
    order, numbers = train_one_batch(gan, {"generator": 0.1, "discriminator": 0.1})
    assert order == ["discriminator", "generator"]
    assert set(numbers) == {"loss", "generator_loss"}
    assert all(p.requires_grad for p in gan.parameters())


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_each_optimizer_moves_its_own_part_alone(still):
    gan = small()
    before = {name: p.detach().clone() for name, p in gan.named_parameters()}
    train_one_batch(gan, {"generator": 0.1, "discriminator": 0.1} | {still: 0.0})
    moved = {
        name.partition(".")[0]
        for name, p in gan.named_parameters()
        if not torch.equal(before[name], p)
    }
    assert moved == {"generator", "discriminator"} - {still}


def test_the_hinge_loss_of_a_discriminator_that_knows_nothing_is_two():
    gan = small()
    with torch.no_grad():
        for p in (*gan.discriminator.linear.parameters(), *gan.discriminator.parameters()):
            if p.ndim < 2:
                p.zero_()

    class Knows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = gan.generator
            self.discriminator = gan.discriminator

        def forward(self, part, inputs, classes):
            made = gan(part, inputs, classes)
            return made if part == "generate" else made * 0

    numbers = TASK.training_step(
        Knows(), (torch.zeros(3, 1, 16, 16), torch.arange(3)), lambda loss, name: None
    )
    assert numbers["loss"] == 2
    assert numbers["generator_loss"] == 0


def test_evaluation_takes_the_same_noise_every_time(tmp_path):
    options = TASK.presets["tiny"].data
    found = TASK.find_data(write_fashion_mnist(tmp_path))
    data = TASK.load_data(found, 16, **options)
    gan = GAN(**TASK.presets["tiny"].model).eval()
    with torch.no_grad():
        first = TASK.evaluate(gan, data.test)
        torch.randn(3)
        assert TASK.evaluate(gan, data.test) == first
    assert list(first) == [TASK.metric.name]
    x, y = next(iter(data.train))
    assert x.shape == (16, 1, 16, 16)
    assert -1 <= x.min() < x.max() <= 1
    assert y.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "vgg"}, "features must be"),
        ({"size": 20}, "size must be"),
        ({"channels": 2}, "channels must be"),
    ],
)
def test_data_options_that_do_not_work_are_refused(change, message, tmp_path):
    options = {**TASK.presets["tiny"].data, **change}
    with pytest.raises(ValueError, match=message):
        TASK.load_data(TASK.find_data(write_fashion_mnist(tmp_path)), 16, **options)


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (16, 1)])
def test_images_are_brought_to_size_and_from_minus_one_to_one(size, channels, tmp_path):
    options = {**TASK.presets["tiny"].data, "size": size, "channels": channels}
    images = {}
    for name, write in (("cifar", write_cifar), ("fashion", write_fashion_mnist)):
        data = TASK.load_data(TASK.find_data(write(tmp_path / name)), 16, **options)
        images[name], _ = next(iter(data.train))
        assert images[name].shape == (16, channels, size, size)
        assert -1 <= images[name].min() < images[name].max() <= 1
    # 28 pixels get a border of black; a colour that is not there is the grey.
    assert (images["fashion"][..., 0] == -1).all()
    assert (images["fashion"] == images["fashion"][:, :1]).all()


@pytest.mark.parametrize("optimizer", ["nero", "adam", "schedule-free"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(optimizer, tmp_path):
    preset = TASK.presets["tiny"]
    folder = write_fashion_mnist(tmp_path / "data")
    run = plan_run(TASK, preset, find_variant(preset, optimizer), 0.01, 0)
    run = run.on(TASK.find_data(folder))
    whole = Context(data_folder=folder, accelerator="cpu")
    expected = train_run(TASK, run, whole)
    kept = replace(whole, checkpoints=tmp_path / "checkpoints")
    kept.stop.set()  # it stops after its first step
    with pytest.raises(Stopped):
        train_run(TASK, run, kept)
    kept.stop.clear()
    resumed = train_run(TASK, run, kept)
    assert resumed.weights == expected.weights
    assert resumed.metrics == expected.metrics
