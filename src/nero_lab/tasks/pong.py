"""The paper's figure 9: Atari's Pong, learned by proximal policy optimisation."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nero_lab.data.found import FoundData
from nero_lab.data.parts import digest_files
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Metric, Preset, Task
from nero_lab.tasks.variants import standard_variants, with_grids

if TYPE_CHECKING:
    from nero_lab.experiments.run import Result, Run
    from nero_lab.training.context import Context

PAPER = Preset(
    name="paper",
    # 5 million steps: roll-outs of 8 games times 128 steps.
    epochs=4882,
    batch_size=256,
    schedule=Schedule("linear"),
    variants=standard_variants(),
    model={"channels": 32, "features_dim": 512},
    data={"game": "PongNoFrameskip-v4", "games": 8, "steps": 128},
    # Discount, GAE and the number of passes are PPO's customary ones for Atari games.
    loss={
        "clip": 0.1,
        "value": 0.5,
        "entropy": 0.01,
        "discount": 0.99,
        "gae": 0.95,
        "passes": 4,
    },
    groups={"head": ["action_net", "value_net"]},
    clip_norm=0.5,
    eval_every=48,
)

CPU = replace(
    PAPER,
    name="cpu",
    epochs=60,
    # The default, and what the paper found best: Nero 0.01, SGD 0.1, Adam 1e-4, LAMB 1e-3.
    variants=with_grids(
        PAPER.variants,
        {"nero": (1e-2,), "sgd": (1e-3, 1e-1), "adam": (1e-4, 1e-3), "lamb": (1e-3,)},
    ),
    model={"channels": 8, "features_dim": 128},
    eval_every=5,
    deviations="61,440 steps instead of 5 million, and a network a quarter as wide. Pong takes "
    "about a million steps to learn: nothing here plays it, and what differs between optimisers is "
    "how the first of it goes. For each only the default learning rate and the paper's.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=3,
    batch_size=16,
    variants=with_grids(PAPER.variants[:2], {"nero": (1e-2,), "sgd": (1e-3,)}),
    seeds=(0, 1),
    model={"channels": 2, "features_dim": 8},
    data={"game": "PongNoFrameskip-v4", "games": 2, "steps": 32},
    eval_every=1,
    deviations="Far too small to compare anything; for tests.",
)


class Pong(Task):
    """Play Pong by PPO; reports the mean return of the last hundred games played while learning.

    A game goes to 21 points; its return is the points won less the points lost, so from -21 to 21.
    An epoch is one roll-out in every game and the passes over it; a step is an action in a game.

    Options of the model: channels, features_dim (`nero_lab.models.atari.AtariFeatures`). Of the
    data: game, games, steps of a roll-out. Of the loss: clip, value, entropy, discount, gae,
    passes.
    """

    name = "pong"
    figure = "9"
    title = "PPO on Atari's Pong"
    # A random player's return is that of Mnih et al., Nature 2015.
    metric = Metric("return", "points won less points lost in a game", "higher", chance=-20.7)
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return the game, which comes inside ale-py."""
        from nero_lab.training.atari import rom_path

        return FoundData("Atari Pong", digest_files([rom_path("pong")]))

    def run(self, run: "Run", context: "Context") -> "Result":
        """Return what a run measured."""
        from nero_lab.training.ppo import PPORun

        return PPORun(run, context).fit()
