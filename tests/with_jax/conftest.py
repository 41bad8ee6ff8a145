"""Tests of nero.optax, for an environment with JAX and without torch: `make test-jax`.

Where JAX is not installed nothing here is collected.
"""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("optax") else ["test_*.py"]
