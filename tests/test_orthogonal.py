"""`orthogonal=True`, `blocks` and `max_turn` in nero.Nero, on every path."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from direction_oracle import OrthogonalOracle
from helpers import bits, build, every_path, snapshot
from nero.step.orthogonal import in_buckets
from optimizer_table import TENSORS, PathRow, TensorRow, names
from oracle import OracleTensor

STEPS = 30
LR = 2.0**-5  # the same in float32, as which some paths get it
# Polynomials of steep slope make 1e-16 of a small singular value into some 1e-13; 30 steps follow.
TOLERANCE = 1e-10
every_momentum = pytest.mark.parametrize("momentum", [0.0, 0.9])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def matrices_of(row: TensorRow, blocks: int = 1) -> list[list[list[int]]]:
    """A tensor's neurons, layer by layer."""
    layers = {"experts": 2, "grouped transposed conv": 2}.get(row.name, 1) * blocks
    size = len(row.neurons) // layers
    return [row.neurons[k * size : (k + 1) * size] for k in range(layers)]


DIRECTED = [
    row for row in TENSORS if len(row.shape) > 1 and len(row.neurons[0]) > 3 and row.name != "whole"
]


def follow(
    w: Tensor, oracle: Any, path: PathRow, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[Tensor, Tensor]:
    """Weights after some steps on a path, and the oracle's."""
    p = nn.Parameter(w.to(dtype, copy=True))
    twin = nn.Parameter(w.to(dtype, copy=True))  # so that there is something to stack
    optimizer = build([p, twin], path, lr=LR, **options)
    for t in range(STEPS):
        g = normal(*w.shape, seed=t + 1) * 10.0 ** ((t * 7) % 5 - 2)
        p.grad, twin.grad = g.to(dtype), g.to(dtype)
        optimizer.step()
        oracle.step(g, LR)
    assert torch.equal(p, twin)
    return p.detach().double(), oracle.weights()


@every_path
@every_momentum
@pytest.mark.parametrize("row", DIRECTED, ids=names(DIRECTED))
def test_every_path_follows_the_oracle(row: TensorRow, momentum: float, path: PathRow) -> None:
    w = normal(*row.shape)
    rule: dict[str, Any] = {"beta": 0.9, "center": True, "radius": "unit"}
    oracle = OrthogonalOracle(w, matrices_of(row), momentum=momentum, **rule)
    options = {**rule, "neuron_axes": row.neuron_axes, "momentum": momentum, "orthogonal": True}
    actual, expected = follow(w, oracle, path, **options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("row", [DIRECTED[0], DIRECTED[2]], ids=names([DIRECTED[0], DIRECTED[2]]))
def test_packed_layers_are_each_by_themselves(row: TensorRow) -> None:
    shape = (6, *row.shape[1:])
    neurons = torch.arange(math.prod(shape)).view(6, -1).tolist()
    w, rule = normal(*shape), {"beta": 0.9, "center": False, "radius": None}
    oracle = OrthogonalOracle(w, [neurons[:2], neurons[2:4], neurons[4:]], momentum=0.0, **rule)
    actual, expected = follow(w, oracle, PathRow("default"), orthogonal=True, blocks=3, **rule)
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@every_path
@every_momentum
@pytest.mark.parametrize("max_turn", [0.7])
@pytest.mark.parametrize("row", TENSORS, ids=names(TENSORS))
def test_the_cap_follows_the_oracle(
    row: TensorRow, max_turn: float, momentum: float, path: PathRow
) -> None:
    w = normal(*row.shape)
    rule: dict[str, Any] = {"beta": 0.9, "center": True, "radius": "unit", "max_turn": max_turn}
    oracle = OracleTensor(w, row.neurons, momentum=momentum, **rule)
    options = {**rule, "neuron_axes": row.neuron_axes, "momentum": momentum}
    actual, expected = follow(w, oracle, path, **options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@every_path
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (7,), (40,), (5, 3, 2)], ids=str)
def test_a_rare_gradient_turns_a_neuron_by_lr(
    shape: tuple[int, ...], size: float, path: PathRow
) -> None:
    rule = {"center": False, "radius": None}
    p = nn.Parameter(normal(*shape).float())
    optimizer = build([p], path, lr=0.01, max_turn=1.0, **rule)
    for _ in range(300):
        p.grad = torch.zeros(shape)
        optimizer.step()
    before = p.detach().clone()
    p.grad = normal(*shape, seed=1).float() * size
    optimizer.step()
    moved = (p.detach() - before).reshape(shape[0], -1).norm(dim=1)
    expected = 0.01 * optimizer.state[p]["scale"]
    torch.testing.assert_close(moved, expected.expand(shape[0]), rtol=1e-4, atol=0)


@every_path
@pytest.mark.parametrize("options", [{"max_turn": 1.0}, {"orthogonal": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_follows_the_oracle(
    dtype: torch.dtype, options: dict[str, Any], path: PathRow
) -> None:
    w, neurons = normal(6, 40), torch.arange(240).view(6, 40).tolist()
    rule: dict[str, Any] = {"beta": 0.9, "center": True, "radius": "unit"}
    if "orthogonal" in options:
        oracle: Any = OrthogonalOracle(w, [neurons], momentum=0.0, **rule)
    else:
        oracle = OracleTensor(w, neurons, momentum=0.0, **rule, **options)
    actual, expected = follow(w, oracle, path, dtype, **rule, **options)
    # Each step rounds a weight of about 0.16 to its dtype.
    tolerance = STEPS * torch.finfo(dtype).eps / 4
    assert (actual - expected).abs().max() < tolerance


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
@every_momentum
@every_path
def test_gradients_that_are_not_finite(path: PathRow, momentum: float, nonfinite: str) -> None:
    w, g = normal(4, 9).float(), normal(4, 9, seed=1).float()
    p, clean = nn.Parameter(w.clone()), nn.Parameter(w.clone())
    options = {"orthogonal": True, "momentum": momentum, "nonfinite": nonfinite}
    optimizer, other = build([p], path, **options), build([clean], path, **options)
    p.grad, clean.grad = g.clone(), g.clone()
    p.grad[1, 3], clean.grad[1] = torch.inf, 0
    before = p.detach().clone()
    optimizer.step()
    other.step()
    rest = [0, 2, 3]
    torch.testing.assert_close(p[rest], clean[rest])
    if nonfinite == "skip":
        assert torch.equal(p[1], before[1])
        assert optimizer.skipped_neurons() == 1
        assert torch.isfinite(torch.cat([x.flatten() for x in optimizer.state[p].values()])).all()
    else:
        assert p[1].isnan().all()


def test_biases_and_single_entries_are_stepped_as_ever() -> None:
    layer = nn.Linear(5, 4)
    gain = nn.Parameter(torch.rand(3, 1))
    twins = copy.deepcopy([layer.bias, gain])
    groups = [{"params": [layer.weight, layer.bias]}, {"params": [gain], "neuron_axes": (0, 1)}]
    optimizer = nero.Nero(groups, orthogonal=True, momentum=0.5)
    plain = nero.Nero([{"params": twins[:1]}, {**groups[1], "params": twins[1:]}], momentum=0.5)
    for t in range(3):
        for p in (layer.weight, layer.bias, gain):
            p.grad = normal(*p.shape, seed=t).float()
        for twin, p in zip(twins, (layer.bias, gain), strict=True):
            twin.grad = p.grad
        optimizer.step()
        plain.step()
    assert bits(twins) == bits([layer.bias, gain])


@every_path
def test_a_layer_changes_by_lr_as_a_map(path: PathRow) -> None:
    """Where all neurons have the same gradient, and would all turn alike."""
    shared = normal(1, 64, seed=1)
    p = nn.Parameter(normal(16, 64))
    for orthogonal in (False, True):
        optimizer = build([p], path, lr=0.001, orthogonal=orthogonal)
        before = p.detach().clone()
        p.grad = shared + 0.02 * normal(16, 64, seed=2)
        optimizer.step()
        change = torch.linalg.matrix_norm(p.detach() - before, 2)
        assert change < 0.0011 if orthogonal else change > 0.0035


@every_path
def test_a_run_goes_on_from_its_state(path: PathRow) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def steps(net: nn.Module, optimizer: nero.Nero, times: range) -> None:
        for t in times:
            for p in net.parameters():
                p.grad = normal(*p.shape, seed=t).float()
            optimizer.step()

    options: dict[str, Any] = {"orthogonal": True, "momentum": 0.9, "max_turn": 1.0}
    whole, first, second = model(), model(), model()
    optimizer = build(whole.parameters(), path, **options)
    steps(whole, optimizer, range(6))
    half = build(first.parameters(), path, **options)
    steps(first, half, range(3))
    rest = build(second.parameters(), path)
    second.load_state_dict(first.state_dict())
    rest.load_state_dict(half.state_dict())
    assert rest.param_groups[0]["orthogonal"] is True
    assert rest.param_groups[0]["max_turn"] == 1.0
    steps(second, rest, range(3, 6))
    assert snapshot(optimizer) == snapshot(rest)
    assert bits(whole.state_dict()) == bits(second.state_dict())


@pytest.mark.parametrize("strides", ["channels last", "transposed"])
@every_path
def test_any_strides(path: PathRow, strides: str) -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    p = nn.Parameter(w.clone())
    if strides == "channels last":
        other = nn.Parameter(w.to(memory_format=torch.channels_last))
    else:
        other = nn.Parameter(w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    optimizer = build([p, other], path, orthogonal=True, momentum=0.9)
    for _ in range(2):
        p.grad, other.grad = g.clone(), torch.empty_like(other).copy_(g)
        optimizer.step()
    torch.testing.assert_close(other.detach(), p.detach(), rtol=0, atol=1e-12)


@every_path
@every_momentum
@pytest.mark.parametrize("filters", [False, True], ids=["matrix", "channels last"])
def test_gradients_stay_as_they_are(path: PathRow, momentum: float, filters: bool) -> None:
    shape, lie = (5, 7), torch.contiguous_format
    if filters:
        shape, lie = (5, 7, 2, 2), torch.channels_last
    p = nn.Parameter(normal(*shape).float().to(memory_format=lie))
    optimizer = build([p], path, orthogonal=True, momentum=momentum)
    p.grad = normal(*shape, seed=1).float().to(memory_format=lie)
    before = bits(p.grad)
    optimizer.step()
    assert bits(p.grad) == before


def test_stacks_go_to_the_rule_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nero.step.orthogonal.CPU_STACK", 64)
    small, other, large, last = ([(x, x)] for x in map(torch.zeros, (8, 8, 100, 4)))
    assert in_buckets([small, other, large, last]) == [[small, other], [large], [last]]
    assert in_buckets([]) == []


@every_path
def test_layers_of_several_shapes_are_stepped_as_each_alone(path: PathRow) -> None:
    shapes = [(4, 6), (6, 4), (3, 8), (4, 6)]

    def stepped(which: list[int]) -> list[Tensor]:
        params = [nn.Parameter(normal(*shapes[i], seed=i)) for i in which]
        optimizer = build(params, path, lr=LR, orthogonal=True, momentum=0.9)
        for t in range(3):
            for i, p in zip(which, params, strict=True):
                p.grad = normal(*shapes[i], seed=10 * t + i)
            optimizer.step()
        return [p.detach() for p in params]

    together = stepped([0, 1, 2, 3])
    for i, p in enumerate(together):
        torch.testing.assert_close(p, *stepped([i]), rtol=0, atol=1e-14)


def test_a_step_in_the_backward_pass() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    options: dict[str, Any] = {"orthogonal": True, "momentum": 0.9, "max_turn": 1.0}
    optimizer = nero.Nero(twin.parameters(), **options)
    stepping = nero.Nero(model.parameters(), **options)
    nero.step_in_backward(model, stepping)
    for t in range(3):
        x = normal(5, 6, seed=t).float()
        model(x).square().sum().backward()
        stepping.step()
        optimizer.zero_grad()
        twin(x).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"orthogonal": 1}, TypeError, "orthogonal must be True or False, got 1"),
        ({"max_turn": 0.0}, ValueError, "max_turn must be positive and finite, or None, got 0.0"),
        ({"max_turn": math.inf}, ValueError, "max_turn must be positive"),
        ({"max_turn": "1"}, TypeError, "max_turn must be a positive float or None, got '1'"),
        ({"blocks": 0}, ValueError, "blocks must be a positive integer, got 0"),
        ({"blocks": 1.0}, TypeError, "blocks must be a positive integer, got 1.0"),
        (
            {"blocks": 3, "orthogonal": True},
            ValueError,
            r"parameter 0 of shape \(4, 5\): blocks=3 does not divide the 4 neurons of a layer",
        ),
    ],
    ids=str,
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    w = nn.Parameter(normal(4, 5))
    before = bits(w)
    with pytest.raises(error, match=message):
        nero.Nero([w], **options)
    assert bits(w) == before
