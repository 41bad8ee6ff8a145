"""Lightning: a callback that sends what `nero.watch` sees to the loggers."""

from __future__ import annotations

from typing import Any

from nero.integrations.wrapped import unwrap
from nero.telemetry import watch

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    if error.name != "lightning":
        raise
    message = "nero.integrations.lightning needs lightning: pip install lightning"
    raise ModuleNotFoundError(message, name="lightning") from None


class Watch(Callback):
    """Log what the neurons of each layer do in every `every`-th step: `nero.watch`.

    Every logger of the trainer gets the reports, under the step that the trainer counts. Where
    there are several optimisers, keys begin with the optimiser's place.

    Args:
        every: as for `nero.watch`. Default 200.

    Raises:
        TypeError: when training starts, that an optimiser is no `nero.Nero`.

    Examples:
        >>> import lightning, nero.integrations.lightning
        >>> callback = nero.integrations.lightning.Watch(every=50)
        >>> trainer = lightning.Trainer(max_epochs=1, callbacks=[callback], accelerator="cpu")
    """

    def __init__(self, every: int = 200) -> None:
        self.every = every
        self._watches: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start to watch all optimisers."""
        self._watches = [watch(unwrap(each), self.every) for each in trainer.optimizers]

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Log the reports that are new."""
        for place, each in enumerate(self._watches):
            if report := each.report():
                prefix = f"{place}/" if len(self._watches) > 1 else ""
                named = {prefix + key: value for key, value in report.items()}
                for logger in trainer.loggers:
                    logger.log_metrics(named, step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the hooks off the optimisers."""
        while self._watches:
            self._watches.pop().remove()
