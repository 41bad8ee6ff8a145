"""Hugging Face's Trainer: the recommended optimiser, clipping that spreads no NaN, telemetry."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nero.integrations.clipping import clip_grad_norm_
from nero.integrations.wrapped import unwrap
from nero.model.for_model import for_model
from nero.optimizer import Nero
from nero.telemetry import watch

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    message = 'nero.integrations.transformers needs transformers: pip install "transformers[torch]"'
    raise ModuleNotFoundError(message, name="transformers") from None


def for_trainer(model: nn.Module, **options: Any) -> tuple[type, dict[str, Any]]:
    """What `transformers.Trainer` takes as `optimizer_cls_and_kwargs`.

    The optimiser is built here and now. The Trainer would build it after loading a checkpoint to
    resume from, and `fresh=True` would project or draw those weights anew. Its schedule scales the
    learning rate of each group; `TrainingArguments.learning_rate` and `.weight_decay` are not used.

    Args:
        model: the Trainer's model.
        **options: arguments of `nero.for_model`; `fresh` has to be given.

    Raises:
        ValueError: as `nero.for_model`; when training starts, that the Trainer's model has other
            parameters: made by `model_init`, or flattened by FSDP1.

    Examples:
        >>> import torch
        >>> from nero.integrations.transformers import for_trainer
        >>> model = torch.nn.Linear(8, 4)
        >>> factory, arguments = for_trainer(model, fresh=False)
        >>> type(factory()(model, **arguments)).__name__  # what the Trainer does with it
        'ForModel'
    """
    optimizer = for_model(model, **options)
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}

    class Built:
        def __call__(self, theirs: nn.Module) -> Nero:
            if not mine <= set(map(id, theirs.parameters())):
                raise ValueError(
                    "the Trainer's model has other parameters than the one given to for_trainer. "
                    "Give both the same model, not model_init; and fsdp_version 2, as version 1 "
                    "flattens parameters, in which no neuron can be found"
                )
            return optimizer

    return Built, {}


class NeuronClipping:
    """Mix-in for a Trainer: its norm of the gradient leaves out neurons that are not finite.

    The Trainer measures that norm in every step, by a function that multiplies all gradients by
    NaN where one of them is; `max_grad_norm=0` does not prevent it.

    Examples:
        >>> from nero.integrations.transformers import NeuronClipping
        >>> import transformers
        >>> class Trainer(NeuronClipping, transformers.Trainer):
        ...     pass
    """

    accelerator: Any
    args: Any
    optimizer: Any

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        self.accelerator.unscale_gradients()
        return clip_grad_norm_(self.optimizer, self.args.max_grad_norm)


class Watch(TrainerCallback):
    """Log what the neurons of each layer do in every `every`-th step: `nero.watch`.

    Reports go where the Trainer's own figures go, through `trainer.log`.

    Args:
        trainer: the Trainer that the callback is added to.
        every: as for `nero.watch`. Default 200.

    Examples:
        >>> from nero.integrations.transformers import Watch
        >>> def add_watch(trainer):
        ...     trainer.add_callback(Watch(trainer, every=50))
    """

    def __init__(self, trainer: Any, every: int = 200) -> None:
        self.trainer, self.every = trainer, every

    def on_train_begin(self, *_: Any, optimizer: Any, **__: Any) -> None:
        """Start to watch the optimiser."""
        self._watch = watch(unwrap(optimizer), self.every)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Log a report that is new."""
        if report := self._watch.report():
            self.trainer.log(report)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Take the hooks off the optimiser."""
        self._watch.remove()
