"""nero.watch against plain loops over neurons in float64, and what it leaves alone."""

import copy
import pickle
from math import asin, nan, pi, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from helpers import bits, give_gradients, network, train, weights_like
from nero import Nero, NeuronLayout, geometry
from nero.telemetry.layer import SAMPLE
from optimizer_table import CONSTRAINTS, TENSORS, TensorRow, names
from test_memory import NoReads

LAYERS = [row for row in TENSORS if len(row.shape) > 1]
# The watch does the oracle's arithmetic in float64 and in another order.
TOLERANCE = 1e-9


def rows_of(w: Tensor, row: TensorRow) -> list[list[float]]:
    flat = w.detach().double().flatten().tolist()
    return [[flat[i] for i in entries] for entries in row.neurons]


def unit(x: list[float]) -> list[float]:
    norm = sqrt(sum(each * each for each in x))
    return [each / norm for each in x]


def turn(before: list[float], after: list[float]) -> list[float]:
    return [b - a for a, b in zip(unit(before), unit(after), strict=True)]


def angle(before: list[float], after: list[float]) -> float:
    return 2 * asin(sqrt(sum(each * each for each in turn(before, after))) / 2)


def effective_rank(turns: list[list[float]]) -> float:
    s = torch.linalg.svdvals(torch.tensor(turns, dtype=torch.float64))
    return float(s.square().sum() ** 2 / s.pow(4).sum())


class Averages:
    """Running averages of one tensor, and which neurons the cap holds back, by the equations."""

    def __init__(self, row: TensorRow, beta: float, momentum: float, cap: float) -> None:
        self.row, self.beta, self.momentum, self.cap = row, beta, momentum, cap
        self.t, self.v = 0, [0.0] * len(row.neurons)
        self.m = [[0.0] * len(entries) for entries in row.neurons]

    def capped(self, g: Tensor) -> float:
        self.t += 1
        count = 0
        for k, entries in enumerate(rows_of(g, self.row)):
            if not all(abs(x) < 1e300 for x in entries):
                continue
            mu = self.momentum
            self.m[k] = [mu * m + (1 - mu) * x for m, x in zip(self.m[k], entries, strict=True)]
            square = sum((m / (1 - mu**self.t)) ** 2 for m in self.m[k])
            self.v[k] = self.beta * self.v[k] + (1 - self.beta) * square
            count += sqrt(square) > self.cap * sqrt(self.v[k] / (1 - self.beta**self.t))
        return count / len(self.v)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
@pytest.mark.parametrize("row", LAYERS, ids=names(LAYERS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_reports_are_those_of_plain_loops(
    dtype: torch.dtype, row: TensorRow, constraint: dict[str, Any], momentum: float
):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(row.shape, dtype=dtype))
    optimizer = Nero(
        [("w", w)],
        lr=0.02,
        beta=0.9,
        momentum=momentum,
        max_turn=1.0,
        neuron_axes=row.neuron_axes,
        **constraint,
    )
    start = w.detach().clone()
    averages = Averages(row, 0.9, momentum, 1.0)
    fixed = {"unit": 1.0, None: None, "initial": None}.get(constraint["radius"], 2.5)
    with nero.watch(optimizer, every=2, start=True) as watch:
        for t in range(1, 7):
            before = w.detach().clone()
            generator = torch.Generator().manual_seed(t)
            g = torch.randn(row.shape, generator=generator, dtype=torch.float64)
            w.grad = (g * torch.randn((), generator=generator).exp()).to(dtype)
            if len(row.neurons) > 1 and t == 4:
                w.grad.flatten()[row.neurons[0][0]] = nan
            optimizer.step()
            capped, found = averages.capped(w.grad), watch.report()
            assert (found is None) == (t % 2 == 1)
            if found is None:
                continue
            was, now, first = (rows_of(x, row) for x in (before, w, start))
            angles = list(map(angle, was, now))
            since = list(map(angle, first, now))
            norms = [sqrt(sum(x * x for x in each)) for each in now]
            radii = [fixed] * len(norms)
            if constraint["radius"] == "initial":
                radii = [sqrt(sum(x * x for x in each)) for each in first]
            expected = {
                "step": t,
                "lr/w": 0.02,
                "angle/mean/w": sum(angles) / len(angles),
                "angle/max/w": max(angles),
                "angle_in_lr/mean/w": sum(angles) / len(angles) / 0.02,
                "angle_in_lr/max/w": max(angles) / 0.02,
                "angle_from_start/mean/w": sum(since) / len(since),
                "angle_from_start/max/w": max(since),
                "effective_rank/w": effective_rank(list(map(turn, was, now))),
                "capped/w": capped,
                "skipped/w": (len(row.neurons) > 1 and t == 4) / len(row.neurons),
            }
            if constraint["radius"] is not None:
                pairs = zip(norms, radii, strict=True)
                error = max(abs(norm / r - 1) for norm, r in pairs if r is not None)
                # Radii of their own are measured, and kept, in the dtype of the weights.
                rounded = dtype == torch.float32 and constraint["radius"] == "initial"
                close = 3e-7 if rounded else TOLERANCE
                assert found.pop("norm_error/w") == pytest.approx(error, abs=close)
            # Float32 rounds what the sample's products are made of.
            close = TOLERANCE if dtype == torch.float64 else 1e-5
            assert found == pytest.approx(expected, rel=close, abs=TOLERANCE)


def wide_layer(neurons: int, fan_in: int, rank: int) -> tuple[Nero, nn.Parameter]:
    """A layer whose neurons turn along `rank` directions."""
    w = nn.Parameter(torch.randn(neurons, fan_in))
    optimizer = Nero([("w", w)], lr=0.01)
    basis = torch.linalg.qr(torch.randn(fan_in, rank))[0].T
    w.grad = torch.randn(neurons, rank) @ basis
    return optimizer, w


@pytest.mark.parametrize("rank", [1, 4, 32])
@pytest.mark.parametrize("neurons", [SAMPLE - 1, SAMPLE, SAMPLE + 1, 5 * SAMPLE + 3])
def test_the_effective_rank_of_many_neurons_rests_on_a_sample(neurons: int, rank: int):
    torch.manual_seed(rank)
    optimizer, w = wide_layer(neurons, 300, rank)
    watch = nero.watch(optimizer, every=1)
    before = w.detach().double()
    optimizer.step()
    turns = w.detach().double()
    turns = turns / turns.norm(dim=1, keepdim=True) - before / before.norm(dim=1, keepdim=True)
    found = watch.report()
    assert found is not None
    exact = effective_rank(turns.tolist())
    # Of m sampled neurons about m^2 / 2 pairs are averaged.
    assert found["effective_rank/w"] == pytest.approx(exact, rel=1e-5 if neurons <= SAMPLE else 0.1)


def test_large_layers_are_measured_in_pieces():
    torch.manual_seed(0)
    optimizer, w = wide_layer(700, 1000, 4)
    watch = nero.watch(optimizer, every=1)
    before = w.detach().clone()
    optimizer.step()
    angles = geometry.turning_angle(before, w.detach(), NeuronLayout((700, 1000)))
    found = watch.report()
    assert found is not None
    assert found["angle/mean/w"] == pytest.approx(angles.mean().item(), rel=1e-9)
    assert found["angle/max/w"] == pytest.approx(angles.max().item(), rel=1e-9)


def test_a_layer_that_is_dead_does_not_turn_and_lives_again():
    w = nn.Parameter(torch.randn(8, 5))
    optimizer = Nero([("w", w)], lr=0.01, max_turn=1.0)
    watch = nero.watch(optimizer, every=1)
    found = []
    for g in (torch.randn(8, 5), torch.zeros(8, 5), torch.randn(8, 5)):
        w.grad = g
        optimizer.step()
        found.append(watch.report())
    for key in ("angle/mean/w", "angle/max/w", "angle_in_lr/mean/w", "effective_rank/w"):
        assert [report[key] > 0 for report in found] == [True, False, True], key
    assert found[1]["capped/w"] == found[1]["skipped/w"] == 0


def test_neurons_from_zero_count_as_not_turned():
    w = nn.Parameter(torch.zeros(4, 6))
    with pytest.warns(UserWarning, match="start at"):
        optimizer = Nero([("w", w)])
    watch = nero.watch(optimizer, every=1)
    train(optimizer, [0])
    report = watch.report()
    assert (report["angle/max/w"], report["effective_rank/w"]) == (0, 0)
    assert "norm_error/w" not in report
    train(optimizer, [1])
    assert watch.report()["angle/mean/w"] > 0


@pytest.mark.parametrize("cap", [0.5, 1.0])
def test_the_cap_of_orthogonal_directions(cap: float):
    """All directions have norm 1, so that every neuron is held back by a cap below 1 or none is."""
    w = nn.Parameter(torch.randn(8, 12))
    optimizer = Nero([("w", w)], orthogonal=True, momentum=0.9, max_turn=cap)
    watch = nero.watch(optimizer, every=3)
    train(optimizer, range(3))
    assert watch.report()["capped/w"] == (cap < 1)


def test_what_cannot_be_has_no_key():
    params = weights_like((4, 5), (6,), (3, 1), (0, 4))
    optimizer = Nero(
        [{"params": params, "nonfinite": "propagate"}], lr=0.0, center=False, radius=None
    )
    watch = nero.watch(optimizer, every=1)
    train(optimizer, [0])
    assert watch.report() == {
        "step": 1.0,
        "lr/0.0": 0.0,
        "angle/mean/0.0": 0.0,
        "angle/max/0.0": 0.0,
        "effective_rank/0.0": 0.0,
    }


def test_a_layer_without_a_gradient_is_left_out():
    optimizer = Nero([(name, w) for name, w in zip("ab", weights_like((4, 5), (4, 5)))])  # noqa: B905
    optimizer.param_groups[0]["params"][0].requires_grad_(False)
    watch = nero.watch(optimizer, every=1)
    optimizer.step()
    assert watch.report() == {"step": 1.0}
    optimizer.param_groups[0]["params"][1].grad = torch.randn(4, 5)
    optimizer.step()
    assert {key.rpartition("/")[2] for key in watch.report()} == {"step", "b"}


def test_layers_of_one_name_go_by_their_places():
    models = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer = Nero([{"params": list(model.named_parameters())} for model in models])
    watch = nero.watch(optimizer, every=1)
    train(optimizer, [0])
    assert {key for key in watch.report() if key.startswith("lr/")} == {"lr/0.0", "lr/1.0"}


def test_the_learning_rate_is_that_of_the_step_even_where_it_is_a_tensor():
    lr = torch.tensor(0.1)
    optimizer = Nero([("w", weights_like((4, 5))[0])], lr=lr)
    watch = nero.watch(optimizer, every=1)
    train(optimizer, [0])
    lr.fill_(7.0)  # as a scheduler does, before the report is read
    report = watch.report()
    assert report["lr/w"] == pytest.approx(0.1)
    assert report["angle_in_lr/max/w"] == pytest.approx(report["angle/max/w"] / 0.1)


@pytest.mark.parametrize("every", [1, 3])
def test_steps_are_the_same_to_the_bit(every: int):
    torch.manual_seed(0)
    model = network()
    twin = copy.deepcopy(model)
    optimizers = [Nero(each.named_parameters()) for each in (model, twin)]
    watch = nero.watch(optimizers[0], every=every, start=True)
    for optimizer in optimizers:
        train(optimizer, range(7))
    assert bits(model.state_dict()) == bits(twin.state_dict())
    assert watch.steps == 7


def test_the_newest_report_is_returned_once():
    optimizer = Nero(network().named_parameters())
    watch = nero.watch(optimizer, every=2)
    train(optimizer, range(5))
    assert watch.report()["step"] == 4
    assert watch.report() is None


@pytest.mark.parametrize("options", [{}, {"orthogonal": True, "momentum": 0.9}], ids=str)
def test_nothing_is_read_before_the_report_is(options: dict[str, Any]):
    params = weights_like((8, 6), (5, 4))
    optimizer = Nero(params, lr=torch.tensor(0.1), capturable=True, max_turn=1.0, **options)
    watch = nero.watch(optimizer, every=1, start=True)
    train(optimizer, [0])
    give_gradients(params, 1)
    with NoReads():  # the CPU stands for a device
        watch._before_step()
        watch._after_step()
    assert watch.report() is not None


def test_off_means_off():
    optimizer = Nero(network().named_parameters())
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    with nero.watch(optimizer, every=1) as watch:
        assert list(map(len, hooks)) == [1, 1]
    assert list(map(len, hooks)) == [0, 0]
    train(optimizer, [0])
    assert watch.report() is None


def test_copies_of_the_optimizer_are_not_watched():
    optimizer = Nero(network().named_parameters())
    watch = nero.watch(optimizer, every=1)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        train(other, [0])
    assert watch.steps == 0


def test_a_step_that_fails_is_not_counted():
    w = weights_like((4, 5))[0]
    optimizer = Nero([("w", w)], nonfinite="raise")
    watch = nero.watch(optimizer, every=1)
    w.grad = torch.full((4, 5), nan)
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        optimizer.step()
    assert (watch.report(), watch.steps) == (None, 0)
    train(optimizer, [0])
    assert watch.report()["step"] == 1


def test_gradients_of_a_closure_are_those_of_the_step():
    model = nn.Linear(5, 4)
    optimizer = Nero(model.named_parameters(), lr=0.1)
    watch = nero.watch(optimizer, every=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(3, 5)).square().mean() + 0 * model.weight[0].sum() * nan
        loss.backward()
        return loss

    optimizer.step(closure)
    assert watch.report()["skipped/weight"] == 0.25


def test_a_resumed_run_reports_what_one_that_was_never_stopped_does():
    def build() -> tuple[Nero, nero.telemetry.Watch]:
        torch.manual_seed(0)
        optimizer = Nero(network().named_parameters(), lr=0.05)
        return optimizer, nero.watch(optimizer, every=3, start=True)

    whole, watch = build()
    train(whole, range(4))
    watch.report()
    saved = copy.deepcopy((whole.state_dict(), watch.state_dict()))
    weights = [[p.detach().clone() for p in group["params"]] for group in whole.param_groups]
    train(whole, range(4, 6))

    resumed, again = build()
    with torch.no_grad():
        for group, values in zip(resumed.param_groups, weights, strict=True):
            for p, value in zip(group["params"], values, strict=True):
                p.copy_(value)
    again = nero.watch(resumed, every=3, start=True)  # over weights that have turned by now
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    train(resumed, range(4, 6))
    report = again.report()
    assert report == watch.report()
    assert report["step"] == 6

    wrong = {"steps": 1, "start": {"0.0": torch.zeros(3, 3)}}
    with pytest.raises(ValueError, match=r"no layer '0\.0' of shape \(3, 3\)"):
        again.load_state_dict(wrong)


def test_start_of_groups_that_come_later():
    optimizer = Nero([("a", weights_like((4, 5))[0])])
    watch = nero.watch(optimizer, every=1, start=True)
    optimizer.add_param_group({"params": [("b", weights_like((4, 5))[0])]})
    train(optimizer, [0])
    report = watch.report()
    assert report["angle_from_start/max/b"] == report["angle/max/b"] > 0


def test_half_a_turn_and_a_norm_that_is_off():
    w = nn.Parameter(torch.randn(4, 6))
    optimizer = Nero([("w", w)])
    watch = nero.watch(optimizer, every=1, start=True)
    with torch.no_grad():
        w.mul_(-1.25)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    report = watch.report()
    assert report["angle_from_start/mean/w"] == pytest.approx(pi)
    assert report["norm_error/w"] == pytest.approx(0.25)


@pytest.mark.parametrize("every", [0, -1, 2.0, True, None])
def test_every_has_to_be_a_positive_integer(every: Any):
    optimizer = Nero(network().parameters())
    with pytest.raises(ValueError, match="every must be a positive integer"):
        nero.watch(optimizer, every=every)


def test_other_optimizers_are_refused():
    optimizer: Any = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"must be a nero\.Nero, got a SGD"):
        nero.watch(optimizer)


def test_a_step_in_backward_is_refused():
    model = network()
    optimizer = Nero(model.parameters())
    with (
        nero.step_in_backward(model, optimizer),
        pytest.raises(RuntimeError, match="steps in the backward pass"),
    ):
        nero.watch(optimizer)
    with nero.watch(optimizer, every=1), nero.step_in_backward(model, optimizer):
        model(torch.randn(3, 6)).sum().backward()
        with pytest.raises(RuntimeError, match="steps in the backward pass"):
            optimizer.step()


def test_a_compiled_step_is_watched_at_the_price_of_a_break():
    torch._dynamo.reset()
    params = weights_like((4, 5))
    optimizer = Nero(params, lr=torch.tensor(0.1))
    watch = nero.watch(optimizer, every=2)
    step = torch.compile(optimizer.step, backend="eager")
    for seed in range(4):
        give_gradients(params, seed)
        step()
    assert watch.report()["step"] == 4
    torch._dynamo.reset()
