"""Orthogonal directions against the singular value decomposition in float64."""

import pytest
import torch
from torch import Tensor

import minimax
from nero import NeuronLayout
from nero.directions import COEFFICIENTS, _norm, directions, from_layers, layers, polar

# How far a singular value may be from 1: the module's text says it.
ACCURACY = {torch.float64: 0.029, torch.float32: 0.029, torch.bfloat16: 0.036}
SHAPES = [(8, 8), (16, 48), (48, 16), (1, 12), (12, 1), (96, 128)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def matrix(rows: int, columns: int, singular: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A matrix of these singular values, and its polar factor."""
    rank = len(singular)
    p, _ = torch.linalg.qr(normal(rows, rank, seed=seed))
    q, _ = torch.linalg.qr(normal(columns, rank, seed=seed + 1))
    return (p * singular) @ q.T, p @ q.T


def oracle(d: Tensor, *, center: bool, rank: int | None = None) -> Tensor:
    """U_i / ||U_i|| of one layer, float64, by the decomposition alone."""
    d = d - d.mean(1, keepdim=True) if center else d
    p, s, qt = torch.linalg.svd(d, full_matrices=False)
    rank = int((s > 1e-9 * s[0]).sum()) if rank is None else rank
    u = p[:, :rank] @ qt[:rank]
    return u / u.norm(dim=1, keepdim=True)


def spectra(count: int) -> dict[str, Tensor]:
    """Singular values whose condition is 1 to 300; at 300 the smallest is in [s/500, s]."""
    steps = torch.linspace(0, 1, count, dtype=torch.float64)
    found = {"equal": torch.ones(count, dtype=torch.float64)}
    for condition in (10, 300):
        found[f"even decay to 1/{condition}"] = condition**-steps
        found[f"straight to 1/{condition}"] = 1 - steps * (1 - 1 / condition)
        one_large = torch.full((count,), 1 / condition, dtype=torch.float64)
        one_large[0] = 1
        found[f"one large, {condition}"] = one_large
    return found


def test_the_coefficients_are_the_derived_ones() -> None:
    polynomials, (lower, upper) = minimax.schedule()
    assert len(polynomials) == len(COEFFICIENTS)
    for given, derived in zip(COEFFICIENTS, polynomials, strict=True):
        assert given == pytest.approx(derived, abs=1e-8)
    assert max(1 - lower, upper - 1) < ACCURACY[torch.float64]


@pytest.mark.parametrize("lower", [0.02, 0.3])
def test_the_derivation_is_minimax(lower: float) -> None:
    """No polynomial of a dense sample around the found one is nearer to 1."""
    best, error = minimax.minimax(lower, 1.01)
    x = torch.linspace(lower, 1.01, 500, dtype=torch.float64)
    powers = torch.stack([x, x**3, x**5])
    assert (1 - torch.tensor(best).double() @ powers).abs().max() == pytest.approx(error, rel=1e-4)
    moved = torch.tensor(best).double() + 1e-2 * normal(500, 3)
    assert (1 - moved @ powers).abs().amax(1).min() > error


@pytest.mark.parametrize("dtype", ACCURACY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_come_to_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    for seed, (name, singular) in enumerate(spectra(min(shape)).items()):
        d, _ = matrix(*shape, singular, seed)
        u = polar((d / d.norm()).to(dtype)[None])[0].double()
        off = (torch.linalg.svdvals(u) - 1).abs().max()
        assert off < ACCURACY[dtype], name


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 25)], ids=str)
def test_directions_are_those_of_the_decomposition(shape: tuple[int, int], center: bool) -> None:
    d = normal(3, *shape)
    u = directions(d, center=center)
    for mine, each in zip(u, d, strict=True):
        # Singular values within 0.029 of 1 before the rows are scaled, and so twice that after.
        assert (mine - oracle(each, center=center)).norm(dim=1).max() < 0.06
    assert torch.allclose(u.norm(dim=-1), torch.ones(3, shape[0]).double(), atol=1e-12)
    if center:
        assert u.mean(-1).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(16, 48), (64, 576), (320, 80)], ids=str)
def test_wide_matrices_have_the_factors_of_others(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 too, where G alone is iterated; also of half the rank."""
    for seed, (name, singular) in enumerate(spectra(min(shape)).items()):
        for kept in (singular, singular[: len(singular) // 2]):
            d = matrix(*shape, kept, seed)[0].float()[None]
            by_gram = polar(d / d.abs().max())
            with monkeypatch.context() as patch:
                patch.setattr("nero.directions.WIDE", float("inf"))
                expected = polar(d / d.abs().max())
            off = torch.linalg.matrix_norm((by_gram - expected)[0], ord=2)
            assert 0 < off < 0.01, name


@pytest.mark.parametrize("how", ["set_float32_matmul_precision", "fp32_precision of a backend"])
def test_products_that_are_rounded_keep_to_the_iteration_that_bears_it(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(2, 16, 48).float()
    backend = torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision(), backend.fp32_precision
    try:
        if how == "set_float32_matmul_precision":
            torch.set_float32_matmul_precision("medium")
        else:
            backend.fp32_precision = "bf16"
        found = polar(x.clone())
        monkeypatch.setattr("nero.directions.WIDE", float("inf"))
        assert torch.equal(found, polar(x))
    finally:
        backend.fp32_precision = before[1]
        torch.set_float32_matmul_precision(before[0])


@pytest.mark.parametrize("shape", [(3, 700, 40), (2, 5, 40), (1, 7, 1)], ids=str)
def test_norms_in_any_order_of_axes(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nero.directions.SQUARED", 100)
    x = normal(*shape).float()
    for d in (x, x.mT.contiguous().mT):
        torch.testing.assert_close(_norm(d), x.norm(dim=-1, keepdim=True))


def test_more_iterations_are_the_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Newton and Schulz's own coefficients behind, the limit is exact."""
    exact = (*COEFFICIENTS, *[(1.875, -1.25, 0.375)] * 3)
    monkeypatch.setattr("nero.directions.COEFFICIENTS", exact)
    for shape in SHAPES[:3]:
        d = normal(*shape)
        u = directions(d[None], center=True)[0]
        torch.testing.assert_close(u, oracle(d, center=True), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_directions(dtype: torch.dtype) -> None:
    d = normal(2, 32, 96)
    u = directions(d.float(), center=True, dtype=dtype)
    assert u.dtype == torch.float32
    for mine, each in zip(u.double(), d, strict=True):
        assert (mine - oracle(each, center=True)).norm(dim=1).max() < 0.08


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e30, 1e37])
def test_the_gradients_size_does_not_matter(size: float) -> None:
    d = normal(1, 8, 20).float()
    expected = directions(d, center=True)
    torch.testing.assert_close(directions(d * size, center=True), expected, rtol=1e-4, atol=1e-4)


def test_rows_of_any_size_find_their_direction() -> None:
    """A neuron whose gradient is 1e-6 of the others' turns as far as they do."""
    d = normal(1, 8, 20)
    d[0, 3] *= 1e-6
    u = directions(d.float(), center=False)[0].double()
    assert torch.allclose(u.norm(dim=1), torch.ones(8).double(), atol=1e-5)
    others = [0, 1, 2, 4, 5, 6, 7]
    expected = oracle(d[0, others], center=False)
    assert (u[others] - expected).norm(dim=1).max() < 0.06


def test_gradients_of_low_rank() -> None:
    p, q = normal(32, 3, seed=1), normal(3, 40, seed=2)
    d = p @ q
    u = directions(d[None], center=False)[0]
    expected = oracle(d, center=False, rank=3)
    assert (u - expected).norm(dim=1).max() < 0.06
    assert int((torch.linalg.svdvals(u) > 1e-6).sum()) == 3  # nothing is made out of nothing


def test_rows_without_a_direction_are_zero() -> None:
    d = normal(2, 6, 10).float()
    d[0, 2] = 0
    d[1, 4] = 0.1  # constant: zero once centred, but for rounding
    u = directions(d, center=True)
    assert not u[0, 2].any()
    assert not u[1, 4].any()
    rest = [0, 1, 2, 3, 5]
    alone = directions(d[1:, rest], center=True)
    torch.testing.assert_close(u[1:, rest], alone, rtol=0, atol=1e-4)
    assert not directions(torch.zeros(1, 4, 5), center=True).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_counts_as_zero_to_the_others(bad: float) -> None:
    d = normal(2, 6, 10)
    clean = d.clone()
    clean[0, 1] = 0
    d[0, 1, 4] = bad
    u, expected = directions(d, center=True), directions(clean, center=True)
    assert u[0, 1].isnan().all()
    u[0, 1] = 0
    assert torch.equal(u, expected)


def test_the_gradient_is_not_modified() -> None:
    d = normal(2, 6, 10).float()
    before = d.clone()
    for center in (True, False):
        directions(d, center=center)
    assert torch.equal(d, before)


def test_a_stack_is_its_matrices_one_by_one() -> None:
    d = normal(4, 9, 14)
    together = directions(d, center=True)
    one_by_one = torch.cat([directions(each[None], center=True) for each in d])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "axes", "blocks", "matrices"),
    [
        pytest.param((6, 8), (0,), 1, [slice(None)], id="linear"),
        pytest.param((6, 8), (0,), 3, [slice(0, 2), slice(2, 4), slice(4, 6)], id="packed q, k, v"),
        pytest.param((4, 3, 2, 3), (0,), 1, [slice(None)], id="convolution"),
        pytest.param((4, 1, 3, 3), (0,), 2, [slice(0, 2), slice(2, 4)], id="grouped convolution"),
        pytest.param((3, 4, 5), (0, 1), 1, [0, 1, 2], id="experts"),
    ],
)
def test_layouts_along_the_first_axes(
    shape: tuple[int, ...], axes: tuple[int, ...], blocks: int, matrices: list[slice | int]
) -> None:
    layout = NeuronLayout(shape, axes)
    g = normal(*shape)
    found = from_layers(directions(layers(g, layout, blocks), center=True), layout, g.stride())
    for index in matrices:
        d = g[index]
        u = directions(d.reshape(1, d.shape[0], -1), center=True)
        torch.testing.assert_close(found[index], u.view(d.shape), rtol=0, atol=1e-12)


def test_layouts_along_other_axes() -> None:
    stored = normal(8, 6)  # (in, out), as Hugging Face's Conv1D with q, k and v packed
    found = layers(stored, NeuronLayout((8, 6), (1,)), blocks=3)
    assert torch.equal(found, stored.T.reshape(3, 2, 8))
    grouped = normal(4, 3, 2, 2)  # a transposed convolution of two groups
    layout = NeuronLayout((4, 3, 2, 2), ((0, 2), 1))
    split = grouped.view(layout.split_shape)
    found = layers(split, layout)
    for group in range(2):
        block = grouped[2 * group : 2 * group + 2]  # (in, out, height, width)
        assert torch.equal(found[group], block.transpose(0, 1).reshape(3, -1))
    assert torch.equal(from_layers(found, layout, split.stride()), split)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), ((0, 2),), ()], ids=str)
def test_layers_and_back(axes: tuple[object, ...]) -> None:
    layout = NeuronLayout((4, 3, 5), axes)  # type: ignore[arg-type]
    x = normal(4, 3, 5).view(layout.split_shape)
    stack = layers(x, layout)
    assert stack.shape[2] == layout.fan_in
    assert stack.shape[0] * stack.shape[1] == layout.neurons
    assert torch.equal(from_layers(stack, layout, x.stride()), x)


def test_filters_that_lie_with_channels_last_are_not_copied() -> None:
    x = normal(6, 4, 3, 3).to(memory_format=torch.channels_last)
    layout = NeuronLayout(x.shape)
    stack = layers(x, layout)
    assert stack.data_ptr() == x.data_ptr()
    back = from_layers(stack, layout, x.stride())
    assert back.data_ptr() == x.data_ptr()
    assert back.stride() == x.stride()
    u, plain = (
        from_layers(directions(layers(y, layout), center=True), layout, y.stride())
        for y in (x, x.contiguous())
    )
    torch.testing.assert_close(u, plain, rtol=0, atol=1e-12)
