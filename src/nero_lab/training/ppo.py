"""Stable-Baselines3's PPO with any optimiser of the lab, as a run that is recorded and resumed."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.type_aliases import Schedule as RateByProgress
from stable_baselines3.common.vec_env import VecFrameStack
from torch import nn
from torch.optim import Optimizer

from nero_lab.experiments.run import Result, Run
from nero_lab.experiments.schedule import Schedule, warmup_factor
from nero_lab.models.atari import AtariFeatures
from nero_lab.optimizers import find_optimizer
from nero_lab.training.atari import make_games
from nero_lab.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    restoring,
    rng_state,
    set_rng_state,
    weights_digest,
)
from nero_lab.training.context import Context, Progress, Stopped

BuildOptimizer = Callable[[nn.Module, float], Optimizer]


class Policy(ActorCriticCnnPolicy):
    """Actor and critic on common features, with an optimiser that is built from the modules.

    Stable-Baselines3 hands an optimiser bare parameters, which do not say where their neurons are.

    Args:
        *args: those of ActorCriticCnnPolicy.
        build_optimizer: the policy and the initial learning rate -> the optimiser.
        **kwargs: those of ActorCriticCnnPolicy.
    """

    def __init__(self, *args: Any, build_optimizer: BuildOptimizer, **kwargs: Any) -> None:
        self.build_optimizer = build_optimizer
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: RateByProgress) -> None:
        # Makes an Adam too, which touches no weight and is let go.
        super()._build(lr_schedule)
        self.optimizer = self.build_optimizer(self, lr_schedule(1))


class Diverged(Exception):
    """The weights stopped being finite."""


class _WatchedPPO(PPO):
    def train(self) -> None:
        try:
            super().train()
        except ValueError:
            # What torch says of action probabilities that are NaN.
            if self._is_finite():
                raise
        if not self._is_finite():
            raise Diverged

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.policy.parameters())


class _AfterEpoch(BaseCallback):
    """Calls a function as a roll-out begins: the passes over the one before are over."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.call = call

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.call()


class PPORun:
    """One run of PPO on an Atari game.

    An epoch is one roll-out of `steps` in each of `games`, and the passes over it. A step is one
    action in one game: four frames. A run that was stopped goes on with the weights, the state of
    the optimiser and the counts of its checkpoint, and begins new games: it does not end with the
    bits of a run that nothing stopped.

    Args:
        run: options of its data: game, games, steps; of its model: those of AtariFeatures; of its
            loss: clip, value, entropy, discount, gae, passes.
        context: as in the loop; one device, no compilation.

    Raises:
        ValueError: more than one device, another precision than 32-true, or compilation.
    """

    def __init__(self, run: Run, context: Context) -> None:
        if context.devices * context.nodes > 1 or context.compile or run.precision != "32-true":
            raise ValueError(
                f"{run.task} runs on Stable-Baselines3: on one device, with precision 32-true and "
                "without --compile"
            )
        self.run, self.context = run, context
        self.schedule = Schedule(**run.schedule)
        self.curves: dict[str, list[float | None]] = {}
        self.seconds = 0.0
        self.epoch = 0
        self.checkpoints = None if context.checkpoints is None else Checkpoints(context.checkpoints)
        self.games = make_games(run.data["game"], run.data["games"], run.seed)
        self.ppo = self._build(self.games)

    def _build(self, games: VecFrameStack) -> PPO:
        run, loss = self.run, self.run.loss
        spec = find_optimizer(run.optimizer)

        def build_optimizer(policy: nn.Module, lr: float) -> Optimizer:
            optimizer = spec.build_for(policy, lr, options=run.optimizer_options, groups=run.groups)
            # Those with two sets of weights play and learn with the same one here.
            getattr(optimizer, "train", lambda: None)()
            return optimizer

        ppo = _WatchedPPO(
            Policy,
            games,
            learning_rate=self._learning_rate,
            n_steps=run.data["steps"],
            batch_size=run.batch_size,
            n_epochs=loss["passes"],
            gamma=loss["discount"],
            gae_lambda=loss["gae"],
            clip_range=loss["clip"],
            vf_coef=loss["value"],
            ent_coef=loss["entropy"],
            max_grad_norm=math.inf if run.clip_norm is None else run.clip_norm,
            seed=run.seed,
            device="auto" if self.context.accelerator == "auto" else self.context.accelerator,
            policy_kwargs={
                "build_optimizer": build_optimizer,
                "features_extractor_class": AtariFeatures,
                "features_extractor_kwargs": dict(run.model),
                # Actor and critic are one linear layer each, as with Mnih's network.
                "net_arch": [],
            },
        )
        ppo.set_logger(Logger(None, []))
        return ppo

    @property
    def _rollout(self) -> int:
        """Steps of an epoch."""
        return self.run.data["games"] * self.run.data["steps"]

    def _learning_rate(self, remaining: float) -> float:
        """Return the rate of an epoch; `remaining` is what is left of the run after its games."""
        epoch = max(0, round((1 - remaining) * self.run.epochs) - 1)
        factor = self.schedule.factor(epoch, 1, self.run.epochs)
        return self.run.lr * factor * warmup_factor(epoch, self.run.warmup_epochs)

    def fit(self) -> Result:
        """Play and learn to the end, and return what was measured.

        Raises:
            Stopped: the context's `stop` was set; the state is in a checkpoint, if there are any.
            CheckpointError: a checkpoint could not be written, or belongs to another run.
        """
        diverged = False
        try:
            self._resume_and_learn()
        except Diverged:
            diverged = True
            self._add_row()
        finally:
            self.games.close()
        if self.context.weights is not None:
            self.context.weights.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self.ppo.policy.state_dict(), self.context.weights)
        measured = {"return": self._mean_return()}
        return Result(
            status="diverged" if diverged else "finished",
            steps=self.ppo.num_timesteps,
            seconds=round(self.seconds, 3),
            # Played while learning: there is no other part than the one that is trained on.
            metrics={"train": measured, "test": measured},
            curves=self.curves,
            weights=weights_digest(self.ppo.policy),
        )

    def _resume_and_learn(self) -> None:
        steps = self.run.epochs * self._rollout
        resumed = self._resume()
        self._started = self._last_save = time.monotonic()
        self.ppo.learn(
            steps - self.ppo.num_timesteps,
            callback=_AfterEpoch(self._after_epoch),
            log_interval=self.run.epochs + 1,
            reset_num_timesteps=not resumed,
        )
        self._after_epoch()

    def _after_epoch(self) -> None:
        # At the start, and just after a resumption, no epoch is new.
        if self.ppo.num_timesteps == self.epoch * self._rollout:
            return
        now = time.monotonic()
        self.seconds, self._started = self.seconds + now - self._started, now
        self.epoch += 1
        if self.epoch % self.run.eval_every == 0 or self.epoch == self.run.epochs:
            self._add_row()
        newest = {name: column[-1] for name, column in self.curves.items()}
        self.context.on_progress(
            Progress(
                self.run,
                self.ppo.num_timesteps,
                self.run.epochs * self._rollout,
                self.epoch - 1,
                {name: value for name, value in newest.items() if value is not None},
            )
        )
        stop = self.context.stop.is_set()
        over = self.epoch == self.run.epochs
        if stop or over or now - self._last_save > self.context.save_seconds:
            self._save()
            self._last_save = now
        if stop:
            raise Stopped(f"stopped at step {self.ppo.num_timesteps}")

    def _mean_return(self) -> float | None:
        """Return the mean of the last hundred games, None while none is over."""
        games = self.ppo.ep_info_buffer
        return sum(game["r"] for game in games) / len(games) if games else None

    def _add_row(self) -> None:
        steps = self.ppo.num_timesteps
        loss = self.ppo.logger.name_to_value.get("train/loss")
        row = {
            "epoch": steps / self._rollout,
            "step": steps,
            "train_loss": loss if loss is not None and math.isfinite(loss) else None,
            "test_return": self._mean_return(),
        }
        for name, value in row.items():
            self.curves.setdefault(name, []).append(value)

    # ------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        ppo = self.ppo
        state = {
            "run_id": self.run.run_id,
            "policy": ppo.policy.state_dict(),
            "optimizer": ppo.policy.optimizer.state_dict(),
            "rng": rng_state(),
            "steps": ppo.num_timesteps,
            "finished_games": list(ppo.ep_info_buffer or ()),
            "epoch": self.epoch,
            "curves": self.curves,
            "seconds": self.seconds,
        }
        self.checkpoints.save(state, ppo.num_timesteps)

    def _resume(self) -> bool:
        """Go on from the newest checkpoint; return whether there was one."""
        saved = None if self.checkpoints is None else self.checkpoints.load()
        if saved is None:
            return False
        with restoring(self.context.checkpoints):
            self._restore(saved)
        return True

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["run_id"] != self.run.run_id:
            raise CheckpointError(f"{self.context.checkpoints} belongs to another run")
        ppo = self.ppo
        ppo.policy.load_state_dict(saved["policy"])
        ppo.policy.optimizer.load_state_dict(saved["optimizer"])
        ppo.num_timesteps = saved["steps"]
        ppo.ep_info_buffer = deque(saved["finished_games"], maxlen=ppo._stats_window_size)
        ppo.ep_success_buffer = deque(maxlen=ppo._stats_window_size)
        self.epoch, self.curves = saved["epoch"], saved["curves"]
        self.seconds = saved["seconds"]
        set_rng_state(saved["rng"])
