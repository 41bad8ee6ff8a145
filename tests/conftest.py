import os

import pytest
import torch
from hypothesis import settings

# Tensor sizes in one property differ by orders of magnitude, and so do the times: no deadline.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# xdist runs one process per core; torch's own threads would only fight over the same cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
