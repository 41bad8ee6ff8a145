"""The training loop of one run of a task, on Lightning Fabric.

The same run gives the same result bit for bit on the same machine with the same number of threads,
whether or not it was killed in between: a checkpoint holds weights, optimisers, generators, sums
and curves, and the batches of a step depend on the seed and the step alone.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nero_lab.experiments.run import Result, Run
from nero_lab.experiments.schedule import Schedule, warmup_factor
from nero_lab.experiments.task import Data, Loader, Task
from nero_lab.optimizers import find_optimizer
from nero_lab.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    restoring,
    rng_state,
    save_weights,
    set_rng_state,
    start_from,
    weights_digest,
)
from nero_lab.training.context import Context, Progress, Stopped
from nero_lab.training.devices import OnDevice, any_process, gather_states, launch_fabric, rows_of
from nero_lab.training.first_inputs import first_inputs
from nero_lab.training.layers import Layers

_CHECK_STEPS = 50
"""Steps from one look at the loss, for divergence, to the next: a look waits for the device."""
_AGREE_STEPS = 10
"""Steps from one agreement between several processes, on whether to save or stop, to the next."""
_SHOW_SECONDS = 0.25


@dataclass
class _State:
    """Where a run is."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    rows: int = 0
    """since the last row of the curves, with `sums`"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    diverged: bool = False


class Loop:
    """One run, from its fresh weights or its last checkpoint to its result.

    Args:
        task: what is trained.
        run: how; on a data set that was found.
        context: where, and on what.
    """

    def __init__(self, task: Task, run: Run, context: Context) -> None:
        self.task, self.run, self.context = task, run, context
        self.fabric = launch_fabric(task, run, context)
        self._check_devices()
        self.data = self._load_data()
        torch.manual_seed(run.seed)
        # On its device before optimisers ask anything of it, which may take passes through it.
        self.raw_model = self.fabric.to_device(self._build_model())
        if run.start is not None:
            self._start_from(run.start)
        modules = task.trained_modules(self.raw_model)
        self.raw_optimizers = self._build_optimizers(modules)
        self.base_lrs = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.raw_optimizers.items()
        }
        self.model, self.optimizers = self._set_up()
        if self.fabric.global_rank:
            # Fresh weights are the same everywhere; dropout is not.
            torch.manual_seed(hash((run.seed, self.fabric.global_rank)) % 2**63)
        every = context.watch
        self.layers = None if every is None else Layers(self.raw_optimizers, every)
        self.schedule = Schedule(**run.schedule)
        self.steps_per_epoch = len(self.data.train)
        self.state = _State()
        self.newest: dict[str, float] = {}
        self.checkpoints = None if context.checkpoints is None else Checkpoints(context.checkpoints)

    def _load_data(self) -> Data:
        found = self.task.find_data(self.context.data_folder, **self.run.data)
        self.run.check_data(found)
        return self.task.load_data(found, self.run.batch_size, **self.run.data)

    def _build_model(self) -> nn.Module:
        try:
            return self.task.build_model(**self.run.model)
        except TypeError as error:
            raise ValueError(
                f"{self.run.task} builds no model with the options {dict(self.run.model)}: {error}"
            ) from error

    def _start_from(self, start: Mapping[str, Any]) -> None:
        if self.context.start is None:
            raise ValueError(f"{self.run} starts from the weights of run {start['run']}: give them")
        start_from(self.raw_model, self.context.start, start["fresh"])

    def _build_optimizers(self, modules: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
        spec, run = find_optimizer(self.run.optimizer), self.run
        inputs: dict[str, Any] = {}
        if spec.by_model:
            batch = self.fabric.to_device(next(iter(self.data.train.batches(0, seed=run.seed))))
            inputs = first_inputs(self.task, self.raw_model, modules, batch, **run.loss)
        return {
            name: spec.build_for(
                module,
                run.lr,
                options=run.optimizer_options,
                groups=run.groups,
                batch=inputs.get(name),
                fresh=run.start is None,
            )
            for name, module in modules.items()
        }

    def _check_devices(self) -> None:
        if self.run.batch_size % self.fabric.world_size:
            raise ValueError(
                f"a batch of {self.run.batch_size} cannot be shared equally by "
                f"{self.fabric.world_size} devices: choose --devices that divide it"
            )

    def _set_up(self) -> tuple[Any, dict[str, Any]]:
        model: Any = torch.compile(self.raw_model) if self.context.compile else self.raw_model
        wrapped, *optimizers = self.fabric.setup(model, *self.raw_optimizers.values())
        return wrapped, dict(zip(self.raw_optimizers, optimizers, strict=True))

    # ------------------------------------------------------------------ the run

    def fit(self) -> Result:
        """Train to the end and return what was measured.

        Raises:
            Stopped: the context's `stop` was set; the state is in a checkpoint, if there are any.
            CheckpointError: a checkpoint could not be written.
        """
        self._resume()
        self._last_save = self._last_shown = time.monotonic()
        state = self.state
        while state.epoch < self.run.epochs and not state.diverged:
            self._train_epoch()
            if self._diverging():
                state.diverged = True
            else:
                state.epoch, state.step_in_epoch = state.epoch + 1, 0
            if state.diverged or self._evaluation_due():
                self._add_row()
            if state.epoch < self.run.epochs and not state.diverged:
                self._save_if_due()
        self._save()
        return self._result()

    def _train_epoch(self) -> None:
        state, run = self.state, self.run
        self._set_mode(training=True)
        batches = self.data.train.batches(
            state.epoch,
            seed=run.seed,
            first=state.step_in_epoch,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        start = time.perf_counter()
        for batch in map(self.fabric.to_device, batches):
            self._set_learning_rates()
            numbers = self.task.training_step(self.model, batch, self._update, **run.loss)
            self._add(numbers, rows_of(batch))
            state.step += 1
            state.step_in_epoch += 1
            if self.layers is not None:
                self.layers.collect(state.step)
            now = time.perf_counter()
            state.seconds, start = state.seconds + now - start, now
            if state.step % _CHECK_STEPS == 0 and self._diverging():
                return
            self._show()
            # After the last step of an epoch its evaluation comes first.
            if state.step_in_epoch < self.steps_per_epoch:
                self._save_if_due()
                start = time.perf_counter()
        if state.step_in_epoch == 0:
            raise ValueError(f"{run}: an epoch has no batches")

    def _set_learning_rates(self) -> None:
        factor = self.schedule.factor(self.state.step, self.steps_per_epoch, self.run.epochs)
        warmup = warmup_factor(self.state.step, self.run.warmup_epochs * self.steps_per_epoch)
        for name, optimizer in self.raw_optimizers.items():
            for group, lr in zip(optimizer.param_groups, self.base_lrs[name], strict=True):
                group["lr"] = lr * factor * warmup

    def _update(self, loss: Tensor, name: str = "model") -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.run.clip_norm is not None:
            self.fabric.clip_gradients(
                self.model, optimizer, max_norm=self.run.clip_norm, error_if_nonfinite=False
            )
        optimizer.step()

    def _set_mode(self, training: bool) -> None:
        self.model.train(training)
        for optimizer in self.raw_optimizers.values():
            # Schedule-free optimisers evaluate at other weights than they train at.
            switch = getattr(optimizer, "train" if training else "eval", None)
            if switch is not None:
                switch()

    # ------------------------------------------------------------------ what is measured

    def _add(self, numbers: Mapping[str, Tensor], rows: int) -> None:
        self.state.rows += rows
        for name, value in numbers.items():
            before = self.state.sums.get(name)
            added = value.detach().to(torch.float64) * rows
            self.state.sums[name] = added if before is None else before + added

    def _training_means(self) -> dict[str, float]:
        """Return the means since the last row of the curves, over all devices."""
        state = self.state
        if not state.rows:
            return {}
        names = sorted(state.sums)
        rows = torch.tensor(float(state.rows), dtype=torch.float64, device=self.fabric.device)
        totals = self.fabric.all_reduce(
            torch.stack([*(state.sums[name] for name in names), rows]), reduce_op="sum"
        )
        assert isinstance(totals, Tensor)
        *sums, total_rows = totals.tolist()
        return {name: value / total_rows for name, value in zip(names, sums, strict=True)}

    def _diverging(self) -> bool:
        loss = self._training_means().get("loss", 0.0)
        return not math.isfinite(loss) or loss > self.task.loss_limit

    def _evaluation_due(self) -> bool:
        return self.state.epoch % self.run.eval_every == 0 or self.state.epoch == self.run.epochs

    def _add_row(self) -> None:
        """Evaluate, and add a row to the curves."""
        state = self.state
        split = "test" if self.data.val is None else "val"
        row: dict[str, float] = {"epoch": state.step / self.steps_per_epoch, "step": state.step}
        row |= {f"train_{name}": value for name, value in self._training_means().items()}
        row |= {f"{split}_{name}": value for name, value in self._evaluate(split).items()}
        for name, value in row.items():
            state.curves.setdefault(name, []).append(value if math.isfinite(value) else None)
        state.sums, state.rows = {}, 0
        self.newest |= row
        self._show(now=True)

    def _evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics on a part, nothing where the task has no such part."""
        loader: Loader | None = getattr(self.data, split)
        if loader is None:
            return {}
        self._set_mode(training=False)
        with torch.no_grad():
            return dict(self.task.evaluate(self.model, OnDevice(loader, self.fabric)))

    def _result(self) -> Result:
        state = self.state
        parts = {"train": "train_eval", "val": "val", "test": "test"}
        measured = {name: self._evaluate(part) for name, part in parts.items()}
        self._set_mode(training=False)
        if self.context.weights is not None and self.fabric.is_global_zero:
            save_weights(self.raw_model, self.context.weights)
        return Result(
            status="diverged" if state.diverged else "finished",
            steps=state.step,
            seconds=round(state.seconds, 3),
            metrics={
                split: {n: v if math.isfinite(v) else None for n, v in metrics.items()}
                for split, metrics in measured.items()
                if metrics
            },
            curves=state.curves,
            weights=weights_digest(self.raw_model),
            layers={} if self.layers is None else self.layers.columns,
        )

    def _show(self, now: bool = False) -> None:
        if not self.fabric.is_global_zero:
            return
        if not now and time.monotonic() - self._last_shown < _SHOW_SECONDS:
            return
        self._last_shown = time.monotonic()
        steps = self.run.epochs * self.steps_per_epoch
        epoch = min(self.state.epoch, self.run.epochs - 1)
        self.context.on_progress(
            Progress(self.run, self.state.step, steps, epoch, dict(self.newest))
        )

    # ------------------------------------------------------------------ checkpoints

    def _save_if_due(self) -> None:
        stop = self.context.stop.is_set()
        due = time.monotonic() - self._last_save > self.context.save_seconds
        if self.fabric.world_size > 1:
            if self.state.step % _AGREE_STEPS and not self._save_step():
                return
            stop, due = any_process(self.fabric, stop), any_process(self.fabric, due)
        if stop or ((due or self._save_step()) and self.checkpoints is not None):
            self._save()
        if stop:
            raise Stopped(f"stopped at step {self.state.step}")

    def _save_step(self) -> bool:
        every = self.context.save_steps
        return every is not None and self.state.step % every == 0

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        own = {"rng": rng_state(), "sums": self.state.sums, "rows": self.state.rows}
        processes = gather_states(self.fabric, own)
        if self.fabric.is_global_zero:
            state = vars(self.state) | {
                "run_id": self.run.run_id,
                "model": self.raw_model.state_dict(),
                "optimizers": {name: o.state_dict() for name, o in self.raw_optimizers.items()},
                "precision": self.fabric.strategy.precision.state_dict(),
                "processes": processes,
                "newest": self.newest,
                "layers": None if self.layers is None else self.layers.state_dict(),
            }
            self.checkpoints.save(state, self.state.step)
        self.fabric.barrier()
        self._last_save = time.monotonic()

    def _resume(self) -> None:
        saved = None if self.checkpoints is None else self.checkpoints.load()
        # All have read before one of them writes.
        self.fabric.barrier()
        if saved is not None:
            with restoring(self.context.checkpoints):
                self._restore(saved)

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved.pop("run_id") != self.run.run_id:
            raise CheckpointError(f"{self.context.checkpoints} belongs to another run")
        self.raw_model.load_state_dict(saved.pop("model"))
        for name, state in saved.pop("optimizers").items():
            self.raw_optimizers[name].load_state_dict(state)
        self.fabric.strategy.precision.load_state_dict(saved.pop("precision"))
        self.newest = saved.pop("newest")
        layers = saved.pop("layers", None)  # older checkpoints have none
        if self.layers is not None and layers is not None:
            self.layers.load_state_dict(layers)
        processes = saved.pop("processes")
        self.state = _State(**saved)
        if len(processes) == self.fabric.world_size:
            own = processes[self.fabric.global_rank]
            set_rng_state(own["rng"])
            self.state.rows = own["rows"]
            self.state.sums = {
                name: value.to(self.fabric.device) for name, value in own["sums"].items()
            }
        else:
            # Another number of devices: the epoch's means start anew, and dropout draws others.
            self.state.rows, self.state.sums = 0, {}


def train_run(task: Task, run: Run, context: Context) -> Result:
    """Train one run of a task, going on from its last checkpoint if it has one.

    Raises:
        Stopped: it was asked to stop.
        CheckpointError: a checkpoint could not be written.
        ValueError: it is to be watched, and the task trains in a loop of its own.
    """
    own: Callable[[Run, Context], Result] | None = getattr(task, "run", None)
    if own is not None and context.watch is not None:
        raise ValueError(f"{run.task} trains in a loop of its own, which cannot be watched")
    return Loop(task, run, context).fit() if own is None else own(run, context)
