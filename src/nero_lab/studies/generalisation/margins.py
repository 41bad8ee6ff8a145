"""Published comparisons of balanced networks at controlled margins, run again on a stand-in.

Under Nero the sizes of the weights are fixed, so the size of the targets sets the margin. The
published figures are from MNIST, even against odd; here it is Fashion-MNIST. How the twins of equal
margin are made, by other images with wrong labels, is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nero_lab.experiments.run import Result, Run, plan_run
from nero_lab.experiments.task import Preset
from nero_lab.tasks.controlled_margin import CPU, ControlledMargin

SOURCES = {
    "scale": "Farhang et al. 2022",
    "twins": "Farhang et al. 2022",
    "vote": "Bernstein, Farhang & Yue 2021",
    "information": "Bernstein & Yue 2021",
}

LR = 0.01


@dataclass(frozen=True)
class Case:
    """One published number, and the run whose number stands beside it."""

    source: str
    what: str
    published: float | None
    preset: Preset
    part: str = "test"
    metric: str = "error"
    accuracy: bool = False
    """whether the published number is an accuracy"""

    def value(self, result: Result) -> float | None:
        """Return the number of a run that stands beside the published one."""
        value = result.metric(self.part, self.metric)
        return 1 - value if self.accuracy and value is not None else value

    def runs(self) -> list[Run]:
        """Return the run of each seed, on data not looked for yet; a vote has one seed."""
        (variant,) = self.preset.variants
        seeds = self.preset.seeds[:1] if self.preset.loss["members"] > 1 else self.preset.seeds
        return [plan_run(ControlledMargin(), self.preset, variant, LR, seed) for seed in seeds]


def cases(base: Preset = CPU, voters: int = 501, attack_size: int = 1000) -> list[Case]:
    """Return every comparison that needs training."""

    def preset(**options: Any) -> Preset:
        fields: dict[str, Any] = {"model": {}, "data": {}, "loss": {}}
        for name, value in options.items():
            where = {"depth": "model", "scale": "loss", "members": "loss"}.get(name, "data")
            fields[where][name] = value
        name = ", ".join(f"{key} {value:g}" for key, value in options.items())
        merged = {part: {**getattr(base, part), **fields[part]} for part in fields}
        return replace(base, name=name, **merged)

    published: Mapping[tuple[int, float], float] = {
        (7, 1.0): 0.076,
        (7, 0.1): 0.124,
        (2, 1.0): 0.087,
        (2, 0.1): 0.396,
    }
    found = [
        Case(
            "scale",
            f"test error, depth {depth}, scale {scale:g}",
            value,
            preset(depth=depth, scale=scale),
        )
        for (depth, scale), value in published.items()
    ]
    twin = {"depth": 2, "scale": 0.3}  # at which both fit to within a tenth of the margin
    for attack, value in ((attack_size, 0.352), (0, 0.807)):
        where = preset(**twin, attack_size=attack)
        name = "with other images fitted to wrong labels" if attack else "without"
        found += [
            Case("twins", f"test accuracy of the twin {name}", value, where, accuracy=True),
            Case("twins", f"normalised margin of the twin {name}", None, where, "train", "margin"),
        ]
    one = preset(depth=2, scale=1.0)
    many = preset(depth=2, scale=0.1, members=voters)
    found += [
        Case("vote", "test error of one network at scale 1", None, one),
        Case("vote", "test error of one network at scale 0.1", None, many),
        Case(
            "vote",
            f"test error of the vote of {voters} at scale 0.1",
            None,
            many,
            "test",
            "vote_error",
        ),
    ]
    return found
