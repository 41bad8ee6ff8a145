from dataclasses import replace

import pytest
import torch

import nero
from nero_lab.experiments.run import find_variant, plan_run
from nero_lab.tasks.pong import Pong
from nero_lab.training.atari import games_state, make_games, set_games_state
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


def test_a_run_that_was_stopped_goes_on_to_the_same_end(result, tmp_path):
    stopping = context(checkpoints=tmp_path)

    def stop(progress):
        stopping.stop.set()

    with pytest.raises(Stopped):
        train_run(TASK, a_run(), replace(stopping, on_progress=stop))
    seen = []
    resumed = train_run(
        TASK,
        a_run(),
        context(checkpoints=tmp_path, on_progress=lambda progress: seen.append(progress.step)),
    )
    assert seen == [128, 192]
    assert resumed.weights == result.weights
    assert resumed.curves == result.curves


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


def test_games_go_on_as_they_would_have():
    actions = torch.Generator().manual_seed(0)

    def play(games, steps):
        generator = torch.Generator().manual_seed(1)
        return [
            games.step(torch.randint(6, (2,), generator=generator).numpy())[:3]
            for _ in range(steps)
        ]

    games = make_games("PongNoFrameskip-v4", 2, seed=0)
    games.reset()
    for _ in range(20):
        games.step(torch.randint(6, (2,), generator=actions).numpy())
    state = games_state(games)
    expected = play(games, 60)
    games.close()
    fresh = make_games("PongNoFrameskip-v4", 2, seed=7)
    set_games_state(fresh, state)
    for (seen, rewards, dones), (pixels, reward, done) in zip(
        play(fresh, 60), expected, strict=True
    ):
        assert (seen == pixels).all()
        assert (rewards == reward).all()
        assert (dones == done).all()
    fresh.close()


def test_the_papers_settings():
    paper = TASK.presets["paper"]
    assert paper.epochs * paper.data["games"] * paper.data["steps"] == pytest.approx(5e6, rel=1e-3)
    # Four minibatches.
    assert paper.data["games"] * paper.data["steps"] == 4 * paper.batch_size
    assert (paper.loss["clip"], paper.loss["value"], paper.loss["entropy"]) == (0.1, 0.5, 0.01)
