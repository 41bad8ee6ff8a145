"""The commit that a record names is this project's, and asking for it runs nothing."""

import os
import subprocess
from pathlib import Path

import pytest

from nero_lab.records import environment


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that stands for `environment.py`, in a folder of a repository."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "README").write_text("someone's project")
    git(tmp_path, "add", "README")
    git(tmp_path, "commit", "-q", "-m", "first")
    file = tmp_path / "venv" / "lib" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(environment, "__file__", str(file))
    return file


def commit() -> str | None:
    return environment.commit.__wrapped__()


def run_when_asked(repository: Path) -> Path:
    """Make a repository run a script whenever git looks at its files; return what that writes."""
    ran = repository / "ran"
    script = repository / ".git" / "hooks" / "post-index-change"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\necho >> {ran}\n")
    script.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(script))
    return ran


def test_a_package_installed_inside_another_repository_has_no_commit(package: Path, tmp_path: Path):
    ran = run_when_asked(tmp_path)
    assert commit() is None
    assert not ran.exists()


def test_a_checkout_names_its_commit_and_runs_none_of_its_scripts(package: Path, tmp_path: Path):
    git(tmp_path, "add", "venv")
    git(tmp_path, "commit", "-q", "-m", "second")
    head = git(tmp_path, "rev-parse", "HEAD")
    ran = run_when_asked(tmp_path)
    os.utime(package, (1, 1))  # so that git looks at it again
    assert commit() == head
    package.write_text("changed")
    assert commit() == f"{head}-dirty"
    assert not ran.exists()


def test_a_repository_that_the_environment_names_is_not_asked(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", ".")
    git(other, "-c", "core.hooksPath=", "commit", "-q", "--allow-empty", "-m", "other")
    git(tmp_path, "add", "venv")
    git(tmp_path, "commit", "-q", "-m", "second")
    head = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit() == head


def test_without_git_there_is_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert commit() is None
