"""The layers of the architecture, held to by walking the syntax tree of every module.

Imports inside functions and under TYPE_CHECKING count: an arrow that only a type checker sees still
ties two modules together.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

SRC = Path(__file__).parents[1] / "src"
MAX_LINES = 400
# Of a function, its docstring not counted.
MAX_FUNCTION = 60
LONG_FUNCTIONS = {"nero.kernels.triton.rows"}  # kernels, which Triton compiles in one piece
LIBRARY = "nero"
LAB = "nero_lab"
TOPS = (LIBRARY, LAB)


@dataclass(frozen=True)
class Layer:
    """What the modules of one layer may import, besides the standard library."""

    ours: frozenset[str]
    theirs: frozenset[str]


def layer(ours: str = "", *, theirs: str = "torch") -> Layer:
    return Layer(frozenset(ours.split()), frozenset(theirs.split()))


RULE_AND_BELOW = "nero.neurons nero.distributed.shards nero.geometry nero.rounding nero.rule"
STATE_AND_BELOW = f"{RULE_AND_BELOW} nero.state"
BELOW_OPTIMIZER = f"{STATE_AND_BELOW} nero.directions nero.kernels nero.model.param_groups"
BELOW_STEP = f"{BELOW_OPTIMIZER} nero.groups nero.construction nero.distributed"
BELOW_TELEMETRY = f"{BELOW_STEP} nero.step nero.checkpoint nero.optimizer"
BELOW_OPTAX_STATE = "nero.optax.neurons nero.optax.options nero.optax.geometry"

LAB_MAY_IMPORT = "nero nero.geometry nero.measures nero.optax nero.integrations"
"""The library's public names."""
LAB_PACKAGES = (
    "torch ale_py datasets filelock gymnasium jinja2 lightning_fabric markupsafe matplotlib numpy "
    "plotly psutil pytorch_optimizer ray rich schedulefree sklearn stable_baselines3 tokenizers "
    "torchmetrics torchvision transformers typer"
)

# Room of the lab -> the rooms below it that it may import.
ROOMS: Mapping[str, str] = {
    "plugins": "",
    "data": "",
    "models": "",
    "optimizers": "plugins",
    "experiments": "data optimizers",
    "records": "experiments",
    "training": "data models optimizers experiments records",
    "tasks": "plugins data models experiments training",
    "sweeps": "plugins data optimizers experiments records training tasks",
    "bench": "plugins models optimizers records",
    "analysis": "data models optimizers experiments records tasks sweeps bench",
    "studies": "data models optimizers experiments records training tasks sweeps analysis",
    "cli": "plugins data models optimizers experiments records training tasks sweeps bench "
    "analysis studies",
}


def room(name: str, below: str) -> Layer:
    """Of ours the rooms below and the library's public names; of others what the extras ask for."""
    rooms = " ".join(f"nero_lab.{each}" for each in (name, *below.split()))
    extra = " torchao" if name == "bench" else ""
    return layer(f"{rooms} {LAB_MAY_IMPORT}", theirs=LAB_PACKAGES + extra)


# A name stands for the modules inside it too, unless a longer one does; the two packages stand for
# themselves alone.
LAYERS: Mapping[str, Layer] = {
    "nero": layer(
        f"{BELOW_TELEMETRY} nero.backward nero.telemetry nero.model nero.measures nero.integrations"
    ),
    "nero.neurons": layer(theirs=""),
    "nero.distributed": layer(),
    "nero.distributed.shards": layer("nero.neurons"),
    "nero.distributed.sums": layer("nero.neurons nero.rounding nero.distributed.shards"),
    "nero.distributed.update": layer(
        f"{STATE_AND_BELOW} nero.distributed.shards nero.distributed.sums"
    ),
    "nero.distributed.local": layer(
        f"{BELOW_OPTIMIZER} nero.groups "
        "nero.distributed.shards nero.distributed.sums nero.distributed.update"
    ),
    "nero.distributed.counts": layer("nero.distributed.shards"),
    "nero.distributed.exchange": layer("nero.distributed.shards"),
    "nero.geometry": layer("nero.neurons nero.distributed.shards"),
    "nero.measures": layer("nero.neurons nero.geometry nero.measures"),
    "nero.rounding": layer(),
    "nero.rule": layer("nero.neurons nero.geometry"),
    "nero.directions": layer("nero.neurons nero.geometry nero.rule"),
    "nero.initialize": layer(),
    "nero.state": layer(RULE_AND_BELOW),
    "nero.kernels": layer(f"{STATE_AND_BELOW} nero.kernels"),
    "nero.step": layer(""),
    "nero.model": layer(""),
    "nero.model.registry": layer(""),
    "nero.step.reference": layer(STATE_AND_BELOW),
    "nero.step.foreach": layer(f"{STATE_AND_BELOW} nero.step.reference"),
    "nero.kernels.triton.fits": layer(f"{STATE_AND_BELOW} nero.kernels", theirs="torch"),
    "nero.kernels.triton.launch": layer(f"{STATE_AND_BELOW} nero.kernels", theirs="torch triton"),
    "nero.kernels.triton.plan": layer(theirs=""),
    "nero.kernels.triton.rows": layer(
        "nero.geometry nero.kernels.triton.plan nero.kernels.triton.tiles", theirs="triton"
    ),
    "nero.kernels.triton.tiles": layer("nero.kernels.triton.plan", theirs="triton"),
    "nero.model.registry.rows": layer("nero.neurons"),
    "nero.model.registry.torch_nn": layer("nero.model.registry.rows"),
    "nero.model.registry.torchvision": layer("nero.model.registry.rows"),
    "nero.model.registry.transformers": layer("nero.model.registry.rows"),
    "nero.model.registry.timm": layer("nero.model.registry.rows"),
    "nero.model.registry.peft": layer("nero.model.registry.rows"),
    "nero.model.registry.lookup": layer("nero.neurons nero.model.registry"),
    "nero.model.run": layer("nero.model.registry.lookup"),
    "nero.model.heads": layer("nero.model.registry.lookup nero.model.run"),
    "nero.model.trace": layer("nero.model.run"),
    "nero.model.initialize": layer(
        "nero.initialize nero.model.registry nero.model.run nero.model.trace"
    ),
    "nero.model.assignment": layer("nero.neurons nero.model.registry nero.model.heads"),
    "nero.model.param_groups": layer(
        "nero.geometry nero.model.registry.rows nero.model.heads nero.model.assignment"
    ),
    "nero.model.report": layer("nero.neurons nero.groups nero.state"),
    "nero.model.describe": layer("nero.geometry nero.model"),
    "nero.model.depth": layer("nero.model.run nero.model.trace"),
    "nero.model.recommendation": layer(
        "nero.model.assignment nero.model.depth nero.model.param_groups nero.model.trace"
    ),
    "nero.model.branches": layer("nero.geometry nero.model.assignment nero.model.trace"),
    "nero.model.for_model": layer("nero.geometry nero.groups nero.optimizer nero.model"),
    "nero.groups": layer(BELOW_OPTIMIZER),
    "nero.construction": layer(f"{BELOW_OPTIMIZER} nero.groups nero.distributed.shards"),
    "nero.first_step": layer(
        f"{BELOW_OPTIMIZER} nero.groups nero.construction nero.distributed.shards"
    ),
    "nero.step.gradients": layer(BELOW_STEP),
    "nero.step.orthogonal": layer(BELOW_STEP),
    "nero.step.exchanged": layer(f"{BELOW_STEP} nero.step.orthogonal"),
    "nero.step.route": layer(
        f"{BELOW_STEP} nero.step.gradients nero.step.orthogonal nero.step.exchanged"
    ),
    "nero.step.plan": layer(
        f"{BELOW_STEP} nero.step.gradients nero.step.orthogonal nero.step.exchanged "
        "nero.step.route nero.step.foreach nero.step.reference"
    ),
    "nero.step.compiled": layer(
        f"{BELOW_STEP} nero.step.gradients nero.step.orthogonal nero.step.exchanged "
        "nero.step.route nero.step.plan"
    ),
    "nero.checkpoint": layer(f"{BELOW_OPTIMIZER} nero.groups nero.construction nero.distributed"),
    "nero.optimizer": layer(f"{BELOW_STEP} nero.first_step nero.step nero.checkpoint"),
    "nero.backward": layer(BELOW_TELEMETRY),
    "nero.telemetry": layer(f"{BELOW_TELEMETRY} nero.backward nero.telemetry"),
    "nero.telemetry.layer": layer(BELOW_TELEMETRY),
    "nero.optax": layer("nero.neurons nero.optax", theirs="jax optax"),
    "nero.optax.neurons": layer("nero.neurons", theirs="jax"),
    "nero.optax.registry": layer("nero.optax.neurons", theirs=""),
    "nero.optax.models": layer("nero.optax.neurons nero.optax.registry", theirs="jax flax equinox"),
    "nero.optax.options": layer(theirs=""),
    "nero.optax.geometry": layer("nero.neurons", theirs="jax"),
    "nero.optax.initialize": layer(theirs="jax numpy"),
    "nero.optax.rule": layer("nero.optax.geometry", theirs="jax"),
    "nero.optax.directions": layer("nero.neurons nero.optax.geometry", theirs="jax"),
    "nero.optax.state": layer(f"nero.neurons {BELOW_OPTAX_STATE}", theirs="jax"),
    "nero.optax.step": layer(
        f"{BELOW_OPTAX_STATE} nero.optax.rule nero.optax.directions nero.optax.state",
        theirs="jax optax",
    ),
    "nero.integrations": layer("nero.integrations"),
    "nero.integrations.wrapped": layer("nero.optimizer"),
    "nero.integrations.clipping": layer(
        "nero.distributed.shards nero.geometry nero.groups nero.integrations.wrapped"
    ),
    "nero.integrations.transformers": layer(
        "nero.model.for_model nero.optimizer nero.telemetry nero.integrations",
        theirs="torch transformers",
    ),
    "nero.integrations.lightning": layer(
        "nero.optimizer nero.telemetry nero.integrations", theirs="torch lightning"
    ),
    "nero.integrations.timm": layer("nero.model.for_model nero.optimizer", theirs="torch timm"),
    # The root of the lab has no modules but this one.
    "nero_lab": layer(theirs=""),
    "nero_lab.__main__": layer("nero_lab.cli", theirs=""),
    **{f"nero_lab.{name}": room(name, below) for name, below in ROOMS.items()},
}


class Import(NamedTuple):
    line: int
    target: str
    name: str | None


def covering(module: str, names: Iterable[str]) -> str | None:
    """The longest of `names` that is `module` or a package around it."""
    fits = (n for n in names if module == n or (n not in TOPS and module.startswith(f"{n}.")))
    return max(fits, key=len, default=None)


def modules(src: Path) -> dict[str, Path]:
    """Dotted name -> file, for every module of the library and the lab."""
    found = {}
    for path in sorted(p for top in (LIBRARY, LAB) for p in src.glob(f"{top}/**/*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: Iterable[str]) -> Iterator[Import]:
    """Every import in a file; `from package import module` has the module as its target."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(node.lineno, inner if inner in known else base, alias.name)
        elif isinstance(node, ast.Call) and (target := _imported_by_call(node)):
            inside = ".".join(package) if target.startswith(".") else ""
            yield Import(node.lineno, inside + target, None)


def _imported_by_call(call: ast.Call) -> str | None:
    function = getattr(call.func, "attr", getattr(call.func, "id", None))
    match call.args:
        case [ast.Constant(value=str(target)), *_] if function in {"import_module", "__import__"}:
            return target
    return None


def function_lengths(path: Path) -> Iterator[tuple[int, str, int]]:
    """Line, name and length of each function in a file, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno is not None:
                length -= first.end_lineno - first.lineno + 1
            yield node.lineno, node.name, length


def refusal(module: str, found: Import) -> str | None:
    """Why `module` may not have this import, or None where it may."""
    covered_by = covering(module, LAYERS)
    assert covered_by is not None
    allowed = LAYERS[covered_by]
    top = found.target.partition(".")[0]
    if top in {LIBRARY, LAB}:
        if found.target != module and covering(found.target, allowed.ours) is None:
            return f"of ours it may import {', '.join(sorted(allowed.ours)) or 'nothing'}"
        if covered_by.startswith(LAB) and top == LIBRARY and (found.name or "").startswith("_"):
            return "the lab uses the library's public names only"
    elif top not in sys.stdlib_module_names and top not in allowed.theirs:
        theirs = ", ".join(sorted(allowed.theirs)) or "nothing"
        return f"besides the standard library it may import {theirs}"
    return None


def violations(src: Path) -> list[str]:
    """Every breach of the layers under `src`, each as file:line and the offending arrow."""
    known = modules(src)
    graph: dict[str, set[str]] = {module: set() for module in known}
    found = []
    for module, path in known.items():
        where = path.relative_to(src)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            found.append(f"{where}:{lines}: longer than {MAX_LINES} lines: split it")
        if module not in LONG_FUNCTIONS:
            found += [
                f"{where}:{line}: {name} is of {length} lines, more than {MAX_FUNCTION}"
                for line, name, length in function_lengths(path)
                if length > MAX_FUNCTION
            ]
        if covering(module, LAYERS) is None:
            found.append(f"{where}:1: {module} is in no layer: add it to LAYERS in test_layers.py")
            continue
        for each in imports(module, path, known):
            if each.target in known and each.target != module:
                graph[module].add(each.target)
            if reason := refusal(module, each):
                found.append(f"{where}:{each.line}: {module} -> {each.target}: {reason}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"cycle: {' -> '.join(reversed(error.args[1]))}")
    return found


def test_layers() -> None:
    assert modules(SRC).keys() >= {"nero", "nero.neurons", "nero.geometry", "nero.rule"}
    breaches = violations(SRC)
    assert not breaches, "\n".join(breaches)


def write(src: Path, files: Mapping[str, str]) -> Path:
    for name, source in files.items():
        path = src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return src


def test_the_allowed_arrows_pass(tmp_path: Path) -> None:
    files = {
        "nero/__init__.py": "def __getattr__(name):\n    from nero.optimizer import Nero\n",
        "nero/neurons.py": "import math\nfrom dataclasses import dataclass\n",
        "nero/geometry.py": "import torch\nfrom nero.neurons import NeuronLayout\n",
        "nero/rule.py": "from .geometry import project_\nfrom . import neurons\n",
        "nero/kernels/__init__.py": "from . import foreach\n",
        "nero/kernels/foreach.py": "from ..rule import step\n",
        "nero/kernels/triton/launch.py": "import triton.language as tl\n",
        "nero/optimizer.py": "from nero.kernels.foreach import step\nimport nero.rule\n",
        "nero/optax.py": "import jax.numpy as jnp\nfrom nero.neurons import NeuronLayout\n",
        "nero/integrations/lightning.py": "import lightning\nfrom nero.optimizer import Nero\n",
        "nero_lab/__init__.py": "",
        "nero_lab/training/loop.py": "import numpy\nfrom nero.geometry import turning_angle\n",
        "nero_lab/training/ppo.py": "from nero_lab.training.loop import x\nimport nero_lab.data\n",
        "nero_lab/data/__init__.py": "",
        "nero_lab/__main__.py": "import nero_lab.cli.app\n",
    }
    assert violations(write(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"nero/neurons.py": "\nimport torch\n"},
            "nero/neurons.py:2: nero.neurons -> torch: besides the standard library it may import",
            id="no framework in neurons",
        ),
        pytest.param(
            {"nero/neurons.py": "from .geometry import project_\n", "nero/geometry.py": ""},
            "nero/neurons.py:1: nero.neurons -> nero.geometry: of ours it may import nothing",
            id="upwards, relative",
        ),
        pytest.param(
            {"nero/geometry.py": "from nero import rule\n", "nero/rule.py": ""},
            "nero/geometry.py:1: nero.geometry -> nero.rule",
            id="a module imported as a name of its package",
        ),
        pytest.param(
            {"nero/rule.py": "def f():\n    import nero.optimizer\n"},
            "nero/rule.py:2: nero.rule -> nero.optimizer",
            id="inside a function",
        ),
        pytest.param(
            {"nero/geometry.py": "if TYPE_CHECKING:\n    from nero.optimizer import Nero\n"},
            "nero/geometry.py:2: nero.geometry -> nero.optimizer",
            id="under TYPE_CHECKING",
        ),
        pytest.param(
            {"nero/kernels/cpu.py": "import_module('nero.optimizer')\n"},
            "nero/kernels/cpu.py:1: nero.kernels.cpu -> nero.optimizer",
            id="through importlib",
        ),
        pytest.param(
            {"nero/kernels/cpu.py": "importlib.import_module('.x', 'nero')\nimport triton\n"},
            "nero/kernels/cpu.py:2: nero.kernels.cpu -> triton",
            id="triton outside its own kernel",
        ),
        pytest.param(
            {"nero/optimizer.py": "from nero import Nero\n"},
            "nero/optimizer.py:1: nero.optimizer -> nero:",
            id="the public package from inside",
        ),
        pytest.param(
            {"nero/optax.py": "import torch\n"},
            "nero/optax.py:1: nero.optax -> torch",
            id="torch in the JAX half",
        ),
        pytest.param(
            {"nero/optimizer.py": "import numpy as np\n"},
            "nero/optimizer.py:1: nero.optimizer -> numpy",
            id="a package besides torch",
        ),
        pytest.param(
            {"nero/telemetry.py": "from nero_lab.records import write\n"},
            "nero/telemetry.py:1: nero.telemetry -> nero_lab.records: of ours it may import nero.",
            id="the library imports the lab",
        ),
        pytest.param(
            {"nero_lab/bench/a.py": "from nero.optimizer import Nero\n"},
            "nero_lab/bench/a.py:1: nero_lab.bench.a -> nero.optimizer: of ours it may",
            id="the lab reaches past the public names",
        ),
        pytest.param(
            {"nero_lab/bench/a.py": "from nero.geometry import _split\n"},
            "nero_lab/bench/a.py:1: nero_lab.bench.a -> nero.geometry: the lab uses",
            id="the lab takes a private name",
        ),
        pytest.param(
            {"nero_lab/bench/a.py": "import pandas\n"},
            "nero_lab/bench/a.py:1: nero_lab.bench.a -> pandas: besides the standard library",
            id="a package that the extra does not have",
        ),
        pytest.param(
            {"nero/momentum.py": ""},
            "nero/momentum.py:1: nero.momentum is in no layer: add it to LAYERS",
            id="a module that no layer knows",
        ),
        pytest.param(
            {
                "nero_lab/bench/a.py": "from . import b\n",
                "nero_lab/bench/b.py": "import nero_lab.bench.a\n",
            },
            "cycle: nero_lab.",
            id="a cycle",
        ),
        pytest.param(
            {"nero_lab/data/a.py": "from nero_lab.tasks.base import Task\n"},
            "nero_lab/data/a.py:1: nero_lab.data.a -> nero_lab.tasks.base: of ours it may import",
            id="the lab upwards, from room to room",
        ),
        pytest.param(
            {"nero_lab/train.py": ""},
            "nero_lab/train.py:1: nero_lab.train is in no layer",
            id="a module at the root of the lab",
        ),
        pytest.param(
            {"nero/rule.py": "x = 1\n" * (MAX_LINES + 1)},
            f"nero/rule.py:{MAX_LINES + 1}: longer than {MAX_LINES} lines",
            id="a long file",
        ),
        pytest.param(
            {"nero/rule.py": "def f():\n" + "    x = 1\n" * MAX_FUNCTION},
            f"nero/rule.py:1: f is of {MAX_FUNCTION + 1} lines, more than",
            id="a long function",
        ),
    ],
)
def test_a_breach_is_found(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    packages = {"nero/__init__.py": "", "nero_lab/__init__.py": ""}
    found = violations(write(tmp_path, packages | files))
    assert any(line.startswith(expected) for line in found), found
