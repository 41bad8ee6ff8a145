"""The memory of training with the step in the backward pass, and without.

    python -m nero_lab.bench.backward_memory --page docs/how-to/step-in-backward.md

Each optimiser trains a GPT of 100 million parameters in a process of its own, once with its
ordinary step and once stepping each parameter in the backward pass: Nero by nero.step_in_backward,
the others by PyTorch's recipe, an optimiser of its own for each parameter, called from a hook.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import nero
from nero_lab.bench import memory
from nero_lab.bench.grids import bytes_text
from nero_lab.records.environment import commit

# Depth, width, context, vocabulary: 100 million parameters in tensors of at most 9 MiB. One short
# row of text, so that activations do not hide what is asked about.
FULL = (14, 768, 64, 1024)
QUICK = (2, 64, 16, 64)
STEPS = 3
CHILD_SECONDS = 600
BEGIN, END = "<!-- backward_memory: begin -->", "<!-- backward_memory: end -->"

Finish = Callable[[], Any]
"""what a loop calls after backward()"""


class Ways(NamedTuple):
    """An optimiser: how it steps all parameters at once, and each in the backward pass."""

    label: str
    ordinary: Callable[[nn.Module], Finish]
    in_backward: Callable[[nn.Module], Finish]


class Peak(NamedTuple):
    """The resident memory of a process, in bytes."""

    parameters: int
    """how many, of 4 bytes"""
    before: int
    """before the model was built"""
    peak: int
    """the most while it trained"""

    @property
    def training(self) -> int:
        """Return what training took above the process without it."""
        return self.peak - self.before


def _at_once(optimizer: torch.optim.Optimizer) -> Finish:
    def finish() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return finish


def _by_recipe(build: Callable[[Any], torch.optim.Optimizer]) -> Callable[[nn.Module], Finish]:
    """PyTorch's recipe for a step in the backward pass: an optimiser for each parameter."""

    def attach(model: nn.Module) -> Finish:
        finish = {p: _at_once(build([p])) for p in model.parameters()}
        for p in finish:
            p.register_post_accumulate_grad_hook(lambda p: finish[p]())
        return lambda: None

    return attach


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e-3, fused=True)


def _adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, fused=True)


def _nero(model: nn.Module) -> Finish:
    return _at_once(nero.Nero(nero.param_groups(model)))


def _nero_in_backward(model: nn.Module) -> Finish:
    optimizer = nero.Nero(nero.param_groups(model))
    nero.step_in_backward(model, optimizer)
    return _at_once(optimizer)


OPTIMIZERS: Mapping[str, Ways] = {
    "adamw": Ways("AdamW fused", lambda m: _at_once(_adamw(m.parameters())), _by_recipe(_adamw)),
    "sgd": Ways("SGD fused", lambda m: _at_once(_sgd(m.parameters())), _by_recipe(_sgd)),
    "nero": Ways("Nero", _nero, _nero_in_backward),
}


def train(optimizer: str, in_backward: bool, quick: bool) -> int:
    """Train a model a few steps; returns its number of parameters."""
    from nero_lab.models.gpt import SmallGPT

    torch.manual_seed(0)
    depth, width, context, vocabulary = QUICK if quick else FULL
    model = SmallGPT(vocabulary, context, depth, width, heads=width // 64)
    finish = (OPTIMIZERS[optimizer].in_backward if in_backward else OPTIMIZERS[optimizer].ordinary)(
        model
    )
    text = torch.randint(vocabulary, (1, context + 1))
    for _ in range(STEPS):
        scores: Tensor = model(text[:, :-1])
        nn.functional.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten()).backward()
        finish()
    return sum(p.numel() for p in model.parameters())


def train_and_report(optimizer: str, in_backward: bool, quick: bool) -> None:
    """Train and print the memory; what the child process does."""
    train(optimizer, in_backward, quick=True)  # so that what this imports is there before
    gc.collect()
    before = memory.reset_peak()
    parameters = train(optimizer, in_backward, quick)
    print(json.dumps([parameters, before, memory.peak_resident()]))


def measure(optimizer: str, in_backward: bool, quick: bool) -> Peak:
    """Return the memory of a process of its own that trains."""
    arguments = json.dumps({"optimizer": optimizer, "in_backward": in_backward, "quick": quick})
    command = [sys.executable, "-m", "nero_lab.bench.backward_memory", "--child", arguments]
    child = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=CHILD_SECONDS
    )
    parameters, before, peak = json.loads(child.stdout.splitlines()[-1])
    if before is None or peak is None:
        raise OSError("this system does not report the peak of resident memory (VmHWM)")
    return Peak(parameters, before, peak)


def markdown(peaks: Mapping[tuple[str, bool], Peak], quick: bool) -> Iterator[str]:
    """Yield the lines of the table, and what they hold for."""
    if quick:
        yield from ("It was a quick run, of a tiny model: **its figures mean nothing**.", "")
    yield "| optimiser | step | peak of training | above the weights | bytes a parameter |"
    yield "| --- | --- | --- | --- | --- |"
    for (optimizer, in_backward), found in peaks.items():
        cells = (
            OPTIMIZERS[optimizer].label,
            "in backward" if in_backward else "ordinary",
            bytes_text(found.training),
            bytes_text(found.training - 4 * found.parameters),
            f"{found.training / found.parameters:.2f}",
        )
        yield f"| {' | '.join(cells)} |"
    parameters = next(iter(peaks.values())).parameters
    yield ""
    yield (
        f"A GPT of {parameters:,} parameters in float32 ({bytes_text(4 * parameters)}), "
        f"{STEPS} steps on one row of text; commit {(commit() or 'unknown')[:10]}, PyTorch "
        f"{torch.__version__}."
    )


def write_into(page: Path, lines: list[str]) -> None:
    """Replace what stands between the marks on a page.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text("utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END} to write between")
    page.write_text("\n".join([f"{head}{BEGIN}", "", *lines, "", f"{END}{tail}"]), "utf-8")


def main(
    page: Annotated[
        Path | None,
        typer.Option(
            help=f"Page to write the table into, between {BEGIN} and {END}.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model; the figures mean nothing.")
    ] = False,
    child: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the memory of training with the step in the backward pass, and without.

    AdamW, SGD and Nero each train a GPT of 100 million parameters in processes of their own. Wants
    Linux and 3 GB of free memory, and takes about two minutes on two cores.
    """
    if child is not None:
        train_and_report(**json.loads(child))
        return
    console = Console()
    todo = [(optimizer, in_backward) for optimizer in OPTIMIZERS for in_backward in (False, True)]
    try:
        peaks = {
            one: measure(*one, quick)
            for one in track(todo, "Training", console=console, transient=True)
        }
        lines = list(markdown(peaks, quick))
        if page is not None:
            write_into(page, lines)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except subprocess.CalledProcessError as error:
        typer.echo(f"error: the training process failed:\n{error.stderr}", err=True)
        raise typer.Exit(1) from None
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
