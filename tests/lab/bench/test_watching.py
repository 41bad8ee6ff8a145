"""What nero.watch costs, measured on a tiny network; the figures mean nothing."""

import inspect
import math

import pytest
import torch
import typer
from typer.testing import CliRunner

import nero
from nero_lab.bench import watching
from nero_lab.bench.training import mlp


def test_the_cost_of_a_watch_is_measured_beside_training_without_one():
    torch.manual_seed(0)
    training = mlp(2, 8, 16, 4)
    before = training.model.get_parameter("layers.0.weight").detach().clone()
    found = watching.measure(training, turns=1)
    assert found.seconds > 0
    assert math.isfinite(found.share)
    assert found.share == found.observed / watching.EVERY + found.idle
    assert not torch.equal(training.model.get_parameter("layers.0.weight"), before)


def test_the_default_is_the_librarys():
    assert inspect.signature(nero.watch).parameters["every"].default == watching.EVERY


@pytest.mark.parametrize(("only", "exit_code"), [("mlp-2", 0), ("mlp-3", 2)])
def test_the_command(only: str, exit_code: int):
    app = typer.Typer()
    app.command()(watching.main)
    result = CliRunner().invoke(app, ["--turns", "1", "--only", only])
    assert result.exit_code == exit_code, result.output
    assert ("2-layer MLP" in result.output) == (exit_code == 0)
