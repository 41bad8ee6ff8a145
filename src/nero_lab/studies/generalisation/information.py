"""Information content of true and random labels, beside the published figures."""

from dataclasses import dataclass

import torch

from nero import measures
from nero_lab.data.even_odd import load_even_odd
from nero_lab.data.found import FoundData

PUBLISHED = {False: (0.386, 0.433), True: (0.546, 0.577)}
"""Whether labels are random -> bounds on the test error from the estimator and the closed form, at
500 examples and depth 7 (Bernstein & Yue 2021)."""


@dataclass(frozen=True)
class Information:
    """Bounds on the test error from the information content, for one draw of images."""

    estimate: float
    closed_form: float
    best_scale: float
    """the bound with the best scale of the half-normals, tighter than the published form"""


def information(
    found: FoundData, *, random: bool, seed: int, examples: int = 500, depth: int = 7
) -> Information:
    """Return what the labels say of all wide networks that fit, under the plain kernel.

    Args:
        found: where the images are.
        random: whether all labels are coins.
        seed: which images, and which coins.
        examples: number of images.
        depth: of the networks.
    """
    assert found.folder is not None
    noise = float(random)
    train, _ = load_even_odd(
        found.folder, found.digest, train_size=examples, label_noise=noise, seed=seed
    )
    kernel = measures.arccosine_kernel(train.x, depth)
    generator = torch.Generator().manual_seed(seed)
    nats = (
        measures.information_estimate(kernel, train.y, generator=generator),
        measures.information_bound(kernel, train.y, closed_form=True),
        measures.information_bound(kernel, train.y),
    )
    return Information(*(measures.pac_bayes_bound(0.0, each, examples) for each in nats))
