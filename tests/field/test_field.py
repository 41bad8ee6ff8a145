"""Nero in the hands of other libraries, each tried at least once; see docs/evidence/reliability.md.

None of them is needed for anything else, and what is not installed is skipped. To have all:
`pip install accelerate peft timm lightning transformers`, then `pytest tests/field`.
"""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nero

RANKS = Path(__file__).with_name("ranks.py")


@pytest.mark.parametrize(
    ("case", "library"),
    [("accelerate_fsdp2", "accelerate"), ("fsdp1", "torch"), ("zero_redundancy", "torch")],
)
def test_two_processes(case: str, library: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    # accelerate asks for an address, also where the process group is there already and no port is
    # opened. Without a number of threads it counts cores, which some machines do not report.
    asked = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **asked, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANKS), case, str(rank), str(tmp_path / "store")],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-4000:]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Any, steps: int
) -> tuple[float, float]:
    """First and last loss."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_peft_lora_on_a_tiny_causal_model() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    targets = ["q_proj", "v_proj", "up_proj", "down_proj", "embed_tokens"]
    lora = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
    twin = copy.deepcopy(model)
    tokens = (torch.arange(24).repeat(4, 1) * torch.tensor([[1], [3], [5], [7]])) % 32

    def loss(model: nn.Module = model) -> torch.Tensor:
        return model(input_ids=tokens, labels=tokens).loss

    before = loss().item()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    groups = nero.param_groups(model, preset="finetune")
    roles = {name: g["role"] for g in groups for name, _ in g["params"]}
    assert all("lora" in name for name in roles)
    assert {role for name, role in roles.items() if "embedding_A" in name} == {"embedding"}
    with pytest.warns(UserWarning, match=r"lora_B.*start at \(nearly\) zero"):
        optimizer = nero.Nero(groups, lr=0.03)
    assert loss().item() == before
    _, last = train(model, optimizer, loss, 100)
    adam = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=0.01)
    _, expected = train(twin, adam, lambda: loss(twin), 100)
    assert last < 1.1 * expected
    assert last < 0.95 * before
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


@pytest.mark.parametrize("preset", ["balanced", "finetune"])
def test_timm_vision_transformer(preset: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3,
        num_classes=4, reg_tokens=2, init_values=1e-5,
    )  # fmt: skip
    rows = {row.name: row for row in nero.describe(model, head="head").rows}
    assert (rows["pos_embed"].role, rows["pos_embed"].fan_in) == ("embedding", 48)
    assert (rows["cls_token"].role, rows["cls_token"].neurons) == ("embedding", 1)
    assert rows["head.weight"].role == "head"
    groups = nero.param_groups(model, preset=preset, head="head")
    optimizer = nero.Nero(groups, lr=0.02)
    x, y = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    first, last = train(model, optimizer, lambda: nn.functional.cross_entropy(model(x), y), 60)
    assert last < 0.5 * first


def test_lightning_backbone_finetuning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    from lightning.pytorch.callbacks import BackboneFinetuning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
            with torch.no_grad():
                for p in self.backbone.parameters():
                    p.mul_(3)  # trained: not of norm 1
            self.head = nn.Linear(16, 4)

        def training_step(self, batch: Any) -> torch.Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.head(self.backbone(x)), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return nero.Nero(nero.param_groups(self, preset="finetune", head="head"), lr=0.01)

    module = Module()
    norms = [p.norm(dim=1) for p in module.backbone.parameters() if p.ndim > 1]
    data = [(torch.randn(8, 8), torch.arange(8) % 4) for _ in range(4)]
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = [p.detach().clone() for p in module.backbone.parameters()]
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    after = [p.norm(dim=1) for p in module.backbone.parameters() if p.ndim > 1]
    torch.testing.assert_close([x.detach() for x in after], [x.detach() for x in norms])
    for p, was in zip(module.backbone.parameters(), before, strict=True):
        assert not torch.equal(p, was), "it joined in epoch 1"
