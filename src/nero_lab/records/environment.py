"""Where a run was computed: machine, versions, commit."""

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "pytorch-optimizer", "scikit-learn", "lightning-fabric", "tokenizers")
_LAB_SOURCES = ("train.py", "optimizers/*.py", "tasks/*.py", "models/*.py", "data/*.py")


@functools.cache
def software() -> Mapping[str, str]:
    """Return the versions of what computes a run, and a digest of this project's own code."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "missing"
    return versions | {"code": _code_digest()}


def _code_digest() -> str:
    here = Path(__file__).parent
    sources = [path for pattern in _LAB_SOURCES for path in sorted(here.glob(pattern))]
    library = find_spec("nero")
    if library is not None and library.origin is not None:
        sources += sorted(Path(library.origin).parent.rglob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def environment() -> Mapping[str, Any]:
    """Return what the numbers' last bits and the times may depend on."""
    return {
        "python": platform.python_version(),
        "torch": software()["torch"],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }


@functools.cache
def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" after it where files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
