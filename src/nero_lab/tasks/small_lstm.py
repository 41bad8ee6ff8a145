"""A small LSTM on the texts of a folder."""

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from nero_lab.models.lstm import SmallLSTM
from nero_lab.tasks import small_lm

CPU = replace(
    small_lm.CPU,
    epochs=6,
    batch_size=32,
    model={"vocabulary": 512, "width": 128},
    data={
        **small_lm.CPU.data,
        "vocabulary": 512,
        "context": 32,
        "train_tokens": 300 * 32 * 32,
        "eval_tokens": 16_384,
        "epoch_steps": 50,
    },
)
TINY = replace(
    small_lm.TINY,
    model={"vocabulary": 320, "width": 16},
    data={**small_lm.TINY.data, "context": 16},
)


class SmallLSTMTask(small_lm.SmallLM):
    """Predict the next token with a SmallLSTM.

    Options of the model: those of `SmallLSTM`. Of the data: those of `SmallLM`.
    """

    name = "small-lstm"
    title = "small LSTM on the texts of a folder"
    presets: ClassVar = {preset.name: preset for preset in (CPU, TINY)}

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return SmallLSTM(**options)
