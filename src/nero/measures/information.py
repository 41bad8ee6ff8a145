"""Information content: how unlikely a random wide network is to fit the training labels.

In the limit of infinite width the outputs of a random ReLU network at the training inputs are
Gaussian with the covariance of the compositional arccosine kernel, and the probability that
their signs are the labels is that of an orthant. Its negative logarithm is the information
content of the labels; it needs no training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def arccosine_kernel(inputs: Tensor, depth: int, *, center: bool = False) -> Tensor:
    """Correlations of the outputs of a random, infinitely wide ReLU network.

    The inputs' cosines t, then for each hidden layer
    `t <- (sqrt(1 - t^2) + t (pi - arccos t)) / pi`. With `center`, for neurons whose weights sum
    to 0: the inputs are centred first, and each layer gives `(t' - 1 / pi) / (1 - 1 / pi)` of that
    value t', since a neuron does not see the mean, which holds 1 / pi of the power.

    Args:
        inputs: (examples, ...), one vector for each example; their sizes do not matter.
        depth: number of linear layers, at least 1; the kernel is composed `depth - 1` times.
        center: whether the network's neurons are centred, as balanced ones are.

    Returns:
        Correlations (examples, examples), float64, ones on the diagonal.

    Raises:
        ValueError: depth below 1.

    Source:
        Y. Cho, L. K. Saul, "Kernel methods for deep learning", 2009.

    Examples:
        Orthogonal inputs have outputs of correlation 1 / pi after one hidden layer.

        >>> import math, torch
        >>> from nero.measures import arccosine_kernel
        >>> round(arccosine_kernel(torch.eye(2), depth=2)[0, 1].item() * math.pi, 12)
        1.0
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    x = inputs.detach().flatten(1).double()
    if center:
        x = x - x.mean(1, keepdim=True)
    x = x / x.norm(dim=1, keepdim=True)
    t = (x @ x.T).clamp(-1, 1)
    for _ in range(depth - 1):
        t = ((1 - t * t).sqrt() + t * (math.pi - torch.arccos(t))) / math.pi
        if center:
            t = (t - 1 / math.pi) / (1 - 1 / math.pi)
        t = t.clamp(-1, 1)
    t.fill_diagonal_(1.0)
    return t


def information_bound(kernel: Tensor, labels: Tensor, *, closed_form: bool = False) -> float:
    """Upper bound on `ln 1/P`, P the probability that Gaussian outputs have the labels' signs.

    P is the mean of a density ratio over the product of half-normal distributions of scale s on
    the orthant of the labels y, so by Jensen's inequality, with K the kernel and m examples,

        ln 1/P <= m (ln 2 - 1/2) - m ln s + ln det K / 2 + s^2 A
        A = (1/2 - 1/pi) tr K^-1 + y^T K^-1 y / pi

    By default s is the best one, `s^2 = m / (2 A)`, which gives
    `m ln 2 + ln det K / 2 + (m / 2) ln(2 A / m)`. The closed form of the source is looser: it has
    `s^2 = det(K)^(1/m)`, and `m / 5` in place of `m (ln 2 - 1/2)`.

    Args:
        kernel: covariance of the outputs, (m, m), such as `arccosine_kernel` gives.
        labels: +1 and -1, (m,).
        closed_form: whether to return the published closed form.

    Returns:
        The bound in nats; `pac_bayes_bound(0.0, bound, m)` makes it one on the test error of a
        random network given that it fits the labels.

    Raises:
        ValueError: the kernel is not positive definite (two inputs coincide), or labels are
            other than +1 and -1.

    Source:
        J. Bernstein, Y. Yue, "Computing the information content of trained neural networks",
        2021: the complexity C1, theorem 2.

    Examples:
        Uncorrelated outputs: the labels are one draw out of 2^m, and the bound is exact.

        >>> import math, torch
        >>> from nero.measures import information_bound
        >>> bound = information_bound(torch.eye(3), torch.tensor([1.0, -1.0, 1.0]))
        >>> round(bound / math.log(2), 12)
        3.0
    """
    k, y = kernel.detach().double(), _checked(labels).double()
    factor, failed = torch.linalg.cholesky_ex(k)
    if failed:
        raise ValueError("the kernel is not positive definite: do two inputs coincide?")
    m = len(y)
    inverse = torch.cholesky_inverse(factor)
    a = (0.5 - 1 / math.pi) * inverse.trace().item() + (y @ inverse @ y).item() / math.pi
    half_log_det = factor.diagonal().log().sum().item()
    if closed_form:
        return m / 5 + math.exp(2 * half_log_det / m) * a
    return m * math.log(2) + half_log_det + m / 2 * math.log(2 * a / m)


def information_estimate(
    kernel: Tensor, labels: Tensor, *, draws: int = 1000, generator: torch.Generator | None = None
) -> float:
    """Estimate of `ln 1/P`, P the probability that Gaussian outputs have the labels' signs.

    Draws the outputs one after another, each from its distribution given those before and the
    sign it must have, and weighs them by the probabilities of those signs (the GHK estimator).
    P itself is estimated without bias, so its negative logarithm is too large on average.

    Args:
        kernel: as for `information_bound`.
        labels: +1 and -1, (m,).
        draws: number of sequences.
        generator: of the draws, on the kernel's device; torch's own where None.

    Returns:
        The estimate in nats.

    Raises:
        ValueError: as `information_bound`.

    Source:
        A. Genz, "Numerical computation of multivariate normal probabilities", 1992.

    Examples:
        Two outputs of correlation 1/2 have equal signs with probability 2/3.

        >>> import math, torch
        >>> from nero.measures import information_estimate
        >>> kernel = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> estimate = information_estimate(kernel, torch.ones(2), draws=20_000)
        >>> abs(math.exp(-estimate) - 1 / 3) < 0.01
        True
    """
    k, y = kernel.detach().double(), _checked(labels).double()
    factor, failed = torch.linalg.cholesky_ex(y[:, None] * k * y)
    if failed:
        raise ValueError("the kernel is not positive definite: do two inputs coincide?")
    m = len(y)
    z = torch.zeros(m, draws, dtype=torch.float64, device=k.device)
    log_weight = torch.zeros(draws, dtype=torch.float64, device=k.device)
    for i in range(m):
        least = -(factor[i, :i] @ z[:i]) / factor[i, i]  # z_i above this has the right sign
        log_tail = torch.special.log_ndtr(-least)
        log_weight += log_tail
        uniform = torch.rand(draws, dtype=torch.float64, device=k.device, generator=generator)
        # ndtri of a probability near 0 is exact, near 1 it is not: the upper tail is mirrored.
        z[i] = -torch.special.ndtri((uniform.log() + log_tail).exp())
    return math.log(draws) - torch.logsumexp(log_weight, 0).item()


def _checked(labels: Tensor) -> Tensor:
    if labels.ndim != 1 or not bool((labels.abs() == 1).all()):
        raise ValueError("labels must be +1 and -1, one per example")
    return labels
