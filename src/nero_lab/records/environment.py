"""Where a run was computed: machine, versions, commit."""

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SOURCES = ("*.py", "*.cpp", "*.h")
"""Of the library: everything that computes a step."""


@functools.cache
def environment() -> Mapping[str, Any]:
    """Return what the numbers' last bits and the times may depend on."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "nero": _library_digest(),
        "CPU kernel": _cpu_kernel(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        **_gpu(),
    }


def processor() -> str:
    """Return the processor's name, with its generation where the system says it."""
    try:
        named = named_processor(Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        named = ""
    return named or platform.processor() or platform.machine()


def named_processor(cpuinfo: str) -> str:
    """Return what /proc/cpuinfo calls the processor, with its generation; "" if it has no name.

    Makers sell several generations by one name, and the step's time depends on which it is.
    """
    first = cpuinfo.strip().partition("\n\n")[0]
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    name, family = fields.get("model name", ""), fields.get("cpu family")
    return f"{name} (family {family}, model {fields.get('model')})" if name and family else name


def _gpu() -> Mapping[str, str]:
    """Return the name of the GPU, where PyTorch sees one."""
    import torch

    return {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def _library() -> Path:
    found = find_spec("nero")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _library_digest() -> str:
    """Return what identifies the sources of the library, those of its kernels among them."""
    digest = hashlib.sha256()
    for source in sorted(path for kind in _SOURCES for path in _library().rglob(kind)):
        name = source.relative_to(_library()).as_posix()
        digest.update(name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cpu_kernel() -> str:
    """Return whether the compiled kernel is there, and what $NERO_CPU asks of it."""
    built = "built" if any(_library().rglob("_cpu*.so")) else "not built"
    asked = os.environ.get("NERO_CPU")
    return built if asked is None else f"{built}, NERO_CPU={asked}"


@functools.cache
def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" after it where files differ from it.

    None where this file is no part of a checkout, also where it is installed inside another one.
    """
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _git(*arguments: str) -> str | None:
    """Return what git prints of the repository around this file, None where it fails."""
    # The repository may be anyone's: of its configuration nothing is run, and no variable that a
    # hook was started with names another one.
    plain = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    try:
        done = subprocess.run(
            ["git", *plain, *arguments],
            cwd=Path(__file__).parent,
            env={name: value for name, value in os.environ.items() if name[:4] != "GIT_"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
