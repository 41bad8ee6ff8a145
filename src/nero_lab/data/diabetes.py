"""The diabetes data that ship inside scikit-learn: ten measurements and a number to predict.

442 patients, and how far the disease went in a year, from 25 to 346 (B. Efron, T. Hastie,
I. Johnstone, R. Tibshirani, "Least Angle Regression", 2004).
"""

import numpy as np
import torch
from sklearn.datasets import load_diabetes

from nero_lab.data.parts import Parts, Split

FEATURES = 10
VAL_SIZE, TEST_SIZE = 80, 80


def load_diabetes_split(standardised: bool, split_seed: int = 0) -> Parts:
    """Return 282 training, 80 validation and 80 test patients; `x` (rows, 10), `y` (rows, 1).

    The measurements are shifted and scaled by mean and standard deviation over the training part.

    Args:
        standardised: whether the targets are too, or stay from 25 to 346.
        split_seed: decides who goes where. It is no part of a run's own seed.
    """
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x, y = np.asarray(x), np.asarray(y)[:, None]
    order = np.random.default_rng(split_seed).permutation(len(x))
    train, val, test = np.split(order, np.cumsum([len(x) - VAL_SIZE - TEST_SIZE, VAL_SIZE]))
    x = (x - x[train].mean(0)) / x[train].std(0)
    if standardised:
        y = (y - y[train].mean()) / y[train].std()

    def split(rows: np.ndarray) -> Split:
        return Split(*(torch.from_numpy(part[rows].astype(np.float32)) for part in (x, y)))

    return Parts(split(train), split(val), split(test))
