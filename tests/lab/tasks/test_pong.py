from dataclasses import replace

import pytest
import torch

import nero
from nero_lab.experiments.run import find_variant, plan_run
from nero_lab.tasks.pong import Pong
from nero_lab.training.checkpoints import Checkpoints
from nero_lab.training.context import Context, Stopped
from nero_lab.training.loop import train_run
from nero_lab.training.ppo import PPORun

TASK = Pong()


def a_run(optimizer="nero", lr=0.01, preset="tiny", seed=0):
    preset = TASK.presets[preset]
    run = plan_run(TASK, preset, find_variant(preset, optimizer), lr, seed)
    return run.on(TASK.find_data(None))


def context(**options):
    return Context(accelerator="cpu", **options)


@pytest.fixture(scope="module")
def result():
    return train_run(TASK, a_run(), context())


def test_a_run_plays_learns_and_is_recorded(result):
    assert (result.status, result.steps) == ("finished", 3 * 2 * 32)
    assert result.curves["epoch"] == [1, 2, 3]
    assert result.curves["step"] == [64, 128, 192]
    assert all(loss is not None for loss in result.curves["train_loss"])
    # No game is over after so few steps.
    assert result.metrics == {"train": {"return": None}, "test": {"return": None}}


def test_the_seed_decides(result):
    assert train_run(TASK, a_run(seed=1), context()).weights != result.weights


def stop_after_one_epoch(folder):
    stopping = context(checkpoints=folder)

    def stop(progress):
        stopping.stop.set()

    with pytest.raises(Stopped):
        train_run(TASK, a_run(), replace(stopping, on_progress=stop))


def test_a_run_that_was_stopped_goes_on_with_its_weights_state_and_curves(result, tmp_path):
    stop_after_one_epoch(tmp_path)
    saved = Checkpoints(tmp_path).load()
    resumed = PPORun(a_run(), context(checkpoints=tmp_path))
    resumed._resume()
    policy = resumed.ppo.policy
    torch.testing.assert_close(policy.state_dict(), saved["policy"], rtol=0, atol=0)
    state = policy.optimizer.state_dict()["state"]
    torch.testing.assert_close(state, saved["optimizer"]["state"], rtol=0, atol=0)
    assert resumed.curves == {name: column[:1] for name, column in result.curves.items()}


def test_a_run_that_was_stopped_goes_on_to_its_end_in_new_games(result, tmp_path):
    stop_after_one_epoch(tmp_path)
    seen = []
    report = context(checkpoints=tmp_path, on_progress=lambda progress: seen.append(progress.step))
    resumed = train_run(TASK, a_run(), report)
    assert seen == [128, 192]
    assert (resumed.status, resumed.steps) == ("finished", result.steps)
    assert resumed.curves["step"] == result.curves["step"]
    assert resumed.curves["train_loss"][0] == result.curves["train_loss"][0]


def test_final_weights_are_kept(tmp_path):
    path = tmp_path / "inner" / "weights.pt"
    run = replace(a_run(), epochs=1)
    train_run(TASK, run, context(weights=path))
    state = torch.load(path, weights_only=True)
    layout = nero.NeuronLayout(tuple(state["action_net.weight"].shape))
    assert nero.geometry.is_balanced(state["action_net.weight"], layout, atol=1e-5).all()


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "madam-balanced", "schedule-free"])
def test_any_optimizer_of_the_table_takes_part(optimizer):
    run = replace(a_run(optimizer), epochs=1)
    assert train_run(TASK, run, context()).status == "finished"


def test_muon_leaves_the_heads_to_adamw():
    run = PPORun(a_run("muon"), context())
    muon, adamw = run.ppo.policy.optimizer.param_groups
    policy = run.ppo.policy
    assert {id(policy.action_net.weight), id(policy.value_net.weight)} == {
        id(p) for p in adamw["params"] if p.ndim > 1
    }
    assert len(muon["params"]) == 4


def test_neros_weights_are_balanced_and_its_rate_falls_in_a_line():
    run = PPORun(a_run(), context())
    for name, p in run.ppo.policy.named_parameters():
        if p.ndim > 1:
            layout = nero.NeuronLayout(tuple(p.shape))
            assert nero.geometry.is_balanced(p.detach(), layout, atol=1e-5).all(), name
    run.fit()
    # Of three epochs' rates, 1, 2/3 and 1/3 of the whole, that of the last.
    for group in run.ppo.policy.optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.01 / 3)


def test_weights_that_are_not_finite_end_a_run():
    run = PPORun(a_run(), context())
    with torch.no_grad():
        run.ppo.policy.value_net.bias.fill_(float("nan"))
    result = run.fit()
    assert result.status == "diverged"
    assert result.steps == 64
    assert result.curves["step"] == [64]


def test_an_error_that_is_none_of_divergence_is_not_hidden(monkeypatch):
    run = PPORun(a_run(), context())

    def fail(*args, **kwargs):
        raise ValueError("something else")

    monkeypatch.setattr(run.ppo.rollout_buffer, "get", fail)
    with pytest.raises(ValueError, match="something else"):
        run.fit()


@pytest.mark.parametrize("option", [{"devices": 2}, {"compile": True}])
def test_what_stable_baselines_does_not_do_is_refused(option):
    with pytest.raises(ValueError, match="on one device"):
        PPORun(a_run(), context(**option))
    with pytest.raises(ValueError, match="32-true"):
        PPORun(replace(a_run(), precision="bf16-mixed"), context())


def test_the_papers_settings():
    paper = TASK.presets["paper"]
    assert paper.epochs * paper.data["games"] * paper.data["steps"] == pytest.approx(5e6, rel=1e-3)
    # Four minibatches.
    assert paper.data["games"] * paper.data["steps"] == 4 * paper.batch_size
    assert (paper.loss["clip"], paper.loss["value"], paper.loss["entropy"]) == (0.1, 0.5, 0.01)
