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


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}},
        {"auto_map": {"AutoModel": "evil.Evil"}, "architectures": ["Evil"]},
        {"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"},
    ],
    ids=["known type", "unknown class", "unknown type"],
)
def test_code_beside_a_config_is_not_run(tmp_path: Path, fields: dict[str, object]) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = config_file(tmp_path, **fields)
    # Whoever is asked whether to run it says yes.
    result = CliRunner().invoke(app, ["describe", str(path)], input="y\n" * 9)
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in result.output
    if "model_type" in fields:
        assert result.exit_code == 1
        assert "code beside a config is not run" in result.output
        assert len(result.output.strip().splitlines()) == 1
    else:
        assert "wte.weight" in result.output


@pytest.mark.parametrize(
    "architectures", [["GPT2Config"], ["pipeline"], ["AutoModel"], ["GPT2Tokenizer", "no such"]]
)
def test_a_name_that_is_no_model_of_transformers_gives_the_bare_model(
    tmp_path: Path, architectures: list[str]
) -> None:
    model = load_model(str(config_file(tmp_path, architectures=architectures)))
    assert type(model).__name__ == "GPT2Model"


def test_the_file_that_is_named_is_described_and_no_other(tmp_path: Path) -> None:
    small = config_file(tmp_path, n_layer=1).rename(tmp_path / "small.json")
    config_file(tmp_path, n_layer=3)
    assert len(load_model(str(small)).h) == 1
    assert len(load_model(str(tmp_path)).h) == 3


@pytest.mark.parametrize(
    "contents",
    [
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"model_type": 3}',
        b'{"model_type": ["gpt2"]}',
        b'{"model_type": "gpt2", "n_layer": "two"}',
        b'{"model_type": "gpt2", "architectures": 7}',
        b'{"model_type": "gpt2", "n_embd": -4}',
    ],
)
def test_a_broken_config_is_one_line(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "config.json").write_bytes(contents)
    result = CliRunner().invoke(app, ["describe", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert len(result.output.strip().splitlines()) == 1


def test_without_the_lab_the_command_says_what_to_install() -> None:
    hidden = "import sys; sys.modules['typer'] = None; import nero_lab.cli.app"
    run = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == ('nero: the command needs the lab: pip install "nero-optim[lab]"')
