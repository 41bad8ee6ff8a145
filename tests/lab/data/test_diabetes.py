import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from nero_lab.data.diabetes import load_diabetes_split


@pytest.mark.parametrize("standardised", [False, True])
def test_parts_are_all_patients_once_and_scaled_by_the_training_part(standardised: bool):
    parts = load_diabetes_split(standardised)
    assert [len(part.y) for part in parts] == [282, 80, 80]
    torch.testing.assert_close(parts.train.x.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.train.x.std(0, correction=0), torch.ones(10))
    y = torch.cat([part.y for part in parts]).squeeze(1)
    expected = torch.from_numpy(np.asarray(load_diabetes(return_X_y=True)[1], np.float32))
    if standardised:
        assert parts.train.y.mean().abs() < 1e-5
        # Back on their scale, by the two extremes.
        low, high = y.min(), y.max()
        y = (y - low) / (high - low) * (346 - 25) + 25
    torch.testing.assert_close(y.sort().values, expected.sort().values)


def test_the_split_depends_on_its_seed():
    first, again, other = (load_diabetes_split(False, seed).test.x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
