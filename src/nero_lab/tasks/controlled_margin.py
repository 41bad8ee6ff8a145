"""Even against odd classes at a margin set by the targets; one network, or a vote of several."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch

import nero
from nero import measures
from nero_lab.data.parts import Split
from nero_lab.experiments.run import Result, Run
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Metric, Preset, Variant
from nero_lab.tasks.even_odd import NERO_OPTIONS, EvenOdd, load_parts
from nero_lab.training.context import Context
from nero_lab.training.until_fitted import error_rate, fit_run

CPU = Preset(
    name="scale 1, depth 2",
    epochs=100,
    batch_size=50,
    schedule=Schedule("linear"),
    variants=(Variant("nero", "Nero", "nero", optimizer_options=NERO_OPTIONS),),
    model={"depth": 2, "width": 512},
    data={"train_size": 500, "attack_size": 0},
    loss={"scale": 1.0, "members": 1},
)
TINY = replace(
    CPU,
    name="tiny",
    seeds=(0,),
    epochs=20,
    model={"depth": 2, "width": 16},
    data={"train_size": 60, "attack_size": 0},
    loss={"scale": 1.0, "members": 3},
    notes=("Far too small to compare anything; for tests.",),
)


class ControlledMargin(EvenOdd):
    """Even against odd at a margin set by the targets; one network, or a vote of several.

    Options of the model: depth, width. Of the data: train_size; attack_size, how many other images
    are fitted to the wrong label besides. Of the loss: scale; members, the networks that vote.
    """

    name = "controlled-margin"
    title = "even against odd classes of Fashion-MNIST, at a margin set by the targets"
    metric = Metric("error", "fraction", "lower", chance=0.5)
    presets: ClassVar = {preset.name: preset for preset in (replace(CPU, name="cpu"), TINY)}

    def run(self, run: Run, context: Context) -> Result:
        """Train every member, and return the errors of the members and of their vote.

        Raises:
            Stopped: the context's `stop` was set; nothing of it is kept.
            ValueError: the data are others than those that the run asks for.
        """
        train_size, attack_size = run.data["train_size"], run.data["attack_size"]
        whole = replace(run, data={"train_size": train_size + attack_size})
        fitted_part, test = load_parts(self.find_data(context.data_folder), whole)
        train, everything = attacked(fitted_part, train_size, run.seed)
        members, seconds, steps = run.loss["members"], 0.0, 0
        votes, errors, margins, train_errors = torch.zeros(len(test.y)), [], [], []
        for member in range(members):
            start = time.perf_counter()
            model, fitted = fit_run(
                self.build_model,
                run,
                context,
                everything,
                seed=run.seed * members + member,
                to_the_end=True,
                done=member / members,
                share=1 / members,
            )
            seconds, steps = seconds + time.perf_counter() - start, steps + fitted.steps
            layouts = measures.balanced_layouts(nero.param_groups(model))
            errors.append(error_rate(model, test))
            train_errors.append(error_rate(model, train))
            margins.append(measures.normalized_margin(model, layouts, (train.x, train.y)))
            with torch.no_grad():
                votes += model(test.x).flatten().sign()
        metrics: dict[str, dict[str, float | None]] = {
            "train": {"error": _mean(train_errors), "margin": _mean(margins)},
            "test": {
                "error": _mean(errors),
                "vote_error": (votes * test.y <= 0).double().mean().item(),
            },
        }
        return Result("finished", steps, round(seconds, 3), metrics, {})


def attacked(part: Split, train_size: int, seed: int) -> tuple[Split, Split]:
    """Return `train_size` examples of a part, and the whole part with the others' labels wrong."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(part.y), generator=generator)
    kept = order[:train_size]
    labels = -part.y
    labels[kept] = part.y[kept]
    return Split(part.x[kept], part.y[kept]), Split(part.x, labels)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
