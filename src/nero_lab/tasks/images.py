"""What the experiments on images in memory share."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from nero_lab.data.found import FoundData
from nero_lab.data.images import crop_and_flip, load_images
from nero_lab.data.loaders import TensorLoader
from nero_lab.data.parts import Split
from nero_lab.data.sources import find_source
from nero_lab.experiments.task import ACCURACY, Classification, Data

_EVAL_ROWS = 500
_TRAIN_EVAL_ROWS = 2000
"""Of the training images, how many are evaluated once training is over."""


class ImageTask(Classification):
    """Classify the images of one data set, or of what stands in for it.

    Options of the data: train_size, val_size (0: no validation part), test_size, split_seed; see
    `nero_lab.data.images.load_images`.
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
        self, found: FoundData, batch_size: int, *, val_size: int = 0, **options: Any
    ) -> Data:
        """Return images, scaled, and classes."""
        assert found.folder is not None
        parts = load_images(found.folder, found.digest, val_size=val_size, **self.shape, **options)
        if self.flat:
            train, val, test = (Split(part.x.flatten(1), part.y) for part in parts)
        else:
            train, val, test = parts
        some = Split(train.x[:_TRAIN_EVAL_ROWS], train.y[:_TRAIN_EVAL_ROWS])
        return Data(
            train=TensorLoader(
                train, batch_size, transform=crop_and_flip if self.augmented else None
            ),
            val=TensorLoader(val, _EVAL_ROWS) if val_size else None,
            test=TensorLoader(test, _EVAL_ROWS),
            train_eval=TensorLoader(some, _EVAL_ROWS),
        )
