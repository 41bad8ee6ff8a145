from collections.abc import Iterator

import pytest

from distributed.pool import Pool


@pytest.fixture(scope="session")
def two() -> Iterator[Pool]:
    """Two processes."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def four() -> Iterator[Pool]:
    """Four processes."""
    pool = Pool(4)
    yield pool
    pool.close()
