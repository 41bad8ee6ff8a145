"""Atari games as the paper's agents see them."""

from pathlib import Path

import ale_py
import gymnasium
from ale_py import roms
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

gymnasium.register_envs(ale_py)
# Without this it prints a line for each game.
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

_FRAMES = 4


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
