"""What test_edges.py runs in every process: gradients and weights that are not ordinary."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from distributed.cases import S0, S1, Pair, R, mesh_of, pair, random, shard
from distributed.steps import TOLERANCES
from nero import Nero

WHOLE_AND_CUT = [(S0,), (S1,), (R,)]


def _three(dtype: torch.dtype = torch.float32, **options: Any) -> Pair:
    """One matrix three times: by rows, by columns and replicated."""
    weights = [random(7, 9, seed=0, dtype=dtype)] * 3
    return pair(weights, mesh_of(4), WHOLE_AND_CUT, **options)


def gradients_of_any_size(dtype: torch.dtype, sizes: list[float]) -> None:
    """Every size for all neurons, and all sizes mixed within a neuron."""
    for size in [*sizes, None]:
        both = _three(dtype, lr=0.02)
        for t in range(3):
            g = random(7, 9, seed=t + 1, dtype=dtype)
            g *= size or torch.tensor(sizes).repeat(9)[:9].to(dtype)
            both.step([g] * 3)
        both.check(TOLERANCES[dtype])
        # A second time only where a factor is out of the range of the dtype.
        assert max(both.counts) <= 2, (size, both.counts)


def steps_as_long_as_weights(dtype: torch.dtype) -> None:
    """Along the weights themselves, so that next to nothing is left: one more all-reduce."""
    both = _three(dtype, lr=1.0, beta=0.0)
    w = both.params[0][0].detach().clone()
    both.step([w + 1e-3 * random(7, 9, seed=1, dtype=dtype)] * 3)
    # What is left is a thousandth of the weights, and so are the digits that float32 rounds off.
    both.check(2000 * TOLERANCES[dtype] if dtype == torch.float32 else 1e-9)
    assert both.counts == [2]


def neurons_that_cannot_be_projected() -> None:
    weights = [random(6, 8, seed=0) for _ in range(3)]
    for w in weights:
        w[0] = 0
        w[1] = 5.0
        w[2] = torch.nan
    both = pair(weights, mesh_of(4), WHOLE_AND_CUT, lr=0.1)
    gradient = random(6, 8, seed=1)
    gradient[:4, 1:] = 0
    gradient[3] = 0
    for _ in range(2):
        both.step([gradient] * 3)
    both.check(1e-6)


def weights_that_are_loaded_later() -> None:
    """Scales and radii are those of the weights at the first step, wherever they lie."""
    options: list[dict[str, Any]] = [{"radius": None}, {"radius": "initial"}]
    weights, placements, groups = [random(9, seed=0)], [(S0,)], [{}]
    for group in options:
        for where in WHOLE_AND_CUT:
            weights.append(random(7, 9, seed=len(weights)))
            placements.append(where)
            groups.append({"neuron_axes": (0,), "center": False, **group})
    both = pair(weights, mesh_of(4), placements, groups, lr=0.1)
    scales = [both.spread.state[q]["scale"].clone() for _, q in both.params]
    with torch.no_grad():
        for i, ((p, q), where) in enumerate(zip(both.params, placements, strict=True)):
            p.copy_(5 * random(*p.shape, seed=100 + i) + 0.5)
            q.to_local().copy_(shard(p.detach(), both.mesh, where).to_local())
    for t in range(3):
        both.step([random(*w.shape, seed=10 * t + i) for i, w in enumerate(weights)])
    both.check(1e-5)  # a few roundings more than of weights around 1
    for (_, q), scale in zip(both.params, scales, strict=True):
        assert both.spread.state[q]["scale"] > 2 * scale


def non_finite(nonfinite: str, momentum: float) -> None:
    both = _three(lr=0.05, nonfinite=nonfinite, momentum=momentum)
    for t, value in enumerate([0.0, torch.nan, torch.inf, 0.0]):
        g = random(7, 9, seed=t)
        g[1, 8] += value  # in the last process's columns, the first one's rows
        g[6, 0] -= value
        both.step([g] * 3)
    both.check(1e-6)
    assert both.alone.skipped_neurons() == (12 if nonfinite == "skip" else 0)
    assert both.spread.skipped_neurons() == both.alone.skipped_neurons()


def raising() -> None:
    """Every process raises, also one that holds nothing of the bad gradient."""
    both = _three(nonfinite="raise")
    g = random(7, 9, seed=0)
    both.step([g] * 3)
    before = [q.full_tensor() for _, q in both.params]
    bad = g.clone()
    bad[0, 0] = torch.inf
    both.give([bad, g, bad])
    with pytest.raises(RuntimeError, match=r"'p0' of shape \(7, 9\), parameter 'p2'.* holds NaN"):
        both.spread.step()
    for (_, q), w in zip(both.params, before, strict=True):
        assert torch.equal(q.full_tensor(), w)
        assert both.spread.state[q]["step"] == 1


def nothing_to_do() -> None:
    """A rate of 0, gradients of 0 and no gradients leave every bit."""
    both = _three(lr=0.0)
    before = [q.full_tensor() for _, q in both.params]
    both.step([random(7, 9, seed=0)] * 3)
    for group in both.spread.param_groups:
        group["lr"] = 0.1
    both.give([torch.zeros(7, 9), torch.zeros(7, 9), None])
    both.spread.step()
    both.give([None] * 3)
    both.spread.step()
    for (_, q), w, steps in zip(both.params, before, (2, 2, 1), strict=True):
        assert torch.equal(q.full_tensor(), w)
        assert both.spread.state[q]["step"] == steps


def other_placements() -> None:
    """Gradients that arrive otherwise than the parameter lies are brought to it."""
    both = _three()
    mesh, rank = both.mesh, both.mesh.get_rank()
    for t in range(3):
        g = random(7, 9, seed=t)
        both.give([g] * 3)
        parts = [random(7, 9, seed=10 * t + r) for r in range(1, 4)]
        share = g - sum(parts) if rank == 0 else parts[rank - 1]
        partial = DTensor.from_local(share, mesh, [Partial()], run_check=False)
        gradients = (partial, shard(g, mesh, [R]), partial)
        for (_, q), arrived in zip(both.params, gradients, strict=True):
            q.grad = arrived
        both.alone.step()
        both.spread.step()
        assert both.params[0][1].grad is partial  # the caller's is as it was
    both.check(1e-5)  # the shares add up to g within rounding


def refusals() -> None:
    mesh = mesh_of(4)
    weight = torch.nn.Parameter(shard(random(8, 8, seed=0), mesh, [S1]))
    before = weight.full_tensor()
    with pytest.raises(RuntimeError, match=r"'up' of shape \(8, 8\): its neurons are sharded"):
        Nero([("up", weight)], fused=True)
    assert torch.equal(weight.full_tensor(), before)
    partial = DTensor.from_local(torch.randn(4, 4), mesh, [Partial()], run_check=False)
    with pytest.raises(ValueError, match=r"'sum' of shape \(4, 4\): it is made of partial sums"):
        Nero([("sum", torch.nn.Parameter(partial))])
    optimizer = Nero([("up", weight)])
    other = mesh_of(2, 2)
    weight.grad = shard(random(8, 8, seed=0), other, [R, S1])
    with pytest.raises(RuntimeError, match=r"gradient of parameter 'up' .* is on"):
        optimizer.step()


def paths() -> None:
    both = _three()
    assert "all-reduced sums (its neurons are sharded over processes): 1 param" in both.spread.path
    assert re.search(r"CPU kernel \(.*\): 2 param", both.spread.path), both.spread.path
    rows = torch.nn.Parameter(shard(random(8, 8, seed=0), both.mesh, [S0]))
    fused = Nero([rows], fused=True)
    rows.grad = shard(random(8, 8, seed=1), both.mesh, [S0])
    fused.step()


def geometry_of_dtensors() -> None:
    from nero import NeuronLayout, geometry

    layout = NeuronLayout((7, 9))
    w, v = random(7, 9, seed=0), random(7, 9, seed=1)
    for where in WHOLE_AND_CUT:
        spread, turned = (shard(x, mesh_of(4), where) for x in (w, v))
        for found, expected in [
            (geometry.neuron_mean(spread, layout), geometry.neuron_mean(w, layout)),
            (geometry.neuron_norm(spread, layout), geometry.neuron_norm(w, layout)),
            (
                geometry.turning_angle(spread, turned, layout),
                geometry.turning_angle(w, v, layout),
            ),
        ]:
            assert isinstance(found, DTensor)
            assert torch.allclose(found.full_tensor(), expected, atol=1e-6)
        assert geometry.project_(spread, layout) is spread
        assert geometry.is_balanced(spread, layout).full_tensor().all()


def stochastic_rounding() -> None:
    """The noise is that of one process: rows round to the same bits, columns all but always.

    Sums over a cut neuron run in another order, so that a float32 weight may be another one in its
    last bit, and then in about one of 2^16 cases rounds the other way.
    """
    weights = [random(33, 24, seed=0, dtype=torch.bfloat16)] * 2
    both = pair(weights, mesh_of(4), [(S0,), (S1,)], rounding="stochastic", seed=3, lr=0.01)
    for t in range(1, 11):
        both.step([random(33, 24, seed=t, dtype=torch.bfloat16)] * 2)
        for (p, q), least in zip(both.params, (1.0, 0.99), strict=True):
            same = (p == q.full_tensor()).float().mean()
            assert same >= least, (t, same)
            assert torch.allclose(p.float(), q.full_tensor().float(), rtol=2**-7, atol=2**-9)
            with torch.no_grad():  # so that the two do not drift apart
                part: Tensor = q.to_local()
                part.copy_(shard(p.detach(), both.mesh, q.placements).to_local())
