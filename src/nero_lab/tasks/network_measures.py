"""The measures of one network, and what each was expected to say before anything was run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

import nero
from nero import NeuronLayout, measures
from nero.measures import PacBayes
from nero_lab.data.parts import Split

Layouts = Mapping[str, NeuronLayout]
Data = tuple[Tensor, Tensor]

FLATNESS_ANGLES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, math.pi / 2)
"""of the curve of accuracy against angle, in radians"""
SHARPNESS_ANGLE = 0.05
CAP_DEGREES = (60, 70, 75, 80, 83, 85, 87, 89)
"""half-angles of the caps of hidden neurons; the output neuron's is OUTPUT_DEGREES"""
OUTPUT_DEGREES = 30
CONCENTRATIONS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
PILOT_DRAWS = 3
DRAWS = 100
DELTA = 0.05


@dataclass(frozen=True)
class Measure:
    """A measure, and the sign that its correlation with the generalisation gap should have."""

    name: str
    title: str
    sign: Literal[1, -1]
    why: str


MEASURES = (
    Measure("parameters", "number of weights", 1, "the classical view: more to fit with"),
    Measure("distance", "sum of 1 - cos from the initial weights", 1, "more was learnt by heart"),
    Measure("flatness", "angular flatness", -1, "a flat minimum needs fewer bits"),
    Measure("sharpness", "spherical sharpness", 1, "the opposite of flatness, in the worst case"),
    Measure("margin", "normalised margin", -1, "a large margin leaves fewer functions"),
    Measure("spectral", "Bartlett's spectral complexity over the margin", 1, "its bound grows"),
    Measure("cap-cost", "KL of caps at the angular flatness", 1, "flatness counted in nats"),
    Measure("cap-bound", "PAC-Bayes bound of caps", 1, "it bounds the test error"),
    Measure("fisher-bound", "PAC-Bayes bound around the initial weights", 1, "likewise"),
    Measure("information", "information content of the labels", 1, "it bounds the test error"),
)
"""Written down before the runs."""


@dataclass(frozen=True)
class NetworkMeasures:
    """What was measured of one network."""

    values: Mapping[str, float]
    """by the names of MEASURES"""
    details: Mapping[str, float]
    """what the bounds were made of"""
    flatness_curve: Sequence[float]
    """training accuracy at each of FLATNESS_ANGLES"""


def relative_loss(scale: float):
    """Return the squared error over that of a network whose output is 0; `scale`: the targets'."""

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs.flatten() / scale - labels).square().mean()

    return loss


def measure_network(
    model: nn.Module, initial: Mapping[str, Tensor], train: Split, scale: float, seed: int = 0
) -> NetworkMeasures:
    """Return all measures of a balanced chain of linear layers without biases.

    Args:
        model: trained; one output.
        initial: its weights before training.
        train: inputs of equal norms and labels +1 and -1.
        scale: of the targets that it was trained to.
        seed: of all draws.
    """
    layouts = measures.balanced_layouts(nero.param_groups(model))
    data = (train.x, train.y.to(train.x.dtype))
    generator = torch.Generator().manual_seed(seed)
    flatness = measures.angular_flatness(model, layouts, data, seed=seed)
    margin = measures.normalized_margin(model, layouts, data)
    depth = len(layouts)
    complexity = measures.spectral_complexity(
        model, layouts, reference=initial, lipschitz=2 ** ((depth - 1) / 2)
    )
    kernel = measures.arccosine_kernel(train.x, depth, center=True)
    caps = best_cap_bound(model, layouts, data, generator)
    fisher = best_fisher_bound(model, initial, layouts, data, generator)
    examples = len(train.y)
    information = measures.information_bound(kernel, data[1])
    values = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "distance": measures.distance_from_initial(model, initial, layouts),
        "flatness": flatness,
        "sharpness": measures.spherical_sharpness(
            model, layouts, data, relative_loss(scale), SHARPNESS_ANGLE, generator=generator
        ),
        "margin": margin,
        # The inputs all have norm sqrt(pixels), and the margin is over their root mean square.
        "spectral": complexity * math.sqrt(train.x.shape[1] / examples) / margin,
        "cap-cost": measures.cap_kl(layouts, flatness) / examples,
        "cap-bound": caps.test_error_upper,
        "fisher-bound": fisher.test_error_upper,
        "information": information / examples,
    }
    assert list(values) == [each.name for each in MEASURES]
    return NetworkMeasures(
        values=values,
        details={
            **_details("cap", caps),
            **_details("fisher", fisher),
            "information_bound": measures.pac_bayes_bound(0.0, information, examples, DELTA),
        },
        flatness_curve=[
            measures.accuracy_when_turned(model, layouts, data, angle, draws=5, seed=seed)
            for angle in FLATNESS_ANGLES
        ],
    )


def best_cap_bound(
    model: nn.Module, layouts: Layouts, data: Data, generator: torch.Generator
) -> PacBayes:
    """Return the bound at the half-angle that a few draws favour.

    Only the posterior is picked by these draws, and the PAC-Bayes theorem holds for all at once;
    its training error comes from fresh draws. So nothing is to be paid for the choice.
    """
    *_, last = layouts
    grid = [
        {name: math.radians(OUTPUT_DEGREES if name == last else degrees) for name in layouts}
        for degrees in CAP_DEGREES
    ]
    pilot = measures.cap_bounds(model, layouts, data, grid, draws=PILOT_DRAWS, generator=generator)
    chosen = grid[_favoured(pilot, len(data[1]))]
    (bound,) = measures.cap_bounds(
        model, layouts, data, [chosen], draws=DRAWS, delta=DELTA, generator=generator
    )
    return replace(bound, spread=max(chosen.values()))


def best_fisher_bound(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    layouts: Layouts,
    data: Data,
    generator: torch.Generator,
) -> PacBayes:
    """Return the bound at the concentration that a few draws favour.

    Each concentration is a prior of its own, so delta is divided by their number.
    """
    pilot = measures.fisher_bounds(
        model, initial, layouts, data, CONCENTRATIONS, draws=PILOT_DRAWS, generator=generator
    )
    chosen = CONCENTRATIONS[_favoured(pilot, len(data[1]))]
    (bound,) = measures.fisher_bounds(
        model,
        initial,
        layouts,
        data,
        [chosen],
        draws=DRAWS,
        delta=DELTA / len(CONCENTRATIONS),
        generator=generator,
    )
    return bound


def _favoured(pilot: Sequence[PacBayes], examples: int) -> int:
    """Return which has the least bound if its few draws are taken at their word."""
    bounds = [
        measures.pac_bayes_bound(each.train_error, each.kl, examples, DELTA) for each in pilot
    ]
    return bounds.index(min(bounds))


def _details(name: str, bound: PacBayes) -> dict[str, float]:
    assert isinstance(bound.spread, float)
    return {
        f"{name}_spread": bound.spread,
        f"{name}_kl": bound.kl,
        f"{name}_train_error": bound.train_error,
    }
