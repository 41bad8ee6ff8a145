import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nero_lab.bench import backward_memory
from nero_lab.bench.backward_memory import BEGIN, END, OPTIMIZERS, Peak


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch):
    import typer

    made = typer.Typer()
    made.command()(backward_memory.main)
    return made


def test_a_process_of_its_own_tells_its_peak():
    found = backward_memory.measure("nero", in_backward=True, quick=True)
    assert found.peak >= found.before > 0
    assert found.parameters > 100_000


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_both_ways_train_the_same_model_alike(optimizer: str):
    assert backward_memory.train(optimizer, False, quick=True) == backward_memory.train(
        optimizer, True, quick=True
    )


def test_the_table_goes_between_the_marks(app, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backward_memory, "measure", lambda *_: Peak(100, 1000, 2600))
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    result = CliRunner().invoke(app, ["--page", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "| Nero | in backward | 1.56 KiB | 1.17 KiB | 16.00 |" in text
    assert re.search(r"above\n<!-- .*begin -->\n\n\| optimiser", text)
    assert text.endswith(f"{END}\nbelow\n")
    assert "old" not in text
    page.write_text("no marks")
    result = CliRunner().invoke(app, ["--page", str(page)])
    assert result.exit_code == 1
    assert "has no lines" in result.output
