"""The shell commands of the documentation.

The programs that a page has its reader write are run. Of what takes minutes, the command's own
parser, --help or source is asked whether it takes the arguments; make lists what it would do.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nero_lab.cli.app import app
from pages import PAGES, ROOT, blocks, files, name


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands(text: str) -> list[list[str]]:
    """Return the commands of all sh blocks, split into words, without comments."""
    lines = (
        line for block in blocks(text) if block.language == "sh" for line in block.code.splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_pip(words: list[str], folder: Path) -> str:
    """What is installed is this checkout, with extras that it has, or a package with a pin.

    tests/test_packaging.py builds the package itself.
    """
    assert words[:2] == ["pip", "install"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    for wanted in words[2:]:
        requirement = Requirement(
            wanted.replace(".", project["name"], 1) if wanted[0] == "." else wanted
        )
        if requirement.name == project["name"]:
            assert requirement.extras <= set(project["optional-dependencies"]), wanted
        else:
            assert f"\n{canonicalize_name(requirement.name)}==" in pins, wanted
    return ""


def check_make(words: list[str], folder: Path) -> str:
    return run(["make", "--dry-run", *words[1:]], ROOT)


def check_nero(words: list[str], folder: Path) -> str:
    """The command's parser takes the arguments; nothing runs."""
    command, rest = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]  # pyright: ignore[reportAttributeAccessIssue]
    command.make_context(words[-1], rest)
    return ""


def check_python(words: list[str], folder: Path) -> str:
    """A program of the page is run; a longer one has every option that is given."""
    arguments = words[1:]
    if arguments[:2] == ["-m", "venv"]:
        return run([sys.executable, *arguments, "--without-pip"], folder)
    if arguments[:2] == ["-m", "nero_lab"]:
        return check_nero(arguments[1:], folder)
    if arguments[0] != "-m" and (folder / arguments[0]).exists():
        return run([sys.executable, *arguments], folder)
    program = arguments[: 2 if arguments[0] == "-m" else 1]
    found = find_spec(program[1]) if program[0] == "-m" else (ROOT / program[0]).exists()
    assert found, f"{shlex.join(words)}: there is no such program"
    for option in (word for word in arguments[len(program) :] if word.startswith("--")):
        assert re.search(rf"{option}\b", options_of(*program)), f"{shlex.join(words)}: no {option}"
    return ""


@cache
def options_of(*program: str) -> str:
    """A text with the options of a program: a file, or what --help prints of a module."""
    if program[0] != "-m":
        return (ROOT / program[0]).read_text("utf-8")
    return run([sys.executable, *program, "--help"], ROOT)


def check_torchrun(words: list[str], folder: Path) -> str:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--max-restarts", type=int)
    _, program = parser.parse_known_args(words[1:])
    return check_python(["python", *program], folder)


def check_pytest(words: list[str], folder: Path) -> str:
    """There are such tests in its file; nothing runs."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("file")
    parser.add_argument("-k", default="test_")
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-n", type=int)
    arguments = parser.parse_args(words[1:])
    path = ROOT / arguments.file
    files = path.glob("test_*.py") if path.is_dir() else [path]
    tests = "".join(file.read_text("utf-8") for file in files)
    assert re.search(rf"^def test_\w*{arguments.k.removeprefix('test_')}", tests, re.MULTILINE)
    return ""


def check_source(words: list[str], folder: Path) -> str:
    return run(["sh", "-ec", shlex.join(words)], folder)


CHECKS: dict[str, Callable[[list[str], Path], str]] = {
    "pip": check_pip,
    "make": check_make,
    "nero": check_nero,
    "python": check_python,
    "python3": check_python,
    "pytest": check_pytest,
    "torchrun": check_torchrun,
    ".": check_source,
}
TUTORIAL = ROOT / "docs/tutorial/first-network.md"
OTHERS = [page for page in PAGES if page != TUTORIAL and commands(page.read_text("utf-8"))]


def follow(text: str, folder: Path) -> str:
    """Do each of a page's commands once; return what they printed."""
    for file, code in files(text).items():
        (folder / file).write_text(code, "utf-8")
    once = dict.fromkeys(tuple(words) for words in commands(text))
    return "".join(CHECKS[words[0]](list(words), folder) for words in once)


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    follow(page.read_text("utf-8"), tmp_path)


def test_the_tutorial_ends_with_a_trained_network_and_its_picture(tmp_path: Path) -> None:
    printed = follow(TUTORIAL.read_text("utf-8"), tmp_path)
    assert float(re.findall(r"epoch 15: test accuracy (\S+)", printed)[-1]) > 0.9
    assert "still balanced: True" in printed
    assert (tmp_path / "first-network.png").read_bytes().startswith(b"\x89PNG")


def test_every_program_of_a_page_is_run() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        run_here = {word for words in commands(text) for word in words}
        assert set(files(text)) <= run_here, name(page)


@pytest.mark.parametrize(
    "wrong",
    [
        'pip install ".[lob]"',
        "pip install matplotlip",
        "make demmo",
        "nero tran deep-mlp",
        "nero train deep-mlp --rate 0.1",
        "nero train deep-mlp --lr fast",
        "python examples/fsdp2_gpt.py --stops 3",
        "python no_such_program.py",
        "python -m nero.no_such_program",
        "pytest tests/test_section7.py -k no_such_test",
        "torchrun --nproc-per-node 2 examples/fsdp2_gpt.py --stops 3",
        ". no-such-env/bin/activate",
        "curl example.org",
    ],
)
def test_a_wrong_command_fails(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - each checker raises its own
        follow(f"```sh\n{wrong}\n```\n", tmp_path)
