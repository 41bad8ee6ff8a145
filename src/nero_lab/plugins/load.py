"""Find a class by "package.module:Name" or "path/to/file.py:Name"."""

import hashlib
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def is_import_path(name: str) -> bool:
    """Return whether `name` says where something stands, rather than being a name in a table."""
    return ":" in name or name.endswith(".py")


def load_module(where: str) -> ModuleType:
    """Return the module of that dotted name, or the one in a file whose path ends in ".py".

    Raises:
        ValueError: there is none.
    """
    if not where.endswith(".py"):
        # As `python -m` does: a module in the directory where the command was given is found.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            return import_module(where)
        except ModuleNotFoundError as error:
            if error.name and where.startswith(error.name):
                raise ValueError(f"no module {where!r} to import: {error}") from None
            raise
    path = Path(where).resolve()
    if not path.is_file():
        raise ValueError(f"no file {where!r}")
    # One name for one file, so that importing it twice gives the same classes.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"nero_lab_user_{path.stem}_{digest}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def load_object(where: str) -> object:
    """Return what "module:Name" or "file.py:Name" stands for.

    Raises:
        ValueError: the name is not in there, or there is no such module.
    """
    module, _, name = where.rpartition(":")
    loaded = load_module(module)
    if not hasattr(loaded, name):
        raise ValueError(f"no {name!r} in {module}")
    return getattr(loaded, name)
