"""What to install where a package is missing that only some experiments need."""

import re
from collections import defaultdict
from importlib import metadata

_DISTRIBUTION = "nero-optim"


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """Return one line that names the smallest extra with a missing package, None without one.

    Examples:
        >>> how_to_install(ModuleNotFoundError(name="ray.exceptions"))
        'this needs ray, which is not installed: pip install "nero-optim[ray]"'
    """
    package = (error.name or "").partition(".")[0]
    fitting = [names for names in _extras().items() if package.replace("_", "-") in names[1]]
    if not fitting:
        return None
    extra, _ = min(fitting, key=lambda names: len(names[1]))
    install = f'pip install "{_DISTRIBUTION}[{extra}]"'
    return f"this needs {package}, which is not installed: {install}"


def _extras() -> dict[str, set[str]]:
    """Return the names of the distributions that each extra asks for."""
    extras = defaultdict(set)
    try:
        requirements = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return extras
    for requirement in requirements:
        if found := re.match(r"([\w-]+).*extra == ['\"](\w+)['\"]", requirement):
            extras[found[2]].add(found[1])
    return extras
