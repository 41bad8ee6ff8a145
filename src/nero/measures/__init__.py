"""What balanced networks let one measure: angles, flatness, margins, caps, information.

On a balanced network each neuron is a point on a sphere: the scales of layers, which make most
measures of generalisation ambiguous, are gone. Distances are angles, volumes are cap areas.
"""

from nero.measures.caps import cap_kl, log_cap_fraction, sample_caps
from nero.measures.complexity import normalized_margin, spectral_complexity
from nero.measures.fisher import fisher_kl, mean_cosine, sample_fisher
from nero.measures.information import arccosine_kernel, information_bound, information_estimate
from nero.measures.pac_bayes import (
    PacBayes,
    binary_kl,
    binary_kl_upper,
    cap_bounds,
    fisher_bounds,
    pac_bayes_bound,
)
from nero.measures.sphere import balanced_layouts
from nero.measures.turning import (
    accuracy_when_turned,
    angles_from_initial,
    angular_flatness,
    distance_from_initial,
    spherical_sharpness,
)

__all__ = [
    "PacBayes",
    "accuracy_when_turned",
    "angles_from_initial",
    "angular_flatness",
    "arccosine_kernel",
    "balanced_layouts",
    "binary_kl",
    "binary_kl_upper",
    "cap_bounds",
    "cap_kl",
    "distance_from_initial",
    "fisher_bounds",
    "fisher_kl",
    "information_bound",
    "information_estimate",
    "log_cap_fraction",
    "mean_cosine",
    "normalized_margin",
    "pac_bayes_bound",
    "sample_caps",
    "sample_fisher",
    "spectral_complexity",
    "spherical_sharpness",
]
