import email.message
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nero_lab.plugins.extras import how_to_install

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]


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


def build(kind: str, source: Path, target: Path, **environment: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    run = subprocess.run(
        command, cwd=source, env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (path,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


def metadata_of(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the package whose last commit has a version's tag."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("src", "README.md", "LICENSE", "hatch_build.py", "pyproject.toml"):
        path = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "_cpu.so*")
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=ignored)
        else:
            shutil.copy(path, copy / name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(copy)]
    for command in ("init -q", "add .", "commit -q -m all", "tag v7.8.9"):
        subprocess.run([*git, *command.split()], check=True)
    return copy


def test_the_version_is_the_tags_in_the_sdist_and_in_the_wheel_without_the_kernel(
    released: Path, tmp_path: Path
) -> None:
    sdist = build("sdist", released, tmp_path / "sdist")
    assert sdist.name == "nero_optim-7.8.9.tar.gz"
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    unpacked = tmp_path / "nero_optim-7.8.9"
    assert not (unpacked / ".git").exists()
    path = build("wheel", unpacked, tmp_path / "wheel", HATCH_BUILD_NO_HOOKS="true")
    assert path.name == "nero_optim-7.8.9-py3-none-any.whl"
    program = "import nero; print(nero.__file__, nero.__version__)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [f"{path}/nero/__init__.py", "7.8.9"]


def test_the_readmes_links_lead_somewhere_from_a_package_index(
    released: Path, tmp_path: Path
) -> None:
    path = build("wheel", released, tmp_path, HATCH_BUILD_NO_HOOKS="true")
    metadata = metadata_of(zipfile.ZipFile(path))
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", text)
    assert len(links) == len(re.findall(r"\]\(", (ROOT / "README.md").read_text("utf-8")))
    raw = SOURCE.replace("github.com", "raw.githubusercontent.com")
    ours = 0
    for picture, link in links:
        start = f"{raw}/v7.8.9/" if picture else f"{SOURCE}/blob/v7.8.9/"
        if link.startswith((SOURCE, raw)):
            assert link.startswith(start)
            assert (ROOT / link.removeprefix(start).partition("#")[0]).exists(), link
            ours += 1
        else:
            assert link.startswith("https://"), link
    assert ours > 10


def test_the_wheel_trains_without_a_compiler(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    kernel = "nero/kernels/cpu/_cpu.so" in wheel.namelist()
    wheel.extractall(tmp_path / "installed")
    command = [sys.executable, str(ROOT / "tests/try_installed.py")]
    environment = {"PYTHONPATH": str(tmp_path / "installed"), "PATH": str(tmp_path)}
    run = subprocess.run(
        command + ["--kernel"] * kernel, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert [line.split(":")[1].split(",")[0] for line in run.stdout.splitlines()] == [
        " Nero",
        " for_model",
    ]


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
    metadata = metadata_of(wheel)
    info = f"nero_optim-{metadata['Version']}.dist-info"
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
    metadata = metadata_of(wheel)
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


def test_changelog_speaks_of_this_version(wheel: zipfile.ZipFile) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    version = metadata_of(wheel)["Version"]
    assert headings[0] == "Unreleased"
    assert "dev" in version or headings[1] == version


def test_the_recipe_for_conda_asks_for_what_the_package_asks_for() -> None:
    text = (ROOT / "packaging/conda-forge/recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    host = {line.replace(" ", "") for line in recipe["requirements"]["host"]}
    assert host == {"python", "pip", *pyproject["build-system"]["requires"]}
    (torch,) = PROJECT["optional-dependencies"]["torch"]
    run = [line.replace(" ", "") for line in recipe["requirements"]["run"]]
    assert run == ["python" + PROJECT["requires-python"], f"py{torch}"]
    (command,) = recipe["build"]["python"]["entry_points"]
    assert command == f"nero = {PROJECT['scripts']['nero']}"
    assert recipe["about"]["homepage"] == SOURCE


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
