import copy
import statistics
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nero
from integrations.models import language, llama, loss, text, train

# B starts at zero, as it should.
pytestmark = pytest.mark.filterwarnings("ignore:.*the weights start at:UserWarning")

RATES = (0.003, 0.01, 0.03, 0.1)
SEEDS = (0, 1, 2)


def adapted(model: nn.Module, **options: Any) -> nn.Module:
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**config))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def best(losses: dict[float, list[float]]) -> float:
    """The lowest mean over seeds, at a rate that is not at an end of the grid."""
    means = {rate: statistics.mean(each) for rate, each in losses.items()}
    rate = min(means, key=means.__getitem__)
    assert min(means) < rate < max(means), f"the grid is too narrow: {means}"
    return means[rate]


@pytest.mark.shows(
    "peft",
    "LoRA on a small causal language model, `for_model(fresh=False)`, three seeds",
    "at most 2 % above AdamW at the best of four rates",
)
def test_lora_on_a_language_model() -> None:
    theirs: dict[float, list[float]] = {rate: [] for rate in RATES}
    ours = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        base = llama()
        adam = torch.optim.AdamW(base.parameters(), lr=0.01, weight_decay=0)
        train(base, adam, language(seed), steps=200, seed=seed)
        chain, run = language(100 + seed), {"steps": 150, "seed": seed}
        start = adapted(base, task_type="CAUSAL_LM")
        for rate in RATES:
            model = copy.deepcopy(start)
            adam = torch.optim.AdamW(trainable(model), lr=rate, weight_decay=0)
            theirs[rate].append(train(model, adam, chain, **run))
        ours.append(train(start, nero.for_model(start, fresh=False), chain, **run))
    assert statistics.mean(ours) <= 1.02 * best(theirs), (ours, theirs)


def digits(classes: range) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    chosen = torch.tensor((y >= classes.start) & (y < classes.stop))
    inputs = torch.tensor(x, dtype=torch.float32)[chosen] / 16
    return inputs, torch.tensor(y)[chosen] - classes.start


def classify(
    model: nn.Module, optimizer: torch.optim.Optimizer, classes: range, steps: int, seed: int
) -> float:
    """Train on three quarters of the digits of some classes; the loss on the rest."""
    x, y = digits(classes)
    cut = 3 * len(x) // 4
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        rows = torch.randint(cut, (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x[cut:]), y[cut:]).item()


@pytest.mark.shows(
    "peft",
    "LoRA on a perceptron, from five digits to the other five, three seeds",
    "at most 2 % above AdamW at the best of four rates",
)
def test_lora_on_a_classifier() -> None:
    theirs: dict[float, list[float]] = {rate: [] for rate in RATES}
    ours = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        hidden = [part for _ in range(2) for part in (nn.Linear(64, 64), nn.ReLU())]
        base = nn.Sequential(*hidden, nn.Linear(64, 5))
        classify(base, torch.optim.AdamW(base.parameters(), lr=0.003), range(5), 150, seed)
        start = adapted(base, target_modules=["0", "2"], modules_to_save=["4"])
        for rate in RATES:
            model = copy.deepcopy(start)
            adam = torch.optim.AdamW(trainable(model), lr=rate, weight_decay=0)
            theirs[rate].append(classify(model, adam, range(5, 10), 150, seed))
        optimizer = nero.for_model(start, batch=digits(range(5))[0][:8], fresh=False)
        ours.append(classify(start, optimizer, range(5, 10), 150, seed))
    assert statistics.mean(ours) <= 1.02 * best(theirs), (ours, theirs)


@pytest.mark.shows("peft", "building the optimiser over LoRA, DoRA and IA3", "keeps every bit")
@pytest.mark.parametrize("kind", ["LORA", "DORA", "IA3"])
def test_building_keeps_every_bit_and_frozen_weights_stay(kind: str) -> None:
    targets = {"target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    if kind == "IA3":
        targets = {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
        model = peft.get_peft_model(llama(), peft.IA3Config(task_type="CAUSAL_LM", **targets))
    else:
        model = adapted(llama(), task_type="CAUSAL_LM", use_dora=kind == "DORA", **targets)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = nero.for_model(model, fresh=False)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    tokens = text(language(0), 16, torch.Generator().manual_seed(0))
    first = loss(model, tokens)
    train(model, optimizer, language(0), steps=40, seed=0)
    assert loss(model, tokens) < first
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in frozen)


class Quantised(nn.Linear):
    """A frozen linear layer of 8-bit integers, as bitsandbytes keeps them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        weight = layer.weight.detach()
        self.register_buffer("sizes", weight.abs().amax(1, keepdim=True) / 127)
        self.weight = nn.Parameter((weight / self.sizes).round().to(torch.int8), False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.sizes, self.bias)


@pytest.mark.shows("peft", "LoRA over a frozen base of 8-bit integers", "passed over, and trains")
def test_a_quantised_base_is_passed_over() -> None:
    base = llama()
    for path, module in list(base.named_modules()):
        if isinstance(module, nn.Linear) and "proj" in path:
            base.set_submodule(path, Quantised(module))
    model = adapted(base, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    integers = {n: p.detach().clone() for n, p in model.named_parameters() if p.dtype == torch.int8}
    tokens = text(language(0), 16, torch.Generator().manual_seed(0))
    first = loss(model, tokens)
    train(model, nero.for_model(model, fresh=False), language(0), steps=40, seed=0)
    assert loss(model, tokens) < first
    assert integers
    assert all(torch.equal(p, integers[n]) for n, p in model.named_parameters() if n in integers)


VIRTUAL = {"num_virtual_tokens": 4}
# What a method needs beside targets for a model as small as this.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": "self_attn"},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "CARTRIDGE": VIRTUAL,
    "CPT": {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {**VIRTUAL, "num_tasks": 2},
    "OFT": {"oft_block_size": 4},
    "P_TUNING": VIRTUAL,
    "PREFIX_TUNING": VIRTUAL,
    "PROMPT_TUNING": VIRTUAL,
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2], "target_modules": ["embed_tokens"]},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, "topk": 2},
    "WAVEFT": {"n_frequency": 10},
}
# A mixture of adapters that are on a disk already.
METHODS = sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind.value != "XLORA")


@pytest.mark.shows("peft", "all methods but X-LoRA", "every parameter finds its neurons")
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method)]
    arguments: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if hasattr(kind, "target_modules"):
        arguments["target_modules"] = ["q_proj", "v_proj"]
    model = peft.get_peft_model(llama(), kind(**{**arguments, **ARGUMENTS.get(method, {})}))
    groups = nero.param_groups(model, preset="finetune")
    placed = sorted(id(p) for group in groups for _, p in group["params"])
    assert placed == sorted(map(id, trainable(model)))


@pytest.mark.parametrize(
    ("method", "parameter", "neurons", "fan_in"),
    [
        ("LORA", "q_proj.lora_B.default.weight", 32, 8),
        ("GRALORA", "q_proj.gralora_B.default", 32, 32),
        ("HRA", "q_proj.hra_u.default", 8, 32),
        ("LOHA", "q_proj.hada_w1_b.default", 8, 32),
        ("MISS", "q_proj.miss_block.default", 32, 4),
        ("OSF", "q_proj.osf_svd_params.default.U_low", 16, 32),
        ("POLY", "q_proj.poly_lora_A.default", 32, 32),
        ("VBLORA", "vblora_vector_bank.default", 8, 4),
        ("TRAINABLE_TOKENS", "embed_tokens.trainable_tokens_delta.default", 2, 32),
    ],
)
def test_neurons_of_adapters(method: str, parameter: str, neurons: int, fan_in: int) -> None:
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method)]
    arguments = {"target_modules": ["q_proj"], **ARGUMENTS.get(method, {})}
    model = peft.get_peft_model(llama(), kind(task_type="CAUSAL_LM", **arguments))
    rows = [row for row in nero.describe(model).rows if row.name.endswith(parameter)]
    assert {(row.neurons, row.fan_in) for row in rows} == {(neurons, fan_in)}
