"""How far generated images are from real ones: the Frechet distance of their features.

With the features of Inception it is the FID (Heusel et al., 2017). Where its weights cannot be had,
the features of a small classifier, trained here on the real images, take their place; the numbers
are then comparable with one another and with nobody else's.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from nero_lab.data.parts import MissingData

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity that a folder is searched for."""

_TRAINED_ON = 64
_EPOCHS = 3


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


def train_classifier(images: Tensor, classes: Tensor) -> SmallClassifier:
    """Return a classifier trained on images, the same one whenever and wherever in a program.

    It draws nothing from torch's global generator.

    Args:
        images: (rows, channels, height, width), float32.
        classes: (rows,), int64, counted from 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = SmallClassifier(images.shape[1], int(classes.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3, fused=True)
        for _ in range(_EPOCHS):
            for batch in torch.randperm(len(images)).split(_TRAINED_ON):
                scores = classifier.head(classifier(images[batch]))
                loss = nn.functional.cross_entropy(scores, classes[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return classifier.eval().requires_grad_(False)


def inception_distance(folder: Path | None) -> FrechetInceptionDistance:
    """Return the FID of torchmetrics, on Inception with the weights of torch-fidelity.

    Images have to be (batch, 3, height, width), from 0 to 1.

    Args:
        folder: where INCEPTION_WEIGHTS may lie; where it does not, torch-fidelity looks in torch's
            cache and then fetches it.

    Raises:
        MissingData: the weights are in neither place and cannot be fetched.
    """
    path = None if folder is None else folder / INCEPTION_WEIGHTS
    weights = str(path) if path is not None and path.is_file() else None
    try:
        return FrechetInceptionDistance(
            feature=2048, normalize=True, feature_extractor_weights_path=weights
        )
    except (URLError, OSError) as error:
        raise MissingData(
            f"no weights of Inception, which FID needs, and none could be fetched: {error}.\n"
            f"Put {INCEPTION_WEIGHTS}, from torch-fidelity's releases on GitHub, into the folder "
            "of --data; or take the preset cpu, which uses a small classifier's features instead."
        ) from None


def frechet_distance(
    metric: FrechetInceptionDistance,
    real: Iterable[tuple[Tensor, Tensor]],
    generate: Callable[[Tensor], Tensor],
) -> float:
    """Return the distance between real images and as many generated ones of the same classes.

    Args:
        metric: FID, or the same on other features; reset before and after.
        real: batches of images and classes.
        generate: classes, (batch,), to images.
    """
    metric.reset()
    for images, classes in real:
        metric.update(images, real=True)
        metric.update(generate(classes), real=False)
    distance = metric.compute().item()
    metric.reset()
    return distance
