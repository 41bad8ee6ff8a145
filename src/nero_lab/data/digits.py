"""The handwritten digits that ship inside scikit-learn: real data without a download.

1,797 grey images of 8 x 8 pixels in ten classes, the test part of the UCI "Optical Recognition of
Handwritten Digits" data set (E. Alpaydin, C. Kaynak, 1998; CC BY 4.0).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from nero_lab.data.parts import Parts, Split

IN_FEATURES = 64
CLASSES = 10
TEST_SIZE = 360
VAL_SIZE = 187


def load_digits_split(split_seed: int = 0) -> Parts:
    """Return 1250 training, 187 validation and 360 test images, stratified by class.

    The pixels are shifted and scaled by the mean and standard deviation of all training pixels, as
    is usual for MNIST. `x` is (images, 64), `y` (images,).

    Args:
        split_seed: decides which images go where. It is no part of a run's own seed, so that all
            runs see the same split.
    """
    x, y = load_digits(return_X_y=True)
    x_rest, x_test, y_rest, y_test = train_test_split(
        x, y, test_size=TEST_SIZE, stratify=y, random_state=split_seed
    )
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=VAL_SIZE, stratify=y_rest, random_state=split_seed
    )
    mean, std = np.mean(x_train), np.std(x_train)

    def split(images: ArrayLike, labels: ArrayLike) -> Split:
        scaled = torch.as_tensor((np.asarray(images) - mean) / std, dtype=torch.float32)
        return Split(scaled, torch.as_tensor(np.asarray(labels), dtype=torch.int64))

    return Parts(split(x_train, y_train), split(x_val, y_val), split(x_test, y_test))
