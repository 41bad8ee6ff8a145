"""Tests of nero.optax, for an environment with JAX and without torch: `make test-jax`.

Where JAX is not installed nothing here is collected.
"""

import importlib.util
import os

collect_ignore_glob = [] if importlib.util.find_spec("optax") else ["test_*.py"]

# Meshes need several devices. And the programs here run once or twice: compiling them well would
# take longer than running them as they are.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
