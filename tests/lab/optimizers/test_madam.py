"""Madam against an oracle written from its equations with plain loops over numbers."""

import math

import pytest
import torch

from nero_lab.optimizers.madam import Madam


def oracle(weights, gradients, *, lr, beta, g_bound, w_bound):
    """Return the weights after one step per row of gradients; all plain lists of floats."""
    w, v = list(weights), [0.0] * len(weights)
    bound = w_bound * math.sqrt(sum(x * x for x in w) / len(w))
    for t, row in enumerate(gradients, start=1):
        for i, g in enumerate(row):
            v[i] = beta * v[i] + (1 - beta) * g * g
            average = v[i] / (1 - beta**t)
            r = g / math.sqrt(average) if average > 0 else 0.0
            r = max(-g_bound, min(g_bound, r))
            sign = (w[i] > 0) - (w[i] < 0)
            w[i] = w[i] * math.exp(-lr * sign * r)
            w[i] = max(-bound, min(bound, w[i]))
    return w


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.01, "beta": 0.999, "g_bound": 8.0, "w_bound": 3.0},
        {"lr": 0.3, "beta": 0.5, "g_bound": 1.0, "w_bound": 1.1},  # both bounds are met
        {"lr": 0.1, "beta": 0.0, "g_bound": 8.0, "w_bound": 3.0},
    ],
)
def test_agrees_with_the_oracle(settings):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    w[0, 0], w[0, 5] = 0.0, 0.5
    gradients = torch.randn(50, 24, generator=generator, dtype=torch.float64)
    gradients[::7] *= 100
    gradients[:, 5] = 0.0
    expected = oracle(w.flatten().tolist(), gradients.tolist(), **settings)
    p = torch.nn.Parameter(w.clone())
    optimizer = Madam([p], **settings)
    for row in gradients:
        p.grad = row.view_as(p).clone()
        optimizer.step()
    # Rounding of 50 products: a few times 50 units of 1e-16.
    torch.testing.assert_close(
        p.detach().flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert (p[0, 0], p[0, 5]) == (0.0, 0.5)  # a zero weight, and one without a gradient


def test_the_bounds_bind():
    p = torch.nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    optimizer = Madam([p], lr=1.0, beta=0.0, w_bound=2.0)
    for _ in range(3):
        p.grad = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        optimizer.step()
    assert p.tolist() == [2.0, -2.0]


def test_a_step_at_rate_zero_changes_nothing():
    p = torch.nn.Parameter(torch.randn(5))
    before = p.detach().clone()
    p.grad = torch.randn(5)
    Madam([p], lr=0.0).step()
    assert torch.equal(p, before)


def test_takes_a_closure():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = Madam([p])

    def closure():
        loss = p.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert (p < 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative"),
        ({"lr": float("nan")}, "lr must not be negative"),
        ({"beta": 1.0}, r"beta must be in \[0, 1\)"),
        ({"g_bound": 0.0}, "g_bound must be positive"),
        ({"w_bound": -3.0}, "w_bound must be positive"),
    ],
)
def test_refuses_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Madam([torch.nn.Parameter(torch.ones(2))], **settings)


def test_refuses_sparse_gradients():
    table = torch.nn.Embedding(4, 3, sparse=True)
    optimizer = Madam(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
