"""The coefficients of `nero.directions`, derived: `python tests/minimax.py` prints them.

One iteration maps every singular value x to p(x) = a x + b x^3 + c x^5. Of all such p, Remez's
exchange finds the one that is nearest to 1 on an interval, in the largest error; the image of the
interval is the next iteration's. For odd polynomials applied one after another that is the best
that there is (Amsel et al., "The Polar Express", 2025, arXiv:2505.16932, theorem 3.1).

Two departures, both for rounding. Each interval is `SLACK` longer above, for values that rounding
has pushed out of it. And its lower end is at least `CUSHION` of its upper end: closer to 0, the
best p dips almost to 0 inside, where the rounding of bfloat16 would turn signs.
"""

import numpy as np

ITERATIONS = 5
SMALLEST = 1 / 500
SLACK = 0.01
CUSHION = 1 / 40

Odd = tuple[float, float, float]


def minimax(lower: float, upper: float) -> tuple[Odd, float]:
    """The odd polynomial of degree 5 nearest to 1 on [lower, upper], and its largest error."""
    x = np.array([lower, 0.75 * lower + 0.25 * upper, 0.3 * lower + 0.7 * upper, upper])
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    for _ in range(100):
        system = np.stack([x, x**3, x**5, signs], 1)
        a, b, c, error = np.linalg.solve(system, np.ones(4))
        root = np.sqrt(9 * b**2 - 20 * a * c)  # p' = a + 3 b x^2 + 5 c x^4
        extrema = np.sqrt([(-3 * b - root) / (10 * c), (-3 * b + root) / (10 * c)])
        moved = np.array([lower, *sorted(extrema), upper])
        if np.abs(moved - x).max() < 1e-12 * upper:
            break
        x = moved
    return (float(a), float(b), float(c)), abs(float(error))


def value(p: Odd, x: float) -> float:
    a, b, c = p
    return a * x + b * x**3 + c * x**5


def schedule() -> tuple[list[Odd], tuple[float, float]]:
    """The polynomials, and where they take the interval [SMALLEST, 1]."""
    polynomials = []
    lower, upper = SMALLEST, 1.0
    for _ in range(ITERATIONS):
        upper *= 1 + SLACK
        p, error = minimax(max(lower, CUSHION * upper), upper)
        polynomials.append(p)
        lower, upper = min(value(p, lower), 1 - error), 1 + error
    return polynomials, (lower, upper)


if __name__ == "__main__":
    found, (low, high) = schedule()
    for p in found:
        print("(" + ", ".join(f"{x:.9f}" for x in p) + "),")
    print(f"[{SMALLEST}, 1] -> [{low:.4f}, {high:.4f}]")
