"""Parameter groups: their keys, those that come later, and parameters that are not trained."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import balanced, bits, give_gradients, snapshot, train, weights_like
from nero import Nero, param_groups

# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"raduis": None}, "'raduis'; did you mean 'radius'?"),
        ({"learning_rate": 0.1}, "'learning_rate'"),
        ({"betas": (0.9, 0.999)}, "'betas'; did you mean 'beta'?"),
        ({"weight_decay": 0.1}, "weight_decay=0.1, but Nero has none"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options: dict[str, Any], says: str):
    weights = weights_like((3, 4))
    before = bits(weights)
    with pytest.raises(ValueError, match=re.escape(says)):
        Nero([{"params": weights, **options}])
    optimizer = Nero(weights_like((3, 4)))
    with pytest.raises(ValueError, match=re.escape(says)):
        optimizer.add_param_group({"params": weights, **options})
    assert len(optimizer.param_groups) == 1
    assert bits(weights) == before


def test_weight_decay_as_an_argument_is_0_or_refused():
    assert "weight_decay" not in Nero(weights_like((3, 4)), weight_decay=0.0).param_groups[0]
    with pytest.raises(ValueError, match="Nero has none"):
        Nero(weights_like((3, 4)), weight_decay=0.01)


def test_what_frameworks_keep_in_groups_passes():
    keys = {"weight_decay": 0.0, "name": "body", "lr_scale": 0.5, "initial_lr": 0.1}
    optimizer = Nero([{"params": weights_like((3, 4)), **keys}])
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
    torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
    again = [{**group, "params": weights_like((3, 4))} for group in optimizer.param_groups]
    assert Nero(again).param_groups[0]["max_lr"] == 0.1


# ---------------------------------------------------------------- groups that come later


def trained() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_late_group_of_a_finetuned_model_keeps_its_weights(named: bool):
    optimizer, late = Nero(param_groups(trained(), preset="finetune")), trained()
    before = bits(late.state_dict())
    params: Any = late.named_parameters() if named else late.parameters()
    optimizer.add_param_group({"params": params, "lr": 0.001})
    assert bits(late.state_dict()) == before
    norms = late[0].weight.norm(dim=1)
    train(optimizer, range(3))
    torch.testing.assert_close(late[0].weight.norm(dim=1), norms)
    assert not torch.equal(late[0].weight, trained()[0].weight)


def test_a_late_backbone_keeps_its_weights_where_the_head_came_alone():
    model = trained()
    model[0].requires_grad_(False)
    optimizer = Nero(param_groups(model, preset="finetune", head="2"))
    model[0].requires_grad_(True)
    before = bits(model.state_dict())
    optimizer.add_param_group({"params": model[0].parameters()})
    assert bits(model.state_dict()) == before
    assert optimizer.param_groups[-1]["radius"] == "initial"


def test_a_late_group_takes_the_defaults_where_others_are_projected():
    model, (late, given) = trained(), weights_like((3, 4), (3, 4))
    optimizer = Nero([{"params": model[0].parameters()}, {"params": model[2].weight, "radius": 3}])
    optimizer.add_param_group({"params": late})
    assert balanced(late)
    optimizer = Nero(param_groups(model, preset="finetune"))
    optimizer.add_param_group({"params": given, "radius": "unit", "center": True})
    assert balanced(given), "what the group says goes first"


@pytest.mark.parametrize("first", ["named", "unnamed"])
def test_groups_with_and_without_names_go_together(first: str):
    named = {"params": list(zip("ab", weights_like((3, 4), (4,)), strict=True))}
    unnamed = {"params": weights_like((5, 4), (5,))}
    groups = [named, unnamed] if first == "named" else [unnamed, named]
    optimizer = Nero(groups[:1])
    optimizer.add_param_group(groups[1])
    names = [group["param_names"] for group in optimizer.param_groups]
    expected = [["a", "b"], ["1.0", "1.1"]] if first == "named" else [["0.0", "0.1"], ["a", "b"]]
    assert names == expected
    train(optimizer, range(2))
    before = snapshot(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert snapshot(optimizer) == before
    assert [group["param_names"] for group in Nero(groups).param_groups] == expected


def test_a_refused_named_group_leaves_no_names_behind():
    optimizer = Nero(weights_like((3, 4)))
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="'w'"):
        optimizer.add_param_group({"params": [("w", *weights_like((3, 4)))], "neuron_axes": (2,)})
    assert snapshot(optimizer) == before


# ---------------------------------------------------------------- parameters that are not trained


class Wrapped(Tensor):
    """A tensor subclass without memory of its own, as quantised weights are."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapped":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return Wrapped(args[0].inner)
        raise NotImplementedError(f"{function} of a quantised tensor")

    def __repr__(self) -> str:
        return "Wrapped()"


FROZEN: dict[str, Callable[[], Tensor]] = {
    "int8": lambda: torch.ones(3, 4, dtype=torch.int8),
    "uint8": lambda: torch.ones(3, 4, dtype=torch.uint8),
    "bool": lambda: torch.ones(3, 4, dtype=torch.bool),
    "complex": lambda: torch.ones(3, 4) * 1j,
    "sparse": lambda: torch.eye(3, 4).to_sparse(),
    "wrapper subclass": lambda: Wrapped(torch.ones(3, 4)),
    "float": lambda: torch.full((3, 4), 2.0),
}


@pytest.mark.parametrize("build", FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize(
    "options", [{}, {"radius": "initial"}, {"rounding": "stochastic"}], ids=str
)
def test_a_frozen_parameter_of_any_kind_is_passed_over(
    build: Callable[[], Tensor], options: dict[str, Any]
):
    frozen = nn.Parameter(build(), requires_grad=False)
    (w,) = weights_like((3, 4))
    optimizer = Nero([w, frozen], momentum=0.9, **options)
    assert list(optimizer.state) == [w]
    for seed in range(2):
        give_gradients([w], seed)
        optimizer.step()
    optimizer.project_()
    assert optimizer.path
    assert optimizer.skipped_neurons() == 0
    assert optimizer.state[w]["step"] == 2
    optimizer.load_state_dict(optimizer.state_dict())
    assert list(optimizer.state) == [w]


def test_a_parameter_that_is_unfrozen_later_starts_then():
    frozen, w = weights_like((3, 4), (3, 4))
    frozen.requires_grad_(False)
    optimizer = Nero([w, frozen], center=False, radius="initial")
    with torch.no_grad():
        frozen.mul_(5)
    norms = frozen.norm(dim=1)
    give_gradients([w], 0)
    optimizer.step()
    frozen.requires_grad_(True)
    train(optimizer, range(2))
    assert [optimizer.state[p]["step"].item() for p in (w, frozen)] == [3, 2]
    torch.testing.assert_close(frozen.detach().norm(dim=1), norms)
