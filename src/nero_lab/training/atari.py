"""Atari games as the paper's agents see them, and their state, so that a run can be taken up."""

import pickle
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

gymnasium.register_envs(ale_py)
# It greets whoever starts a game.
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

_FRAMES = 4
# What of a wrapper or game changes while it is played: of these types, and none of these names.
_CHANGING = (bool, int, float, str, list, tuple, dict, np.ndarray, np.random.Generator)
_FIXED = ("env", "spec")


def rom_path(game: str) -> Path:
    """Return the file of a game, which comes inside ale-py; game: "pong"."""
    path = roms.get_rom_path(game)
    assert path is not None
    return path


def make_games(name: str, games: int, seed: int) -> VecFrameStack:
    """Return several games of one kind, played side by side in this process.

    With the usual wrappers: up to 30 idle frames at the start, every fourth frame (the maximum of
    two), 84 x 84 in grey, the last four frames stacked, rewards cut to their sign, the loss of a
    life as the end of an episode.

    Args:
        name: such as "PongNoFrameskip-v4".
        games: how many.
        seed: of the first; the others count on.
    """
    return VecFrameStack(make_atari_env(name, n_envs=games, seed=seed), n_stack=_FRAMES)


def games_state(games: VecFrameStack) -> bytes:
    """Return all that decides how the games go on."""
    return pickle.dumps(
        {
            "games": [_state(game) for game in _each(games)],
            "frames": games.stacked_obs.stacked_obs,
        }
    )


def set_games_state(games: VecFrameStack, state: bytes) -> None:
    """Put games into a state that `games_state` returned, from a file that is trusted."""
    saved = pickle.loads(state)
    for game, layers in zip(_each(games), saved["games"], strict=True):
        for layer, (values, console) in zip(_layers(game), layers, strict=True):
            vars(layer).update(values)
            if console is not None:
                layer.ale.restoreSystemState(console)
    games.stacked_obs.stacked_obs = saved["frames"]


def _each(games: VecFrameStack) -> list[gymnasium.Env]:
    inner = games.venv
    assert isinstance(inner, DummyVecEnv)
    return inner.envs


def _layers(game: Any) -> list[Any]:
    """Return the wrappers around a game, the game itself last."""
    layers = [game]
    while hasattr(layers[-1], "env"):
        layers.append(layers[-1].env)
    return layers


def _state(game: gymnasium.Env) -> list[tuple[dict[str, Any], Any]]:
    return [
        (
            {
                name: value
                for name, value in vars(layer).items()
                if isinstance(value, _CHANGING) and name not in _FIXED
            },
            layer.ale.cloneSystemState() if layer is game.unwrapped else None,
        )
        for layer in _layers(game)
    ]
