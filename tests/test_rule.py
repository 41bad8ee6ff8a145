"""Every path against the oracle: float64 to 1e-12 over 100 steps; float32 paths to each other."""

import functools

import pytest
import torch
from torch import Tensor

import nero
from optimizer_table import (
    CONSTRAINTS,
    FLOAT32_TOLERANCE,
    FLOAT64_TOLERANCE,
    PATHS,
    SCHEDULES,
    TENSORS,
    PathRow,
    TensorRow,
    names,
)
from oracle import OracleTensor

STEPS = 100
COPIES = 2  # tensors of each shape, so that the foreach path has something to stack


@functools.cache
def initial_weights(row_name: str) -> Tensor:
    """Weights of all copies of a row's tensor, (copies, *shape)."""
    row = next(row for row in TENSORS if row.name == row_name)
    return torch.randn(COPIES, *row.shape, dtype=torch.float64, generator=seeded(1))


@functools.cache
def gradients(row_name: str) -> Tensor:
    """(steps, copies, *shape), of a size that differs between steps by orders of magnitude."""
    row = next(row for row in TENSORS if row.name == row_name)
    g = torch.randn(STEPS, COPIES, *row.shape, dtype=torch.float64, generator=seeded(2))
    size = torch.tensor([10.0 ** ((t * 7) % 5 - 2) for t in range(STEPS)], dtype=torch.float64)
    return g * size.view(-1, *[1] * (g.ndim - 1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(
    rows: list[TensorRow], path: PathRow, dtype: torch.dtype, schedule: str, **options: object
) -> dict[str, list[Tensor]]:
    """The weights of each row's tensors after STEPS steps of nero.Nero."""
    parameters = {
        row.name: [torch.nn.Parameter(w.to(dtype, copy=True)) for w in initial_weights(row.name)]
        for row in rows
    }
    optimizer = nero.Nero(
        [{"params": parameters[row.name], "neuron_axes": row.neuron_axes} for row in rows],
        lr=torch.tensor(0.0, dtype=torch.float64) if path.tensor_lr else 0.0,
        **{**path.options, **options},  # type: ignore[arg-type]
    )
    for t in range(1, STEPS + 1):
        for row in rows:
            for p, g in zip(parameters[row.name], gradients(row.name)[t - 1], strict=True):
                p.grad = g.to(dtype)
        for group in optimizer.param_groups:
            lr = SCHEDULES[schedule](t)
            group["lr"] = group["lr"].fill_(lr) if path.tensor_lr else lr
        optimizer.step()
    return {name: [p.detach() for p in tensors] for name, tensors in parameters.items()}


def oracle(
    row: TensorRow, schedule: str, *, maximize: bool = False, **options: object
) -> list[Tensor]:
    tensors = [
        OracleTensor(w, row.neurons, **options)  # type: ignore[arg-type]
        for w in initial_weights(row.name)
    ]
    for t in range(1, STEPS + 1):
        for tensor, g in zip(tensors, gradients(row.name)[t - 1], strict=True):
            tensor.step(-g if maximize else g, SCHEDULES[schedule](t))
    return [tensor.weights() for tensor in tensors]


# Momentum does not look at the constraints: some of them are enough for it.
CASES = [
    *((name, 0.0) for name in CONSTRAINTS),
    *((name, 0.9) for name in ("none", "both", "initial")),
]


@pytest.mark.parametrize(("constraints", "momentum"), CASES)
def test_every_path_agrees_with_the_oracle(constraints: str, momentum: float) -> None:
    options = {"beta": 0.999, "momentum": momentum, **CONSTRAINTS[constraints]}
    schedule = "warm-up and cosine"
    expected = {row.name: oracle(row, schedule, **options) for row in TENSORS}
    for path in PATHS:
        actual = train(TENSORS, path, torch.float64, schedule, **options)
        for row in TENSORS:
            for a, e in zip(actual[row.name], expected[row.name], strict=True):
                error = (a - e).abs().max() / e.abs().max()
                assert error < FLOAT64_TOLERANCE, (path.name, row.name)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
def test_schedules_and_betas_agree_with_the_oracle(
    path: PathRow, schedule: str, beta: float
) -> None:
    rows = [row for row in TENSORS if row.name in ("linear", "grouped transposed conv", "bias")]
    options = {"beta": beta, "momentum": 0.0, "center": True, "radius": "unit"}
    actual = train(rows, path, torch.float64, schedule, maximize=True, **options)
    for row in rows:
        expected = oracle(row, schedule, maximize=True, **options)
        for a, e in zip(actual[row.name], expected, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=FLOAT64_TOLERANCE)


@functools.cache
def low_precision_reference(momentum: float, dtype: torch.dtype) -> dict[str, list[Tensor]]:
    return train(TENSORS, PATHS[1], dtype, "constant", momentum=momentum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("path", PATHS[2:], ids=names(PATHS[2:]))
def test_paths_agree_in_low_precision(path: PathRow, momentum: float, dtype: torch.dtype) -> None:
    reference = low_precision_reference(momentum, dtype)
    other = train(TENSORS, path, dtype, "constant", momentum=momentum)
    # A float32 difference in the last place may round a bfloat16 weight the other way, and such a
    # weight then starts every following step from there.
    # PyTorch's sums are added up in another order on each processor.
    tolerance = 2 * FLOAT32_TOLERANCE if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for row in TENSORS:
        for a, b in zip(other[row.name], reference[row.name], strict=True):
            assert ((a.double() - b.double()).abs().max() / b.abs().max()) < tolerance, row.name


def test_float32_follows_the_oracle() -> None:
    options = {"beta": 0.999, "momentum": 0.0, "center": True, "radius": "unit"}
    actual = train(TENSORS, PATHS[0], torch.float32, "constant", **options)
    for row in TENSORS:
        for a, e in zip(actual[row.name], oracle(row, "constant", **options), strict=True):
            # 100 steps of rounding to float32, unit weights.
            torch.testing.assert_close(a.double(), e, rtol=0, atol=1e-5)
