import json
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from typer.testing import CliRunner

from nero_lab.cli.app import app
from nero_lab.models.zoo import load_model

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 100}


def config_file(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(GPT2 | changes))
    return path


def test_a_torchvision_model_is_described() -> None:
    result = CliRunner().invoke(app, ["describe", "resnet50", "--head", "fc"])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line}
    assert rows["conv1.weight"][1:3] == ["Conv2d", "weight"]
    assert rows["fc.weight"][1:3] == ["Linear", "head"]
    assert "161 parameters, 25,557,032 entries" in result.output


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_local_config_is_described(tmp_path: Path, as_folder: bool) -> None:
    path = config_file(tmp_path, architectures=["GPT2LMHeadModel"])
    result = CliRunner().invoke(app, ["describe", str(tmp_path if as_folder else path)])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line}
    # Stored as (in, out): 32 x 96, so 96 neurons of fan-in 32.
    attention = rows["transformer.h.0.attn.c_attn.weight"]
    assert attention[1:8] == ["Conv1D", "weight", "32", "x", "96", "96", "32"]
    assert "= lm_head.weight" in result.output  # tied to the embedding


def test_a_config_without_a_class_gives_the_bare_model(tmp_path: Path) -> None:
    model = load_model(str(config_file(tmp_path)))
    assert type(model).__name__ == "GPT2Model"
    assert all(p.is_meta for p in model.parameters())


def test_models_with_a_backbone_download_nothing() -> None:
    model = load_model("fasterrcnn_resnet50_fpn")
    assert isinstance(model, torchvision.models.detection.FasterRCNN)


def test_what_is_no_model_is_an_error_that_helps(tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["describe", "resnet5O"])
    assert result.exit_code == 1
    assert "close to it: resnet50" in result.output
    result = runner.invoke(app, ["describe", "resnet18", "--preset", "best"])
    assert "preset must be one of" in result.output
    result = runner.invoke(app, ["describe", "resnet18", "--head", "fcc"])
    assert "did you mean 'fc" in result.output
    broken = tmp_path / "config.json"
    broken.write_text("{}")
    result = runner.invoke(app, ["describe", str(broken)])
    assert (result.exit_code, "not a config" in result.output) == (1, True)


def test_without_the_lab_the_command_says_what_to_install() -> None:
    hidden = "import sys; sys.modules['typer'] = None; import nero_lab.cli.app"
    run = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == ('nero: the command needs the lab: pip install "nero-optim[lab]"')
