"""Who is measured: how each is built, each at its best for the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

import nero
from nero_lab.bench.workloads import Workload

NERO, RULE, ADAMW, FLOOR = "nero", "nero-single", "adamw", "add_"
# What only whole training steps have.
RECOMMENDED = "nero-for-model"
# These two step the matrices of hidden layers alone.
ORTHOGONAL, MUON = "nero-orthogonal", "muon-alone"


class Stepper(Protocol):
    """An optimiser, as far as this package needs one."""

    state: Any

    def step(self) -> Any:
        """Update the weights from their gradients."""
        ...


class AddFloor:
    """The least that a step can cost: gradients read once, weights read and written once."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.state: dict[Tensor, dict[str, Any]] = {}
        self._parameters = list(parameters)

    @torch.no_grad()
    def step(self) -> None:
        """Add a multiple of each gradient, tensor after tensor."""
        for p in self._parameters:
            assert p.grad is not None
            p.add_(p.grad, alpha=-1e-4)


class ForeachFloor(AddFloor):
    """The same on a GPU, where a loop over tensors would measure launches."""

    @torch.no_grad()
    def step(self) -> None:
        """Add a multiple of all gradients at once."""
        weights: list[Tensor] = list(self._parameters)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        torch._foreach_add_(weights, gradients, alpha=-1e-4)


class CompiledNero:
    """Nero whose step torch compiles, at the first one."""

    def __init__(self, parameters: list[Parameter]) -> None:
        torch.compiler.reset()  # what was compiled for another workload is of no more use
        lr = torch.tensor(0.01, device=parameters[0].device)
        optimizer = nero.Nero(parameters, lr=lr, foreach=True, capturable=True)
        self.state = optimizer.state
        self._step: Callable[[], Any] = torch.compile(optimizer.step, fullgraph=True)

    def step(self) -> None:
        """Take the compiled step."""
        self._step()


class Skipped(Exception):
    """A contestant that has no place in a measurement; the message says why."""


@dataclass(frozen=True)
class Contestant:
    """One row of the tables."""

    key: str
    label: str
    build: Callable[[list[Parameter], Workload], list[Any]]
    """returns the optimisers that step the parameters between them, or raises Skipped"""
    full_rounds: bool = False
    """whether it takes part in every round, however slow it is: a target rests on it"""
    in_out: bool = False
    """whether its hidden matrices lie as Hugging Face stores them: only where it does"""
    compiled: bool = False
    """whether it compiles something for every shape: left out of quick runs"""
    only: tuple[tuple[str, str], ...] = ()
    """the workloads, with dtypes, that it takes part in; empty for all"""

    def takes_part(self, work: Workload, dtype: str) -> bool:
        """Return whether it has a row for a workload in a dtype."""
        return (work.conv1d or not self.in_out) and (
            not self.only or (work.key, dtype) in self.only
        )


def _nero_conv1d(parameters: list[Parameter], work: Workload) -> list[Any]:
    matrices, others = _split(parameters, work.hidden)
    groups = [{"params": matrices, "neuron_axes": (1,)}, {"params": others}]
    return [nero.Nero(groups)]


def _nero_orthogonal(parameters: list[Parameter], work: Workload) -> list[Any]:
    matrices, _ = _split(parameters, work.hidden)
    return [nero.Nero(matrices, orthogonal=True, momentum=0.95)]


def _muon_alone(parameters: list[Parameter], work: Workload) -> list[Any]:
    matrices, _ = _split(parameters, work.hidden)
    return [torch.optim.Muon(map(_as_matrix, matrices))]


def _muon(parameters: list[Parameter], work: Workload) -> list[Any]:
    _, others = _split(parameters, work.hidden)
    rest = [torch.optim.AdamW(others, fused=True)] if others else []
    return [*_muon_alone(parameters, work), *rest]


def _as_matrix(p: Parameter) -> Parameter:
    """A filter bank as Muon takes it: the same memory, a filter a row."""
    assert p.grad is not None
    matrix = Parameter(p.detach().view(len(p), -1))
    matrix.grad = p.grad.view(len(p), -1)
    return matrix


def _split(parameters: list[Parameter], chosen: Sequence[int]) -> tuple[list[Any], list[Any]]:
    wanted = set(chosen)
    return (
        [p for index, p in enumerate(parameters) if index in wanted],
        [p for index, p in enumerate(parameters) if index not in wanted],
    )


def _pytorch_optimizer(name: str) -> Callable[[list[Parameter], Workload], list[Any]]:
    # Imported when it is built: the package takes long to import.
    return lambda p, _: [getattr(import_module("pytorch_optimizer"), name)(p)]


def _adamw_8bit(parameters: list[Parameter], _: Workload) -> list[Any]:
    if find_spec("torchao") is None:
        raise Skipped('torchao is not installed: pip install "nero-optim[lab,bench]"')
    return [import_module("torchao.optim").AdamW8bit(parameters)]


_CONTESTANTS = (
    Contestant(FLOOR, "add_ (the floor)", lambda p, _: [AddFloor(p)], full_rounds=True),
    Contestant(NERO, "Nero", lambda p, _: [nero.Nero(p)], full_rounds=True),
    Contestant("nero-in-out", "Nero, weights (in, out)", _nero_conv1d, in_out=True),
    Contestant("nero-foreach", "Nero, foreach=True", lambda p, _: [nero.Nero(p, foreach=True)]),
    Contestant(
        RULE,
        "Nero, foreach=False",
        lambda p, _: [nero.Nero(p, foreach=False)],
        full_rounds=True,
    ),
    Contestant(
        ADAMW, "AdamW fused", lambda p, _: [torch.optim.AdamW(p, fused=True)], full_rounds=True
    ),
    Contestant("adamw-foreach", "AdamW foreach", lambda p, _: [torch.optim.AdamW(p, foreach=True)]),
    Contestant("adamw-8bit", "AdamW 8-bit (torchao, compiled)", _adamw_8bit, compiled=True),
    Contestant("sgd", "SGD fused", lambda p, _: [torch.optim.SGD(p, lr=1e-4, fused=True)]),
    Contestant("muon", "Muon, and AdamW fused for the rest", _muon),
    Contestant(MUON, "Muon, hidden matrices alone", _muon_alone),
    Contestant(ORTHOGONAL, "Nero, orthogonal, hidden matrices alone", _nero_orthogonal),
    Contestant("adafactor", "Adafactor", lambda p, _: [torch.optim.Adafactor(p)]),
    Contestant("lamb", "LAMB (pytorch-optimizer)", _pytorch_optimizer("Lamb")),
    Contestant("nero-peer", "Nero (pytorch-optimizer)", _pytorch_optimizer("Nero")),
)

CONTESTANTS: Mapping[str, Contestant] = {each.key: each for each in _CONTESTANTS}

_ON_CUDA = (
    Contestant(FLOOR, "add_ (the floor)", lambda p, _: [ForeachFloor(p)], full_rounds=True),
    CONTESTANTS[NERO],
    CONTESTANTS["nero-foreach"],
    Contestant(
        "nero-compiled",
        "Nero, foreach=True, torch.compile of optimizer.step",
        lambda p, _: [CompiledNero(p)],
        compiled=True,
        only=(("gpt2", "float32"),),
    ),
    *(CONTESTANTS[key] for key in (ADAMW, "adamw-foreach", "sgd", "muon", MUON, ORTHOGONAL)),
)
CUDA_CONTESTANTS: Mapping[str, Contestant] = {
    each.key: replace(each, full_rounds=each.key in (FLOOR, NERO, ADAMW)) for each in _ON_CUDA
}
