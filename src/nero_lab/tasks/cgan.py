"""The paper's figure 5: a class-conditional GAN, each of its two networks with an optimiser."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from nero_lab.data.draw import draw_rows
from nero_lab.data.found import FoundData
from nero_lab.data.images import read_images
from nero_lab.data.loaders import TensorLoader
from nero_lab.data.sources import find_source
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Data, Loader, Metric, Preset, Task, Update, Variant
from nero_lab.models.gan import GAN
from nero_lab.tasks.variants import with_more_rates

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_EVAL_ROWS = 500
# The rows of a weight under spectral normalisation are neurons still, since it divides all of them
# by one number. `nero.param_groups` cannot know that of a parametrisation.
_GROUPS: Mapping[str, Any] = {
    "overrides": {
        "*.original": {"role": "weight", "neuron_axes": [0], "center": True, "radius": "unit"}
    }
}

_VARIANTS = (
    Variant("nero", "Nero", "nero", _GRID),
    Variant("sgd", "SGD", "sgd", _GRID, optimizer_options={"momentum": 0.0}),
    Variant("adam", "Adam", "adam", _GRID, optimizer_options={"betas": [0.0, 0.999]}),
    Variant("lamb", "LAMB", "lamb", _GRID),
)

# Half decades on both sides of the best rate of the coarse grid.
_HALF_DECADES = {
    "nero": (3e-3, 3e-2),
    "sgd": (3e-3, 3e-2),
    "adam": (3e-4, 3e-3),
    "lamb": (3e-4, 3e-3),
}

PAPER = Preset(
    name="paper",
    epochs=120,
    batch_size=256,
    schedule=Schedule("milestones", gamma=0.1, milestones=(100,)),
    variants=_VARIANTS,
    model={"base": 64, "class_features": 128, "size": 32, "channels": 3},
    data={"features": "inception"},
    groups=_GROUPS,
    eval_every=10,
)

CPU = replace(
    PAPER,
    name="cpu",
    epochs=6,
    batch_size=32,
    schedule=Schedule("milestones", gamma=0.1, milestones=(5,)),
    variants=with_more_rates(_VARIANTS, _HALF_DECADES),
    model={"base": 8, "class_features": 16, "size": 16, "channels": 1},
    data={
        "features": "classifier",
        "classifier_steps": 500,
        "size": 16,
        "channels": 1,
        "train_size": 1600,
        "val_size": 1000,
        "test_size": 2000,
    },
    eval_every=2,
    deviations="Grey images of 16 x 16 instead of 32 x 32 in colour, 8 base features instead of "
    "64, 300 steps of 32 images, of 1,600. The Frechet distance is that of the features of a small "
    "classifier trained on the same images, not of Inception's: it is no FID.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    batch_size=16,
    schedule=Schedule("milestones", gamma=0.1, milestones=(1,)),
    variants=_VARIANTS[:2],
    seeds=(0, 1),
    model={"base": 2, "class_features": 4, "size": 16, "channels": 1},
    data={**CPU.data, "train_size": 48, "val_size": 32, "test_size": 32, "classifier_steps": 20},
    deviations="Far too small to compare anything; for tests.",
)


class RealImages(TensorLoader):
    """Batches of real images, from -1 to 1, and classes, with what to compare others to them by."""

    def __init__(self, tensors: tuple[Tensor, Tensor], metric: "FrechetInceptionDistance") -> None:
        super().__init__(tensors, _EVAL_ROWS)
        self.metric = metric


class ConditionalGAN(Task):
    """Generate images of CIFAR-10's classes with a GAN under hinge loss.

    One step of the discriminator, then one of the generator, per batch; generated images are of
    the classes of the batch. The metric is the Frechet distance between the features of the real
    images of a part of the data and those of as many generated ones.

    Options of the model: those of `nero_lab.models.gan.GAN`. Of the data: features ("inception",
    for FID proper, or "classifier", a small one trained on the training images, for
    classifier_steps); size and channels (1: grey), to which the images are brought; train_size,
    val_size, test_size (None: all); split_seed.
    """

    name = "cgan"
    figure = "5"
    title = "class-conditional GAN on CIFAR-10"
    metric = Metric(
        "Frechet distance", "own classifier's features; Inception's (FID) at `paper`", "lower"
    )
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return CIFAR-10, or what stands in for it, in a folder or where it usually is."""
        return find_source("cifar-10", folder)

    def load_data(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        found: FoundData,
        batch_size: int,
        *,
        features: str,
        classifier_steps: int = 0,
        size: int = 32,
        channels: int = 3,
        train_size: int | None = None,
        val_size: int = 0,
        test_size: int | None = None,
        split_seed: int = 0,
    ) -> Data:
        """Return images from -1 to 1 and classes; the validation part is drawn from training."""
        from nero_lab.tasks.frechet import classifier_distance, inception_distance

        if features not in ("inception", "classifier"):
            raise ValueError(f'features must be "inception" or "classifier", got {features!r}')
        assert found.folder is not None
        images, labels, test_images, test_labels = read_images(found.folder, found.digest)
        rows = draw_rows(labels, train_size, val_size, split_seed)
        train, val = (_scaled(images[part], labels[part], size, channels) for part in rows)
        test = _scaled(test_images[:test_size], test_labels[:test_size], size, channels)
        if features == "inception":
            metric = inception_distance(found.folder)
        else:
            metric = classifier_distance(*train, classifier_steps)
        return Data(
            train=TensorLoader(train, batch_size, drop_last=True),
            val=RealImages(val, metric) if val_size else None,
            test=RealImages(test, metric),
            train_eval=RealImages(train, metric),
        )

    def build_model(self, **options: Any) -> nn.Module:
        """Return the generator and the discriminator."""
        return GAN(**options)

    def trained_modules(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """Return both, since each has an optimiser of its own."""
        assert isinstance(model, GAN)
        return {"generator": model.generator, "discriminator": model.discriminator}

    def training_step(
        self, model: nn.Module, batch: Any, update: Update, **options: Any
    ) -> Mapping[str, Tensor]:
        """Train both on one batch; "loss" is the discriminator's."""
        real, classes = batch
        gan = cast("GAN", model)  # or something around it that passes its attributes on
        with torch.no_grad():
            generated = gan("generate", _noise(gan, classes), classes)
        # Both in one pass, which is what DistributedDataParallel wants; the discriminator has no
        # batch normalisation that would be seen.
        judged = gan("judge", torch.cat([real, generated]), torch.cat([classes, classes]))
        on_real, on_generated = judged.chunk(2)
        loss = torch.relu(1 - on_real).mean() + torch.relu(1 + on_generated).mean()
        update(loss, "discriminator")

        # The discriminator is only looked through here: its own gradients would be thrown away.
        gan.discriminator.requires_grad_(False)
        generator_loss = -gan("judge generated", _noise(gan, classes), classes).mean()
        update(generator_loss, "generator")
        gan.discriminator.requires_grad_(True)
        return {"loss": loss.detach(), "generator_loss": generator_loss.detach()}

    def evaluate(self, model: nn.Module, loader: Loader) -> Mapping[str, float]:
        """Return the Frechet distance, from the same noise every time."""
        from nero_lab.tasks.frechet import frechet_distance

        gan, real = cast("GAN", model), cast("RealImages", loader)
        generator = torch.Generator().manual_seed(0)

        def generate(classes: Tensor) -> Tensor:
            return gan("generate", _noise(gan, classes, generator), classes)

        return {self.metric.name: frechet_distance(real.metric, real, generate)}


def _noise(gan: GAN, classes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    # Drawn on the CPU where it has to be the same on every device.
    device = classes.device if generator is None else None
    shape = (len(classes), gan.generator.noise_features)
    return torch.randn(shape, generator=generator, device=device).to(classes.device)


def _scaled(
    images: np.ndarray, labels: np.ndarray, size: int, channels: int
) -> tuple[Tensor, Tensor]:
    """Return images (rows, channels, size, size), from -1 to 1, and classes.

    Args:
        images: bytes (rows, 1 or 3, height, width) of at most 32 x 32; smaller ones get a border.
        labels: (rows,).
        size: 32, or 16 for half of it.
        channels: 3, or 1 for grey.
    """
    if size not in (16, 32):
        raise ValueError(f"data option size must be 16 or 32, got {size!r}")
    if channels not in (1, 3):
        raise ValueError(f"data option channels must be 1 or 3, got {channels!r}")
    x = torch.from_numpy(images.astype(np.float32))
    missing = 32 - x.shape[2]
    before, after = missing // 2, missing - missing // 2
    x = nn.functional.pad(x, (before, after, before, after))
    x = nn.functional.avg_pool2d(x, 32 // size) / 127.5 - 1
    x = x.mean(dim=1, keepdim=True) if channels == 1 else x.expand(-1, 3, -1, -1)
    return x, torch.from_numpy(labels.astype(np.int64))
