from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import nero
from integrations.models import TOKENS, language, llama, text
from nero.integrations import unwrap
from nero.integrations.transformers import NeuronClipping, Watch, for_trainer


class Trainer(NeuronClipping, transformers.Trainer):
    """The Trainer with clipping by neurons."""


def trainer(folder: Path, model: nn.Module, kind: Any = Trainer, **options: Any) -> Any:
    rows = text(language(0), 64, torch.Generator().manual_seed(0))
    arguments = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "save_steps": 4,
        "logging_steps": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return kind(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        optimizer_cls_and_kwargs=for_trainer(model, fresh=True),
    )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.shows("transformers", "`Trainer`, stopped and resumed", "every bit of the whole run")
def test_a_resumed_run_ends_at_the_same_weights(tmp_path: Path) -> None:
    whole = trainer(tmp_path, llama())
    whole.train()
    assert isinstance(unwrap(whole.optimizer), nero.Nero)
    rates = {group["lr"] for group in whole.optimizer.param_groups}
    assert rates == {0.0}, "the Trainer's schedule decays every group to 0"
    again = trainer(tmp_path, llama())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    torch.testing.assert_close(weights(again.model), weights(whole.model), rtol=0, atol=0)


def spoiled(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with a NaN in one neuron."""
    gradient = gradient.clone()
    gradient[3, 5] = torch.nan
    return gradient


@pytest.mark.shows(
    "transformers", "`Trainer` with `NeuronClipping`, one NaN", "one neuron is skipped, not all"
)
@pytest.mark.parametrize(("kind", "skips"), [(Trainer, 1), (transformers.Trainer, None)])
def test_a_nan_skips_one_neuron(tmp_path: Path, kind: Any, skips: int | None) -> None:
    model = llama()
    model.get_parameter("model.layers.0.mlp.up_proj.weight").register_hook(spoiled)
    run = trainer(tmp_path, model, kind, max_steps=1, save_strategy="no")
    run.train()
    optimizer = unwrap(run.optimizer)
    neurons = sum(state["rms"].numel() for state in optimizer.state.values())
    assert optimizer.skipped_neurons() == (neurons if skips is None else skips)
    assert neurons > 3 * TOKENS


def test_another_model_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, llama(), max_steps=1)
    run.model = run.model_wrapped = llama()
    with pytest.raises(ValueError, match="other parameters than the one given to for_trainer"):
        run.train()


@pytest.mark.shows("transformers", "`Trainer(weight_decay=0.01)`", "not used, and no error")
def test_the_trainers_weight_decay_is_not_passed_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, llama(), max_steps=1, weight_decay=0.01, save_strategy="no")
    run.train()
    assert not any(group.get("weight_decay") for group in run.optimizer.param_groups)


@pytest.mark.shows("transformers", "the callback `Watch`", "logs the angles of every n-th step")
def test_watch(tmp_path: Path) -> None:
    run = trainer(tmp_path, llama(), save_strategy="no", max_steps=6)
    run.add_callback(Watch(run, every=3))
    run.train()
    name = "angle_in_lr/mean/model.layers.0.mlp.up_proj.weight"
    logged = {each["step"]: each[name] for each in run.state.log_history if name in each}
    assert list(logged) == [3, 6]
    assert all(0 < angle < 2 for angle in logged.values())
    assert not unwrap(run.optimizer)._optimizer_step_post_hooks, "the hooks are off"
