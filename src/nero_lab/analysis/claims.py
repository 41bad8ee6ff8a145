"""The paper's claims, and by what measure each is answered from records.

Every criterion stands here in one sentence, which the pages print beside the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nero_lab.analysis import verdicts
from nero_lab.analysis.verdicts import ENOUGH, SCALE, SPREAD, STUCK, TUNING, Answer, Evidence


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims."""

    key: str
    says: str
    criterion: str
    """when it holds, when in part and when not, in words"""
    verdict: Callable[[Evidence], Answer]


def answers(evidence: Evidence) -> list[tuple[Claim, Answer]]:
    """Return every claim with what the records say about it."""
    return [(claim, claim.verdict(evidence)) for claim in CLAIMS]


CLAIMS = (
    Claim(
        "C1",
        "Nero trains reliably without momentum or weight decay.",
        "An experiment (on each network) agrees if at Nero's best rate every seed finishes, learns "
        f"something, and the worst seed is within {SPREAD:.0%} of the mean. Holds: all that are "
        f"measured agree, and these are {ENOUGH} at least; in part: half of them do. Figures 1 and "
        "2 train a network of figure 6 again and do not count here.",
        verdicts.reliable,
    ),
    Claim(
        "C2",
        "It works where Adam and SGD fail.",
        "On deep-mlp: from default initial weights, no run of Adam and SGD reaches "
        f"{STUCK:g} times chance at any rate of the grid, and every seed of Nero does. Holds: "
        "Nero is moreover better, seed by seed, than Adam and SGD from Kaiming and from balanced "
        "initial weights; in part: it is not, or these are not in.",
        verdicts.where_others_fail,
    ),
    Claim(
        "C3",
        "The learning rate needs little or no tuning: 0.01 works as it is.",
        "An experiment (on each network) agrees if Nero's mean at 0.01 is no worse than at the "
        f"best rate of its grid by more than {TUNING:.0%}, and no seed diverges. Where it learns "
        "nothing at any rate does not count. Holds: all that are measured agree, and these are "
        f"{ENOUGH} at least; in part: half of them do.",
        verdicts.untuned,
    ),
    Claim(
        "C4",
        "Its memory is about the square root of Adam's or LAMB's.",
        "Counted on real optimisers after a step. Holds: on square layers without biases Nero "
        "keeps at most the square root of as many floats as Adam, at every width; in part: at "
        "half of them.",
        verdicts.small_state,
    ),
    Claim(
        "C5",
        "Both constraints together beat none, the mean alone and the norm alone.",
        "On ablation, each at its best rate: better means that the worst seed beats the other's "
        "best. Holds: better than all three; in part: than some.",
        verdicts.both_constraints,
    ),
    Claim(
        "C6",
        "Updates per neuron beat those per synapse (Madam) and per layer (LAMB), with and without "
        "the constraints.",
        "On granularity, each at its best rate: better means that the worst seed beats the other's "
        "best. Holds: Nero is better than both, with and without; in part: in some of the four.",
        verdicts.per_neuron,
    ),
    Claim(
        "C7",
        "Projection beats reparameterisation: centred weight normalisation under Adam depends on "
        "the initial scale of the weights.",
        f"On cwn: training accuracy from the larger initial scale is lower by more than {SCALE:g} "
        "on every seed. Holds: after the first epoch and after the last; in part: after one of "
        "them.",
        verdicts.projection,
    ),
)
