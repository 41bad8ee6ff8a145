"""How far generated images are from real ones: the Frechet distance of their features.

With the features of Inception it is the FID (Heusel et al., 2017). Where its weights cannot be had,
the features of a small classifier, trained here on the real images, take their place; the numbers
are then comparable with one another and with nobody else's.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from nero_lab.data.parts import MissingData

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity that a folder is searched for."""

_BATCH = 64


class _Scaled(FrechetInceptionDistance):
    """FID of images from -1 to 1."""

    def update(self, imgs: Tensor, real: bool) -> None:
        super().update((imgs + 1) / 2, real)


class SmallClassifier(nn.Module):
    """Three convolutions, their last features averaged over all places, and a linear head.

    Args:
        channels: of an image.
        classes: number of classes.

    Shapes: input (batch, channels, height, width) with both at least 4.
    """

    num_features = 64
    """by which torchmetrics knows how long a vector is"""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, self.num_features, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.num_features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, (batch, 64): what the head decides by."""
        return self.convolutions(images).mean(dim=(2, 3))


def train_classifier(images: Tensor, classes: Tensor, steps: int) -> SmallClassifier:
    """Return a classifier trained on images, the same one whenever and wherever in a program.

    It draws nothing from torch's global generator.

    Args:
        images: (rows, channels, height, width), float32.
        classes: (rows,), int64, counted from 0.
        steps: of Adam, on 64 images each.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = SmallClassifier(images.shape[1], int(classes.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3, fused=True)
        for _ in range(steps):
            batch = torch.randint(len(images), (_BATCH,))
            scores = classifier.head(classifier(images[batch]))
            loss = nn.functional.cross_entropy(scores, classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.eval().requires_grad_(False)


def classifier_distance(images: Tensor, classes: Tensor, steps: int) -> FrechetInceptionDistance:
    """Return the Frechet distance on the features of a classifier of these images.

    Args:
        images: (rows, channels, height, width), float32.
        classes: (rows,), int64, counted from 0.
        steps: as in `train_classifier`.
    """
    return FrechetInceptionDistance(
        feature=train_classifier(images, classes, steps), sync_on_compute=False
    )


def inception_distance(folder: Path | None) -> FrechetInceptionDistance:
    """Return the FID of torchmetrics, on Inception with the weights of torch-fidelity.

    Images have to be (batch, 3, height, width), from -1 to 1.

    Args:
        folder: where INCEPTION_WEIGHTS may lie; where it does not, torch-fidelity looks in torch's
            cache and then fetches it.

    Raises:
        MissingData: the weights are in neither place and cannot be fetched.
    """
    path = None if folder is None else folder / INCEPTION_WEIGHTS
    weights = str(path) if path is not None and path.is_file() else None
    try:
        return _Scaled(
            feature=2048,
            normalize=True,
            feature_extractor_weights_path=weights,
            # Every process of several compares all images.
            sync_on_compute=False,
        )
    except (URLError, OSError) as error:
        raise MissingData(
            f"no weights of Inception, which FID needs, and none could be fetched: {error}.\n"
            f"Put {INCEPTION_WEIGHTS}, from torch-fidelity's releases on GitHub, into the folder "
            "of --data; or take the preset cpu, which uses a small classifier's features instead."
        ) from None


def frechet_distance(
    metric: FrechetInceptionDistance,
    real: Iterable[tuple[Tensor, ...]],
    generate: Callable[[Tensor], Tensor],
) -> float:
    """Return the distance between real images and as many generated ones of the same classes.

    Args:
        metric: FID, or the same on other features; reset before and after.
        real: batches of images and classes.
        generate: classes, (batch,), to images.

    Returns:
        The distance; NaN where generated images are not finite.
    """
    metric.reset()
    for images, classes in real:
        metric.to(images.device)
        metric.update(images, real=True)
        metric.update(generate(classes), real=False)
    # The features of a network whose weights are not finite, on which eigenvalues would fail.
    finite = bool(torch.isfinite(metric.fake_features_cov_sum).all())
    distance = metric.compute().item() if finite else math.nan
    metric.reset()
    return distance
