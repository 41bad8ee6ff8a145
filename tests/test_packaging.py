import email
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nero_lab.plugins.extras import how_to_install

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("module", ["nero", "nero.neurons"])
def test_import_needs_no_framework(module: str) -> None:
    """A user of nero.optax has no torch, and `import nero` should not cost torch's seconds."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"import {module}\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(tops - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["nero"]


@pytest.mark.parametrize(
    ("missing", "use", "advice"),
    [
        ("torch", "import nero; nero.Nero", 'nero.Nero needs PyTorch: pip install "{}[torch]"'),
        ("torch", "from nero import geometry", 'needs PyTorch: pip install "{}[torch]"'),
        ("jax", "import nero.optax", 'nero.optax needs jax: pip install "{}[jax]"'),
    ],
)
def test_a_missing_framework_is_named(missing: str, use: str, advice: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\n{use}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith(advice.format(PROJECT["name"]))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_sources_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    src = ROOT / "src"
    sources = {
        path.relative_to(src).as_posix()
        for path in src.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == sources
    assert {"nero/py.typed", "nero/__init__.py", "nero_lab/cli/app.py"} <= packed


def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    info = f"nero_optim-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    assert [r.name for r in requirements if r.marker is None] == []
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert "nero = nero_lab.cli.app:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("ray.exceptions", "ray"),
        ("torchvision", "models"),
        ("ale_py", "paper"),
        ("torch_fidelity", "paper"),
        ("torchao.optim", "bench"),
        ("numpy", "lab"),
        ("torch", "torch"),
        ("no_such_package", None),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    wheel: zipfile.ZipFile, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str | None
) -> None:
    info = f"nero_optim-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: metadata.get_all("Requires-Dist")
    )
    line = how_to_install(ModuleNotFoundError(name=missing))
    assert (line is None) == (extra is None)
    assert line is None or line == (
        f"this needs {missing.partition('.')[0]}, which is not installed: "
        f'pip install "nero-optim[{extra}]"'
    )


def test_the_lab_alone_lists_its_tasks_and_says_what_an_experiment_needs(tmp_path: Path) -> None:
    extras = PROJECT["optional-dependencies"]
    others = [Requirement(text).name for text in extras["models"] + extras["paper"] + extras["ray"]]
    # A name that is None in sys.modules cannot be imported.
    missing = {name.replace("-", "_"): None for name in [*others, "cv2", "pyarrow"]}
    commands = [["tasks"], ["optimizers"], ["train", "deep-mlp", "--preset", "tiny"]]
    program = f"""
import sys
sys.modules.update({missing})
from nero_lab.cli.app import main
for arguments in {[*commands, ["train", "pong", "--preset", "tiny"]]}:
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        print(arguments[:2], end.code, file=sys.stderr)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    *ended, refused = done.stderr.splitlines()
    assert ended == [f"{each[:2]} 0" for each in commands]
    assert re.fullmatch(
        r"\['train', 'pong'\] error: this needs ale_py, which is not installed: "
        r'pip install "nero-optim\[\w+\]"',
        refused,
    )


def test_changelog_speaks_of_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    released = "dev" not in PROJECT["version"]
    assert headings[0] == "Unreleased"
    assert not released or headings[1] == PROJECT["version"]


def test_every_requirement_is_pinned() -> None:
    pinned = pins()
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:  # an extra that contains another one
            continue
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{text}: constraints.txt has no pin; run `make constraints`"
        assert requirement.specifier.contains(version, prereleases=True), f"{text}, {version}"


def test_torch_and_torchvision_match() -> None:
    """torchvision 0.(n + 15).p is built for torch 2.n.p; others fail to import beside it."""
    pinned = pins()
    major, minor, patch = map(int, pinned["torch"].split("."))
    assert (major, pinned["torchvision"]) == (2, f"0.{minor + 15}.{patch}")
