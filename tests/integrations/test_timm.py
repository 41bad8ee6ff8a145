import math
from contextlib import nullcontext

import pytest
import timm
import torch
from timm.layers import CondConv2d
from torch import nn

import nero
import nero.integrations.timm
from nero.model.param_groups import plan
from neuron_oracle import classes_by_layout, classes_by_unit
from on_meta import without_memory

# Class tokens of timm start at 1e-6.
pytestmark = pytest.mark.filterwarnings("ignore:.*the weights start at:UserWarning")
NAMES = timm.list_models()
# These rotate tables of positions on the device that they think they are on.
WHOLLY_ON_META = {name for name in NAMES if "rope_mixed" in name}


def small(**options):
    return timm.create_model("test_vit", num_classes=4, img_size=32, **options)


@pytest.mark.shows("timm", "all of `timm.list_models()`", "every parameter finds its neurons")
@pytest.mark.parametrize("name", NAMES)
def test_every_model(name: str) -> None:
    with torch.device("meta") if name in WHOLLY_ON_META else nullcontext(), without_memory():
        model = timm.create_model(name, pretrained=False)
    assignments = plan(model)
    placed = sorted(id(each.parameter) for each in assignments)
    assert placed == sorted(id(p) for p in model.parameters() if p.requires_grad)
    modules = dict(model.named_modules())
    for each in assignments:
        module = modules[each.names[0].rpartition(".")[0]]
        neurons = (each.layout.neurons, each.layout.fan_in)
        if each.role in ("gain", "bias"):
            assert each.layout.fan_in == 1, each.names
        elif isinstance(module, nn.Linear):
            assert neurons == (module.out_features, module.in_features), each.names
        elif isinstance(module, nn.modules.conv._ConvNd):
            fan_in = module.in_channels // module.groups * math.prod(module.kernel_size)
            assert neurons == (module.out_channels, fan_in), each.names
        elif each.role == "embedding":  # vectors as wide as something in the model, not tables
            assert each.layout.fan_in < 8192, each.names


def test_conditional_convolutions_have_a_neuron_for_each_output_of_each_expert() -> None:
    module = CondConv2d(4, 6, 3, groups=2, bias=True, num_experts=2).double()
    weight = next(each for each in plan(module) if each.names == ["weight"])
    bias = next(each for each in plan(module) if each.names == ["bias"])
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    alone = [module(x, one)[..., 1, 1] for one in torch.eye(2, dtype=torch.float64)[:, None]]
    units = torch.cat([*alone], 1)  # the outputs of expert 0, then those of expert 1
    assert classes_by_layout(weight.layout) == classes_by_unit(units, module.weight)
    assert (weight.blocks, bias.role) == (2, "bias")


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 40) -> tuple[float, ...]:
    x, y = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.shows("timm", "a small vision transformer with registers and LayerScale", "trains")
@pytest.mark.parametrize("fresh", [True, False])
def test_a_small_vision_transformer(fresh: bool) -> None:
    model = small(reg_tokens=2, init_values=1e-5)
    rows = {row.name: row for row in nero.describe(model, head="head").rows}
    width = model.embed_dim
    assert (rows["pos_embed"].role, rows["pos_embed"].fan_in) == ("embedding", width)
    assert (rows["cls_token"].role, rows["cls_token"].neurons) == ("embedding", 1)
    assert (rows["reg_token"].role, rows["reg_token"].neurons) == ("embedding", 2)
    assert rows["blocks.0.ls1.gamma"].role == "gain"
    first, last = train(model, nero.for_model(model, fresh=fresh, head="head"))
    assert last < 0.5 * first


@pytest.mark.shows(
    "timm", '`create_optimizer_v2(model, "nero", ...)`', "the groups of `nero.for_model`"
)
def test_the_calling_convention() -> None:
    nero.integrations.timm.register()
    twins = [small(), small()]
    twins[1].load_state_dict(twins[0].state_dict())
    made = timm.optim.create_optimizer_v2(
        twins[0],
        opt="nero",
        lr=1e-3,
        weight_decay=0.0,
        momentum=0.9,
        eps=1e-8,
        param_group_fn=nero.integrations.timm.groups_of(fresh=False, head="head"),
    )
    expected = nero.for_model(twins[1], fresh=False, head="head")
    for group, other in zip(made.param_groups, expected.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k not in ("params", "initial_lr")} == {
            k: v for k, v in other.items() if k != "params"
        }
    torch.manual_seed(1)
    train(twins[0], made, 3)
    torch.manual_seed(1)
    train(twins[1], expected, 3)
    torch.testing.assert_close(twins[0].state_dict(), twins[1].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "param_group_fn=nero"),
        ({"layer_decay": 0.7}, "param_group_fn=nero"),
        ({"weight_decay": 0.05, "param_group_fn": nero.param_groups}, "weight_decay=0.05"),
    ],
)
def test_what_would_lose_the_neurons_is_refused(options: dict, message: str) -> None:
    nero.integrations.timm.register()
    with pytest.raises(ValueError, match=message):
        timm.optim.create_optimizer_v2(small(), opt="nero", lr=1e-3, **options)


@pytest.mark.shows("timm", "`create_scheduler_v2`, cosine with warm-up", "scales all groups alike")
def test_a_schedule_of_timm() -> None:
    from timm.scheduler import create_scheduler_v2

    optimizer = nero.for_model(small(), fresh=True, head="head")
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=10, warmup_epochs=2)
    schedule.step(6)
    ratios = [g["lr"] / rate for g, rate in zip(optimizer.param_groups, rates, strict=True)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert 0 < max(ratios) < 1
