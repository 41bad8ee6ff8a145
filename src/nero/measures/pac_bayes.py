"""PAC-Bayes bounds for randomised balanced networks: uniform caps, von Mises-Fisher.

For a prior P fixed before the data, m examples and any posterior Q, with probability 1 - delta

    kl(training error of Q, test error of Q) <= (KL(Q, P) + ln(2 sqrt(m) / delta)) / m

where the errors are means over networks drawn from Q (Maurer 2004). The bound is about those
random networks, not about the one in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nero.measures.caps import cap_kl, sample_caps
from nero.measures.fisher import fisher_kl, sample_fisher
from nero.measures.sphere import Data, Layouts, accuracy_at, balanced_weights


@dataclass(frozen=True)
class PacBayes:
    """One posterior and what holds for it; errors are fractions from 0 to 1.

    Attributes:
        spread: half-angle of the caps in radians (or one for each parameter), or the
            concentration of the von Mises-Fisher distributions.
        kl: divergence of the posterior from the prior, in nats.
        train_error: of the networks drawn from the posterior, on average.
        train_error_upper: what the posterior's training error exceeds with the probability
            delta / 2 at the most, over all of the grid.
        test_error_upper: the bound on the posterior's test error; vacuous from 0.5 on where two
            classes are equally frequent.

    Examples:
        >>> from nero.measures import PacBayes
        >>> grid = [
        ...     PacBayes(0.2, kl=420.0, train_error=0.01, train_error_upper=0.03,
        ...              test_error_upper=0.31),
        ...     PacBayes(0.5, kl=250.0, train_error=0.05, train_error_upper=0.08,
        ...              test_error_upper=0.27),
        ... ]
        >>> min(grid, key=lambda each: each.test_error_upper).spread
        0.5
    """

    spread: float | Mapping[str, float]
    kl: float
    train_error: float
    train_error_upper: float
    test_error_upper: float


def binary_kl(q: float, p: float) -> float:
    """`q ln(q / p) + (1 - q) ln((1 - q) / (1 - p))`, in nats.

    Args:
        q: a probability.
        p: another.

    Returns:
        The divergence; infinite where p is 0 or 1 and q is not.

    Raises:
        ValueError: q or p is not in [0, 1].

    Examples:
        >>> from nero.measures import binary_kl
        >>> binary_kl(0.5, 0.5), round(binary_kl(0.0, 0.5), 6)
        (0.0, 0.693147)
    """
    if not (0 <= q <= 1 and 0 <= p <= 1):
        raise ValueError(f"q and p must be in [0, 1], got {q} and {p}")
    total = 0.0
    for a, b in ((q, p), (1 - q, 1 - p)):
        if a > 0:
            total += a * math.log(a / b) if b > 0 else math.inf
    return total


def binary_kl_upper(q: float, budget: float) -> float:
    """The largest p with `binary_kl(q, p) <= budget`.

    Args:
        q: a probability.
        budget: in nats, 0 or above.

    Returns:
        p, from q to 1, rounded up.

    Raises:
        ValueError: q is not in [0, 1] or the budget is negative.

    Examples:
        With no error seen, `1 - exp(-budget)`:

        >>> from nero.measures import binary_kl_upper
        >>> round(binary_kl_upper(0.0, 0.1), 6)
        0.095163
    """
    if not budget >= 0:
        raise ValueError(f"budget must be at least 0, got {budget}")
    low, high = q, 1.0
    if binary_kl(q, high) <= budget:
        return high
    while (middle := (low + high) / 2) not in (low, high):
        if binary_kl(q, middle) <= budget:
            low = middle
        else:
            high = middle
    return high


def pac_bayes_bound(train_error: float, kl: float, examples: int, delta: float = 0.05) -> float:
    """Upper bound on the test error of a posterior from its training error.

    Args:
        train_error: of the posterior, from 0 to 1.
        kl: divergence from the prior in nats; `ln 1/P[version space]` where the posterior is the
            prior given that it makes no training error.
        examples: number of training examples m; at least 8.
        delta: the probability with which the bound may fail.

    Returns:
        The bound, from 0 to 1.

    Raises:
        ValueError: an argument is out of range.

    Source:
        A. Maurer, "A note on the PAC Bayesian theorem", 2004, theorem 5.

    Examples:
        >>> from nero.measures import pac_bayes_bound
        >>> round(pac_bayes_bound(0.0, 250.0, 1000), 3)
        0.227
    """
    if kl < 0:
        raise ValueError(f"kl must be at least 0, got {kl}")
    if examples < 8:
        raise ValueError(f"examples must be at least 8 for this bound, got {examples}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    confidence = math.log(2 * math.sqrt(examples) / delta)
    return binary_kl_upper(train_error, (kl + confidence) / examples)


def cap_bounds(
    model: nn.Module,
    layouts: Layouts,
    data: Data,
    angles: Sequence[float | Mapping[str, float]],
    *,
    draws: int = 100,
    delta: float = 0.05,
    generator: torch.Generator | None = None,
) -> list[PacBayes]:
    """Bounds for networks drawn uniformly from caps around the neurons of a balanced one.

    The prior is uniform on the spheres. All bounds hold together with probability 1 - delta: half
    of delta goes to the PAC-Bayes theorem, which holds for every posterior at once, the other
    half is shared among the grid's estimates of the training error from `draws` networks. So the
    smallest of them may be picked.

    Args:
        model: every trainable parameter of it in `layouts`; a parameter that was not trained has
            `requires_grad` off.
        layouts: parameter name -> its neurons, as `balanced_layouts` returns.
        data: the training inputs and labels.
        angles: the grid of half-angles in radians, up to a right angle; an entry is one for all
            neurons or a mapping with one for each parameter. It must not depend on the labels.
        draws: networks drawn for each entry.
        delta: the probability with which some bound may fail.
        generator: of the draws, on the model's device; torch's own where None.

    Returns:
        One bound for each entry of the grid, in its order.

    Raises:
        ValueError: a parameter is trainable and not in `layouts`, neurons are not balanced, or an
            argument is out of range.

    Examples:
        >>> import torch, nero
        >>> from nero.measures import balanced_layouts, cap_bounds
        >>> inputs = torch.randn(4000, 4)
        >>> inputs = inputs - inputs.mean(1, keepdim=True)
        >>> labels = torch.sign(inputs[:, 0] - inputs[:, 1])
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
        >>> nero.balance_(model)
        Linear(in_features=4, out_features=1, bias=False)
        >>> layouts = balanced_layouts(nero.param_groups(model))
        >>> bounds = cap_bounds(model, layouts, (inputs, labels), [0.03, 0.1, 0.3], draws=200)
        >>> min(b.test_error_upper for b in bounds) < 0.1
        True
    """
    weights = _covered_weights(model, layouts)

    def posteriors() -> Iterable[_Posterior]:
        for angle in angles:
            yield (
                angle,
                cap_kl(layouts, angle),
                lambda angle=angle: sample_caps(weights, layouts, angle, generator),
            )

    share = delta / 2 / max(1, len(angles))
    return _bounds(model, data, posteriors(), draws, prior_delta=delta / 2, draws_delta=share)


def fisher_bounds(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    layouts: Layouts,
    data: Data,
    concentrations: Sequence[float],
    *,
    draws: int = 100,
    delta: float = 0.05,
    generator: torch.Generator | None = None,
) -> list[PacBayes]:
    """Bounds for networks drawn from von Mises-Fisher distributions around a balanced one.

    The prior has the same concentration around the initial weights, so that what counts is how
    far the neurons have turned. Each concentration is a prior of its own: the grid shares both
    halves of delta, and all bounds hold together.

    Args:
        model: as for `cap_bounds`.
        initial: parameter name -> its weights before training, balanced.
        layouts: as for `cap_bounds`.
        data: as for `cap_bounds`.
        concentrations: the grid of kappa, above 0.
        draws: as for `cap_bounds`.
        delta: as for `cap_bounds`.
        generator: as for `cap_bounds`.

    Returns:
        One bound for each concentration, in their order.

    Raises:
        ValueError: as `cap_bounds`.

    Source:
        G. K. Dziugaite, D. M. Roy, "Computing nonvacuous generalization bounds for deep
        (stochastic) neural networks", 2017, for Gaussians around the initial weights.

    Examples:
        >>> import torch, nero
        >>> from nero.measures import balanced_layouts, fisher_bounds
        >>> model = nero.balance_(torch.nn.Linear(8, 1, bias=False))
        >>> inputs = torch.randn(500, 8)
        >>> labels = torch.sign(model(inputs - inputs.mean(1, keepdim=True)).flatten().detach())
        >>> layouts = balanced_layouts(nero.param_groups(model))
        >>> initial = {"weight": model.weight.detach().clone()}
        >>> (bound,) = fisher_bounds(model, initial, layouts, (inputs, labels), [1000.0])
        >>> bound.kl  # nothing was learnt: the neuron is where it was
        0.0
    """
    weights = _covered_weights(model, layouts)

    def posteriors() -> Iterable[_Posterior]:
        for kappa in concentrations:
            yield (
                kappa,
                fisher_kl(weights, initial, layouts, kappa),
                lambda kappa=kappa: sample_fisher(weights, layouts, kappa, generator),
            )

    share = delta / 2 / max(1, len(concentrations))
    return _bounds(model, data, posteriors(), draws, prior_delta=share, draws_delta=share)


_Posterior = tuple[float | Mapping[str, float], float, Callable[[], dict[str, Tensor]]]


def _covered_weights(model: nn.Module, layouts: Layouts) -> dict[str, Tensor]:
    for name, p in model.named_parameters():
        if p.requires_grad and name not in layouts:
            raise ValueError(
                f"{name!r} is trainable and not among the layouts, so the bound would not hold: "
                "call requires_grad_(False) on it if it was not trained"
            )
    return balanced_weights(model, layouts)


def _bounds(
    model: nn.Module,
    data: Data,
    posteriors: Iterable[_Posterior],
    draws: int,
    *,
    prior_delta: float,
    draws_delta: float,
) -> list[PacBayes]:
    """A draw's error lies in [0, 1], so its mean obeys Chernoff's bound in the binary KL."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    found = []
    for spread, kl, draw in posteriors:
        errors = [1 - accuracy_at(model, draw(), data) for _ in range(draws)]
        error = math.fsum(errors) / draws
        upper = binary_kl_upper(min(1.0, max(0.0, error)), -math.log(draws_delta) / draws)
        bound = pac_bayes_bound(upper, kl, len(data[1]), prior_delta)
        found.append(PacBayes(spread, kl, error, upper, bound))
    return found
