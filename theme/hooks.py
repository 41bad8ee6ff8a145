"""What MkDocs does besides rendering pages: MathJax, colours of code, version and address.

Everything that a page needs is in the site: nothing is fetched when one is read.
"""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

_ROOT = Path(__file__).parents[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the address from the package's metadata, the version from what is installed."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    config.repo_url = project["urls"]["Source"]
    config.extra["version"] = importlib.metadata.version(project["name"])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add MathJax, with its licence, and the colours of code by day and by night."""
    spec = importlib.util.find_spec("mathjax")  # the package django-static-mathjax; needs no Django
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("MathJax is missing: make docs installs it")
    mathjax = Path(spec.origin).parent / "static" / "mathjax"
    for source, name in (("es5/tex-svg.js", "tex-svg.js"), ("LICENSE", "LICENSE")):
        path = str(mathjax / source)
        files.append(File.generated(config, f"assets/mathjax/{name}", abs_src_path=path))
    for mode, style in (("light", "default"), ("dark", "github-dark")):
        rules = HtmlFormatter(style=style).get_style_defs(".highlight")
        files.append(File.generated(config, f"assets/code-{mode}.css", content=rules))
    return files
