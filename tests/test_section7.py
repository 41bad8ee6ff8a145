"""What public implementations get wrong (paper.md, section 7), by the number of the point.

Point 9's host synchronisations and caller's gradients are in test_memory.py.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from helpers import (
    balanced,
    bits,
    build,
    every_constraint,
    every_momentum,
    every_path,
    give_gradients,
    network,
    snapshot,
    tangent,
    train,
    turned,
    weights_like,
)
from nero import Nero
from optimizer_table import TENSORS, PathRow, TensorRow, names

every_nonfinite = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
# None of these moves a weight that is where the user put it.
HARMLESS: list[dict[str, Any]] = [
    {"center": False, "radius": "initial"},
    {"center": False, "radius": None},
]


@pytest.mark.parametrize("options", HARMLESS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_7_1_building_the_optimizer_over_pretrained_weights_keeps_them(
    options: dict[str, Any], dtype: torch.dtype
):
    model = network(dtype)
    before = bits(model.state_dict())
    optimizer = Nero(model.parameters(), **options)
    optimizer.project_()
    optimizer.add_param_group({"params": weights_like((3, 4))})
    assert bits(model.state_dict()) == before


@every_path
@every_constraint
def test_7_1_reading_state_before_the_first_step_changes_no_weight(
    path: PathRow, constraint: dict[str, Any]
):
    model = network()
    optimizer = build(model.parameters(), path, **constraint)
    before = snapshot(optimizer)
    get_optimizer_state_dict(model, optimizer)
    assert snapshot(optimizer) == before


@every_path
@every_constraint
@every_momentum
@pytest.mark.parametrize("steps_before", [0, 2])
def test_7_1_a_step_at_lr_0_changes_no_bit(
    path: PathRow, constraint: dict[str, Any], momentum: float, steps_before: int
):
    params = weights_like((5, 7), (5, 7), (4, 3, 2), (3, 1), (4,), (4,), ())
    with torch.no_grad():
        params[0][0] = 0.0
        params[0][1] = 3.0
        params[0][2] = torch.nan
        params[4][0] = 0.0
    optimizer = build(params, path, momentum=momentum, **constraint)
    train(optimizer, range(steps_before))
    zero = torch.tensor(0.0) if path.tensor_lr else 0.0
    optimizer.param_groups[0]["lr"] = zero
    with torch.no_grad():
        params[0][3] = 5 * params[0][3] + 1  # off the constraint set, as the user may put it
        params[1][:, 2] = -0.0
    before = bits(params)
    train(optimizer, range(10, 13))
    assert bits(params) == before


@every_path
@every_nonfinite
@every_momentum
def test_7_2_a_nonfinite_gradient_costs_its_neuron_one_step_and_nothing_else(
    path: PathRow, bad: float, momentum: float
):
    params = weights_like((5, 7), (5, 7), (4,), dtype=torch.float64)
    healthy = copy.deepcopy(params)
    optimizer = build(params, path, momentum=momentum)
    reference = build(healthy, path, momentum=momentum)
    for seed in range(3):
        for weights, one in ((params, optimizer), (healthy, reference)):
            give_gradients(weights, seed)
            if one is optimizer and seed == 1:
                stalled = bits([params[1][3], params[2][0]])
                averages = bits([optimizer.state[params[1]]["rms"][3]])
                weights[1].grad[3, 2] = weights[2].grad[0] = bad
            one.step()
        if seed == 1:
            assert bits([params[1][3], params[2][0]]) == stalled
            assert bits([optimizer.state[params[1]]["rms"][3]]) == averages
            assert optimizer.skipped_neurons() == 2
    assert optimizer.skipped_neurons() == 2
    assert reference.skipped_neurons() == 0
    others = torch.arange(5) != 3
    assert bits([params[0], params[1][others], params[2][1:]]) == bits(
        [healthy[0], healthy[1][others], healthy[2][1:]]
    )
    assert bits([params[1][3], params[2][0]]) != stalled
    assert all(torch.isfinite(p).all() for p in params)
    assert balanced(params[1])


@every_path
@every_momentum
def test_7_2_a_nonfinite_gradient_goes_through_where_that_is_asked_for(
    path: PathRow, momentum: float
):
    params = weights_like((5, 7), (5, 7), (4,))
    optimizer = build(params, path, momentum=momentum, nonfinite="propagate")
    give_gradients(params, 0)
    params[1].grad[3, 2] = params[2].grad[0] = torch.nan
    optimizer.step()
    assert params[1].isnan().any(1).nonzero().tolist() == [[3]]
    assert params[2].isnan().nonzero().tolist() == [[0]]
    assert optimizer.state[params[1]]["rms"].isnan().nonzero().tolist() == [[3, 0]]
    assert params[0].isfinite().all()
    assert optimizer.skipped_neurons() == 0


@every_path
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_7_3_state_of_16_bit_weights_is_float32_and_stays_so(path: PathRow, dtype: torch.dtype):
    model = network(dtype)
    optimizer = build(model.parameters(), path, momentum=0.9, radius="initial")
    train(optimizer, range(2))
    twin = copy.deepcopy(optimizer)
    # A number that 16 bits cannot hold shows whether it was ever rounded to them.
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["rms"].fill_(1 + 2**-20)
    twin.load_state_dict(saved)
    for state in twin.state.values():
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert (state["rms"] == 1 + 2**-20).all()


@every_path
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_7_3_the_running_average_of_16_bit_gradients_does_not_stall(
    path: PathRow, dtype: torch.dtype, size: float
):
    (w,) = weights_like((3, 16), dtype=dtype)
    optimizer = build([w], path)
    w.grad = (size * torch.randn(3, 16)).to(dtype)
    for _ in range(300):
        optimizer.step()
    norm = w.grad.double().norm(dim=1)
    expected = norm * (1 - 0.999**300) ** 0.5
    torch.testing.assert_close(
        optimizer.state[w]["rms"].flatten().double(), expected, rtol=1e-5, atol=0
    )


@every_path
@pytest.mark.parametrize("size", [1e-30, 1e-23, 1e30])
def test_7_3_gradients_whose_square_float32_cannot_hold_turn_neurons_by_lr(
    path: PathRow, size: float
):
    (w,) = weights_like((4, 9))
    optimizer = build([w], path)
    before = w.detach().clone()
    w.grad = tangent(before) * size
    optimizer.step()
    torch.testing.assert_close(
        turned(before, w), torch.full((4,), 0.01, dtype=torch.float64), rtol=1e-3, atol=0
    )


DEGENERATE = {
    "fan-in 1": torch.randn(4, 1, generator=torch.Generator().manual_seed(0)),
    "fan-in 2": torch.randn(4, 2, generator=torch.Generator().manual_seed(0)),
    "zero rows": torch.zeros(4, 6),
    # Long enough that the computed mean is off by a rounding.
    "constant rows": torch.tensor([[0.1], [0.7], [-1 / 3], [1e3 / 7]]).expand(4, 37),
    "depthwise 1x1": torch.randn(4, 1, 1, 1, generator=torch.Generator().manual_seed(0)),
}


@every_path
@every_constraint
@pytest.mark.parametrize("weights", DEGENERATE.values(), ids=DEGENERATE)
def test_7_4_weights_that_cannot_be_projected_stay_where_they_are_and_can_still_move(
    path: PathRow, constraint: dict[str, Any], weights: Tensor
):
    params = [nn.Parameter(weights.clone()) for _ in range(2)]
    optimizer = build(params, path, **constraint)
    fan_in, center, normalize = weights[0].numel(), constraint["center"], constraint["radius"]
    if fan_in <= center + (normalize is not None) or (center and fan_in > 2) or not weights.any():
        assert bits(params) == bits([weights, weights])
    start = copy.deepcopy(params)
    train(optimizer, range(5))
    for p, q in zip(params, start, strict=True):
        assert torch.isfinite(p).all()
        assert (p != q).flatten(1).any(1).all()


@every_path
def test_7_4_padding_rows_stay_zero(path: PathRow):
    embedding = nn.Embedding(5, 8, padding_idx=2)
    optimizer = build(embedding.parameters(), path, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        embedding(torch.arange(5)).cos().sum().backward()
        optimizer.step()
    weight = embedding.weight.detach()
    assert bits(weight[2]) == bits(torch.zeros(8))
    assert balanced(weight[[0, 1, 3, 4]])


MATRICES = [row for row in TENSORS if len(row.shape) > 1]


@every_path
@pytest.mark.parametrize("row", MATRICES, ids=names(MATRICES))
def test_7_5_neurons_lie_along_the_axes_that_the_layer_keeps_them_in(path: PathRow, row: TensorRow):
    params = weights_like(row.shape, row.shape, dtype=torch.float64)
    optimizer = build(params, path, neuron_axes=row.neuron_axes)
    before = copy.deepcopy(params)
    train(optimizer, range(1))
    neurons = torch.tensor(row.neurons)
    for p, q in zip(params, before, strict=True):
        after, start, g = (x.detach().flatten()[neurons] for x in (p, q, p.grad))
        moved = start - 0.01 * g / g.norm(dim=1, keepdim=True)
        moved -= moved.mean(1, keepdim=True)
        torch.testing.assert_close(
            after, moved / moved.norm(dim=1, keepdim=True), rtol=0, atol=1e-9
        )


@every_path
def test_7_6_a_head_with_free_norm_grows_while_the_body_stays_balanced(path: PathRow):
    body, head = weights_like((5, 7), (3, 5))
    groups = [{"params": [body]}, {"params": [head], "center": False, "radius": None}]
    optimizer = build(groups, path, lr=0.1)
    start = head.detach().norm(dim=1)
    for _ in range(30):
        give_gradients([body], 0)
        head.grad = -head.detach()
        optimizer.step()
    assert (head.norm(dim=1) > 2 * start).all()
    assert balanced(body)


@every_path
def test_7_6_a_head_may_have_a_norm_of_its_own(path: PathRow):
    (head,) = weights_like((3, 5))
    optimizer = build([{"params": [head], "radius": 20.0}], path)
    before = head.detach().clone()
    head.grad = tangent(before)
    optimizer.step()
    assert balanced(head, radius=20.0)
    torch.testing.assert_close(
        turned(before, head), torch.full((3,), 0.01, dtype=torch.float64), rtol=1e-3, atol=0
    )


OVERRIDES: dict[str, Any] = {
    "lr": 0.2,
    "beta": 0.5,
    "center": False,
    "radius": 3.0,
    "neuron_axes": (1,),
    "relative": True,
    "momentum": 0.8,
    "orthogonal": True,
    "blocks": 7,
    "max_turn": 2.0,
    "nonfinite": "propagate",
    "maximize": True,
    "foreach": False,
    "fused": False,
    "capturable": True,
    "rounding": "stochastic",
    "seed": 3,
}


def test_7_7_every_setting_may_be_given_by_a_group_and_is_saved():
    (plain, special, late) = weights_like((5, 7), (5, 7), (5, 7))
    optimizer = Nero([{"params": [plain]}, {"params": [special], **OVERRIDES}])
    optimizer.add_param_group({"params": [late], **OVERRIDES})
    assert set(OVERRIDES) == set(optimizer.defaults)
    default, given, added = optimizer.state_dict()["param_groups"]
    for name, value in OVERRIDES.items():
        assert given[name] == added[name] == value
        assert default[name] == optimizer.defaults[name] != value


@every_constraint
def test_7_7_state_holds_no_graph_and_can_be_copied(constraint: dict[str, Any]):
    optimizer = Nero(network().parameters(), momentum=0.9, **constraint)
    train(optimizer, range(1))
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    assert all(isinstance(value, Tensor) for value in tensors)
    assert not any(value.requires_grad or value.grad_fn for value in tensors)
    assert bits(copy.deepcopy(optimizer.state_dict())) == bits(optimizer.state_dict())


@every_path
@every_momentum
def test_7_8_a_parameter_that_joins_late_gets_its_own_bias_correction(
    path: PathRow, momentum: float
):
    early, late = weights_like((4, 9), (4, 9), dtype=torch.float64)
    optimizer = build([early, late], path, momentum=momentum)
    for seed in range(50):
        give_gradients([early], seed)
        optimizer.step()
    before = late.detach().clone()
    give_gradients([early], 50)
    late.grad = tangent(before)
    optimizer.step()
    torch.testing.assert_close(
        turned(before, late), torch.full((4,), 0.01, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert optimizer.state[early]["step"].item() == 51
    assert optimizer.state[late]["step"].item() == 1


# Dynamo traces through the cache of layouts, as it says, which is right for a pure function.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")
@every_path
def test_7_9_the_step_compiles_into_one_graph_for_all_later_steps(path: PathRow):
    params = weights_like((4, 5), (4, 5), (3,), dtype=torch.float64)
    eager = copy.deepcopy(params)
    optimizer, reference = build(params, path), build(eager, path)
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    compiled = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    for seed in range(5):
        give_gradients(params, seed)
        give_gradients(eager, seed)
        compiled()
        reference.step()
    # The first step makes the count of skipped neurons that later ones add to.
    assert counter.frame_count <= 2
    torch.testing.assert_close(params, eager, rtol=1e-12, atol=1e-12)
    assert optimizer.state[params[0]]["step"].item() == 5


STRIDES = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
}


@every_path
@pytest.mark.parametrize("neuron_axes", [(0,), (1,), ((0, 2), 1), (0, 1), ()], ids=str)
@pytest.mark.parametrize("restride", STRIDES.values(), ids=STRIDES)
def test_7_9_any_strides_of_weights_and_gradients_give_the_same_numbers(
    path: PathRow, neuron_axes: Any, restride: Any
):
    shape = (4, 6, 3, 2)
    plain = weights_like(shape, shape, dtype=torch.float64)
    odd = [nn.Parameter(restride(p.detach().clone())) for p in plain]
    assert not odd[0].is_contiguous()
    strides = odd[0].stride()
    optimizers = [
        build(params, path, neuron_axes=neuron_axes, momentum=0.9) for params in (plain, odd)
    ]
    for seed in range(3):
        give_gradients(plain, seed)
        for p, q in zip(plain, odd, strict=True):
            q.grad = restride(p.grad.clone()) if seed % 2 else p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert odd[0].stride() == strides
    torch.testing.assert_close(plain, odd, rtol=1e-12, atol=1e-12)


@every_path
@every_constraint
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 2)], ids=str)
def test_7_9_empty_tensors_are_harmless(
    path: PathRow, constraint: dict[str, Any], shape: tuple[int, ...]
):
    params = weights_like(shape, shape, (4, 6))
    optimizer = build(params, path, momentum=0.9, **constraint)
    before = bits(params[2])
    train(optimizer, range(2))
    optimizer.project_()
    copy.deepcopy(optimizer).load_state_dict(optimizer.state_dict())
    assert bits(params[2]) != before
    assert all(torch.isfinite(state["scale"]) for state in optimizer.state.values())
    assert optimizer.skipped_neurons() == 0
