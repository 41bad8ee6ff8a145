"""Lightning's Trainer, its callbacks, and Fabric."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging, ModelCheckpoint
from torch import nn

import nero
from nero.integrations import clip_grad_norm_, unwrap
from nero.integrations.lightning import Watch

# Lightning's own advice about workers of loaders.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Module(lightning.LightningModule):
    def __init__(self, preset: str = "balanced") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.preset = preset
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
        with torch.no_grad():
            for p in self.backbone.parameters():
                p.mul_(3)  # trained: not of norm 1
        self.head = nn.Linear(16, 4)

    def training_step(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.backbone(x)), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return nero.Nero(nero.param_groups(self, preset=self.preset, head="head"), lr=0.01)


class Clipped(Module):
    """With one NaN in the gradient, and clipping by neurons."""

    def on_after_backward(self) -> None:
        weight = self.backbone[0].weight
        assert weight.grad is not None
        weight.grad[3, 5] = torch.nan

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        clip_grad_norm_(optimizer, gradient_clip_val)


def data() -> torch.utils.data.DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 8, generator=generator)
    return torch.utils.data.DataLoader([(each, torch.arange(8) % 4) for each in x], batch_size=None)


def trainer(folder: Path, epochs: int, *callbacks: Any, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class FromTheStart(Module):
    """With the recommended optimiser, which is built before a checkpoint is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.nero = nero.for_model(self, fresh=True, head="head")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.nero


@pytest.mark.shows("lightning", "`Trainer`, stopped and resumed", "every bit of the whole run")
def test_a_resumed_run_ends_at_the_same_weights(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=2, save_top_k=-1)
    whole, again = FromTheStart(), FromTheStart()
    trainer(tmp_path, 4, saves).fit(whole, data())
    trainer(tmp_path, 4).fit(again, data(), ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    torch.testing.assert_close(weights(again), weights(whole), rtol=0, atol=0)


@pytest.mark.shows("lightning", "`BackboneFinetuning`", "the late backbone keeps its norms")
def test_backbone_finetuning(tmp_path: Path) -> None:
    module = Module("finetune")
    matrices = [p for p in module.backbone.parameters() if p.ndim > 1]
    norms = [p.detach().norm(dim=1) for p in matrices]
    before = [p.detach().clone() for p in module.backbone.parameters()]
    trainer(tmp_path, 3, BackboneFinetuning(unfreeze_backbone_at_epoch=1)).fit(module, data())
    torch.testing.assert_close([p.detach().norm(dim=1) for p in matrices], norms)
    for p, was in zip(module.backbone.parameters(), before, strict=True):
        assert not torch.equal(p, was), "it joined in epoch 1"


@pytest.mark.shows(
    "lightning",
    "`EMAWeightAveraging`, then `nero.balance_`",
    "averages leave the sphere, and return",
)
def test_averaged_weights(tmp_path: Path) -> None:
    module = Module()
    trainer(tmp_path, 4, EMAWeightAveraging(decay=0.8)).fit(module, data())
    matrices = [p for p in module.parameters() if p.ndim > 1]
    norms = torch.cat([p.detach().norm(dim=1) for p in matrices])
    assert 0.9 < norms.min() < norms.max() < 1, "an average of unit vectors is shorter"
    nero.balance_(module)
    norms = torch.cat([p.detach().norm(dim=1) for p in matrices])
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.shows("lightning", "clipping by neurons, one NaN", "one neuron is skipped, not all")
def test_a_nan_skips_one_neuron(tmp_path: Path) -> None:
    module = Clipped()
    run = trainer(tmp_path, 1, gradient_clip_val=1.0, limit_train_batches=1)
    run.fit(module, data())
    assert unwrap(run.optimizers[0]).skipped_neurons() == 1


@pytest.mark.shows("lightning", "Fabric's `setup`", "the weights of a loop without it")
def test_fabric() -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    ended = []
    for fabricated in (True, False):
        module: Any = Module()
        optimizer: Any = nero.for_model(module.backbone, fresh=False)
        network = module.backbone
        if fabricated:
            network, optimizer = fabric.setup(module.backbone, optimizer)
            assert unwrap(optimizer).skipped_neurons() == 0
        for x, _ in data():
            optimizer.zero_grad()
            loss = network(x).square().mean()
            fabric.backward(loss) if fabricated else loss.backward()
            optimizer.step()
        ended.append(weights(module))
    torch.testing.assert_close(*ended, rtol=0, atol=0)


class Kept(lightning.pytorch.loggers.logger.DummyLogger):
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.kept[step] = metrics


@pytest.mark.shows("lightning", "the callback `Watch`", "logs the angles of every n-th step")
def test_watch(tmp_path: Path) -> None:
    logger, module = Kept(), Module()
    run = trainer(tmp_path, 2, Watch(every=3), log_every_n_steps=100)
    run.loggers = [logger]
    run.fit(module, data())
    assert list(logger.kept) == [3, 6]
    assert logger.kept[6]["angle/mean/backbone.0.weight"] == pytest.approx(0.01, rel=0.5)
    optimizer = unwrap(run.optimizers[0])
    assert not optimizer._optimizer_step_post_hooks, "the hooks are off"
