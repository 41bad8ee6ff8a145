"""What the experiments on images in memory share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from nero_lab.data.found import FoundData
from nero_lab.data.images import crop_and_flip, load_images
from nero_lab.data.parts import Parts, Split
from nero_lab.data.sources import find_source
from nero_lab.experiments.task import ACCURACY, Classification, Data
from nero_lab.tasks.in_memory import loaders


class ImageTask(Classification):
    """Classify the images of one data set, or of what stands in for it.

    Options of the data: train_size, val_size (0: no validation part), test_size, classes,
    split_seed; see `nero_lab.data.images.load_images`.
    """

    # Ten classes, equally or almost equally frequent.
    metric = replace(ACCURACY, chance=0.1)
    source: ClassVar[str]
    """the data set, by its name in `nero_lab.data.sources`"""
    shape: ClassVar[Mapping[str, int]]
    """channels and pixels of the images"""
    flat: ClassVar[bool] = False
    """whether an image is a row of numbers, for a network without convolutions"""
    augmented: ClassVar[bool] = False
    """whether images are cropped and mirrored at random in training"""

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return the data set, or its stand-in, in a folder or where it usually is."""
        return find_source(self.source, folder)

    def load_data(
        self,
        found: FoundData,
        batch_size: int,
        *,
        classes: Sequence[int] | None = None,
        **options: Any,
    ) -> Data:
        """Return images, scaled, and classes."""
        assert found.folder is not None
        kept = None if classes is None else tuple(classes)
        parts = load_images(found.folder, found.digest, classes=kept, **self.shape, **options)
        if self.flat:
            parts = Parts(*(Split(part.x.flatten(1), part.y) for part in parts))
        return loaders(parts, batch_size, transform=crop_and_flip if self.augmented else None)
