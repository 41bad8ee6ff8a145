"""Stochastic rounding: its noise, its rounding, and the optimiser's weights under it."""

import copy
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rounding_oracle as oracle
from helpers import (
    bits,
    build,
    every_path,
    give_gradients,
    tangent,
    through_file,
    train,
)
from nero import Nero, NeuronLayout, geometry
from nero.groups import hyper_of
from nero.rounding import Place, noise_bits, noise_keys, parameter_seed, round_stochastically
from nero.state import tensor_step
from nero.step.reference import _single_tensor_nero
from optimizer_table import PATHS, TENSORS, PathRow, names

CPU = torch.device("cpu")
LOW = (torch.bfloat16, torch.float16)
every_low_dtype = pytest.mark.parametrize("dtype", LOW, ids=str)


def unsigned(x: Tensor) -> list[int]:
    return [int(value) % 2**32 for value in x.flatten()]


def noise(entries: int, seed: int = 0, step: int = 1) -> Tensor:
    return noise_bits((entries,), Place.of((entries,)), noise_keys(seed, step), CPU)


def wide(values: Any) -> Tensor:
    """32 bits as an int32."""
    return torch.as_tensor(values, dtype=torch.int64).to(torch.int32)


PLACES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "whole": ((3, 5, 2), (3, 5, 2), (0, 0, 0)),
    "scalar": ((), (), ()),
    "rows": ((2, 7), (6, 7), (3, 0)),
    "columns": ((4, 2), (4, 9), (0, 5)),
    "past 2**31": ((2, 3), (2**20, 2**12), (2**19 + 5, 7)),
    "over 2**32": ((4, 3), (2**20, 2**12 + 1), (2**20 - 2**8, 0)),
    "past 2**34": ((2, 3), (2**20, 2**16), (2**19 + 5, 7)),
}


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize(("shape", "whole", "offsets"), PLACES.values(), ids=PLACES)
def test_the_noise_is_that_of_the_definition(
    shape: tuple[int, ...], whole: tuple[int, ...], offsets: tuple[int, ...], as_tensors: bool
):
    entries = torch.arange(math.prod(shape)).view(shape)
    local = [torch.unravel_index(entry, shape) for entry in entries.flatten()]
    strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
    indices = [
        sum((int(at) + o) * s for at, o, s in zip(place, offsets, strides, strict=True))
        for place in local
    ]
    for seed, step in ((0, 1), (2**32 - 1, 2**24), (123456789, 77)):
        keys = noise_keys(
            torch.tensor(seed) if as_tensors else seed,
            torch.tensor(float(step)) if as_tensors else float(step),
        )
        actual = noise_bits(shape, Place.of(whole, offsets), keys, CPU)
        assert actual.shape == shape
        assert actual.dtype == torch.int32
        assert unsigned(actual) == [oracle.bits(seed, step, index) for index in indices]


def test_noise_is_uniform_and_knows_neither_its_neighbours_nor_other_steps_nor_tensors():
    entries = 2**18
    here = (noise(entries) >> 16).double() / 2**15  # uniform in [-1, 1)
    share = torch.histc(here, bins=256, min=-1, max=1) / entries * 256
    chi_square = entries / 256 * (share - 1).square().sum()
    assert abs(chi_square - 255) < 4 * (2 * 255) ** 0.5
    others = {
        "the next entry": here.roll(1),
        "the entry below": here.roll(512),
        "the next step": (noise(entries, step=2) >> 16).double() / 2**15,
        "the next tensor": (noise(entries, parameter_seed(0, 0, 1)) >> 16).double() / 2**15,
        "the next seed": (noise(entries, seed=1) >> 16).double() / 2**15,
    }
    for name, other in others.items():
        correlation = 3 * (here * other).mean() * entries**0.5  # standard normal if independent
        assert abs(correlation) < 4, name
    over_steps = torch.stack([noise(64, step=step) for step in range(1, 4097)]).double() / 2**31
    assert (over_steps.mean(0).abs() * (3 * 4096) ** 0.5 < 4.5).all()


def test_seeds_of_parameters_are_32_bits_and_differ():
    seeds = {parameter_seed(s, g, i) for s in range(10) for g in range(10) for i in range(100)}
    assert len(seeds) == 10 * 10 * 100
    assert all(0 <= seed < 2**32 for seed in seeds)


@every_low_dtype
def test_rounding_is_that_of_the_definition(dtype: torch.dtype):
    generator = random.Random(0)
    lowest, highest = (-149, 127) if dtype == torch.bfloat16 else (-60, 15)
    values, largest = [], torch.finfo(dtype).max
    for exponent in range(lowest, highest + 1):
        values += [math.ldexp(generator.uniform(1, 2), exponent) for _ in range(8)]
    values += [2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-25, 2.0**-133, 2.0**-149, 0.0, largest]
    x = torch.tensor(values + [-value for value in values])
    x = x[x.abs() <= largest]
    noises = [generator.getrandbits(32) for _ in x]
    noises[::7] = [2**32 - 1] * len(noises[::7])
    noises[1::7] = [0] * len(noises[1::7])
    actual = round_stochastically(x, dtype, wide(noises))
    name = str(dtype).removeprefix("torch.")
    pairs = zip(x.tolist(), noises, strict=True)
    expected = torch.tensor([oracle.rounded(value, name, n) for value, n in pairs]).to(dtype)
    assert bits(actual) == bits(expected)


@every_low_dtype
def test_the_mean_over_all_noise_is_the_number_itself(dtype: torch.dtype):
    steps = torch.arange(2**16, dtype=torch.int64) << 16
    numbers = [1 + 2.0**-10, -(1 + 3 * 2.0**-12), 0.7, -1e-3, 1e-6, 2.0**-25, 5 * 2.0**-27, -7e-6]
    for number in torch.tensor(numbers):
        # To 16 bits of the distance between its neighbours, which is as far as this noise goes.
        spacing = 2.0 ** (math.frexp(number)[1] - (8 if dtype == torch.bfloat16 else 11))
        if dtype == torch.float16:
            spacing = max(spacing, 2.0**-24)
        x = (number / spacing * 2**16).trunc() * spacing / 2**16
        mean = round_stochastically(x.expand(2**16), dtype, wide(steps)).double().mean()
        assert mean.item() == x.item()


@every_low_dtype
@pytest.mark.parametrize("noise", [0, 2**32 - 1], ids=["no noise", "all noise"])
def test_what_the_format_holds_stays(dtype: torch.dtype, noise: int):
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    kept = every.float().to(dtype)
    again = round_stochastically(every.float(), dtype, wide([noise]).expand(2**16))
    assert bits(again) == bits(kept)
    assert bits(kept[~kept.isnan()]) == bits(every[~every.isnan()])


@every_low_dtype
def test_only_what_the_nearest_would_make_infinite_becomes_infinite(dtype: torch.dtype):
    largest = torch.finfo(dtype).max
    below = torch.nextafter(torch.tensor(largest), torch.tensor(0.0)).item()
    # Half a step of the format above the largest number, just short of it, and at it.
    half = largest * (1 + torch.finfo(dtype).eps / 4)
    x = torch.tensor([below, largest, (largest + half) / 2, half * (1 + 1e-4), torch.inf])
    x = torch.cat([x, -x])
    for n in (0, 2**31, 2**32 - 1):
        actual = round_stochastically(x, dtype, wide([n]).expand(len(x)))
        assert bits(actual[1:5]) == bits(x[1:5].to(dtype))
        assert actual.isinf().tolist() == [False, False, False, True, True] * 2


@every_path
@every_low_dtype
def test_steps_too_short_for_the_nearest_add_up(path: PathRow, dtype: torch.dtype):
    start = geometry.project_(torch.randn(8, 512), NeuronLayout((8, 512))).to(dtype)
    direction = tangent(start.float())
    lr, steps = 1e-5, 200
    moved = {}
    for rounding in ("nearest", "stochastic"):
        params = [nn.Parameter(start.clone()) for _ in range(2)]
        optimizer = build(params, path, lr=lr, rounding=rounding)
        for p in params:
            p.grad = direction.to(dtype)
        for _ in range(steps):
            optimizer.step()
        ways = [((start.float() - p.detach().float()) * direction).sum(1) for p in params]
        moved[rounding] = torch.stack(ways).mean().item() / (lr * steps)
    # A weight is about 0.04, and half the distance to bfloat16's next number 6e-5 to 1.2e-4, to
    # float16's a tenth of that; a step is 4e-7. Only weights that are close to zero move.
    assert moved["nearest"] < 0.1
    assert moved["stochastic"] == pytest.approx(1, abs=0.05)


@every_path
@every_low_dtype
def test_neurons_stay_balanced_to_the_rounding_of_their_dtype(path: PathRow, dtype: torch.dtype):
    params = [nn.Parameter(torch.randn(16, 256).to(dtype)) for _ in range(2)]
    optimizer = build(params, path, rounding="stochastic")
    # Each weight is off by less than eps of itself, so the vector by eps of its norm.
    eps = torch.finfo(dtype).eps
    for seed in range(60):
        train(optimizer, [seed])
        for p in params:
            w = p.detach().double()
            assert ((w.norm(dim=1) - 1).abs() < 1.01 * eps).all()
            assert (w.mean(1).abs() * 256**0.5 < 1.01 * eps).all()


@every_path
@every_low_dtype
def test_neurons_that_do_not_turn_are_not_rounded(path: PathRow, dtype: torch.dtype):
    params = [nn.Parameter(torch.randn(5, 7).to(dtype)) for _ in range(2)]
    params.append(nn.Parameter(torch.randn(6).to(dtype)))
    optimizer = build(params, path, rounding="stochastic")
    give_gradients(params, 0)
    for p in params:
        p.grad[0] = 0.0
        p.grad[1] = torch.nan
    before = bits([p[:2] for p in params])
    moving = bits([p[2:] for p in params])
    optimizer.step()
    assert bits([p[:2] for p in params]) == before
    assert bits([p[2:] for p in params]) != moving
    optimizer.param_groups[0]["lr"] = torch.tensor(0.0) if path.tensor_lr else 0.0
    before = bits(params)
    train(optimizer, range(2))
    assert bits(params) == before


def rounding_run(path: PathRow, dtype: torch.dtype, steps: int, **options: Any) -> list[Tensor]:
    """The table's tensors, two of each, after some steps."""
    generator = torch.Generator().manual_seed(1)
    groups = [
        {
            "params": [
                nn.Parameter(torch.randn(row.shape, generator=generator).to(dtype))
                for _ in range(2)
            ],
            "neuron_axes": row.neuron_axes,
        }
        for row in TENSORS
    ]
    optimizer = build(groups, path, lr=0.003, rounding="stochastic", **options)
    train(optimizer, range(steps))
    return [p.detach() for group in groups for p in group["params"]]


@every_low_dtype
@pytest.mark.parametrize("path", PATHS[1:], ids=names(PATHS[1:]))
def test_every_path_rounds_by_the_same_noise(path: PathRow, dtype: torch.dtype):
    expected = rounding_run(PATHS[0], dtype, 5)
    actual = rounding_run(path, dtype, 5)
    other = rounding_run(path, dtype, 5, seed=1)
    entries = sum(p.numel() for p in expected)
    # Paths differ in the last place of float32, which the noise decides about now and then.
    apart = sum(int((a != b).sum()) for a, b in zip(actual, expected, strict=True))
    assert apart <= 0.01 * entries
    assert sum(int((a != b).sum()) for a, b in zip(other, expected, strict=True)) > 0.3 * entries


@every_low_dtype
def test_shards_take_the_noise_of_their_place_in_the_whole(dtype: torch.dtype):
    w = torch.randn(6, 2, 5).to(dtype)
    g = torch.randn(6, 2, 5).to(dtype)
    whole = nn.Parameter(w.clone())
    optimizer = Nero([whole], foreach=False, rounding="stochastic", center=False, radius=None)
    hyper, start = hyper_of(optimizer.param_groups[0]), copy.deepcopy(optimizer.state[whole])
    for t in range(3):
        whole.grad = g + t
        optimizer.step()
    for rows in (slice(0, 4), slice(4, 6), slice(6, 6)):
        shard = w[rows].clone()
        layout = NeuronLayout(tuple(shard.shape))
        state = copy.deepcopy(start)
        state["rms"] = state["rms"][rows].clone()
        place = Place.of((6, 2, 5), (rows.start, 0, 0))
        for t in range(3):
            state["step"] += 1
            step = tensor_step(shard, (g + t)[rows], state, layout, hyper, place)
            _single_tensor_nero([step], hyper)
        assert bits(shard) == bits(whole.detach()[rows])


@every_path
def test_a_resumed_run_goes_on_with_the_same_noise(path: PathRow):
    shapes = ((4, 6), (4, 6), (5,))
    params = [nn.Parameter(torch.randn(shape).to(torch.bfloat16)) for shape in shapes]
    optimizer = build(params, path, rounding="stochastic", seed=5)
    train(optimizer, range(3))
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = build(twins, path)
    resumed.load_state_dict(through_file(optimizer.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, twins, strict=True):
            q.copy_(p)
    generator = torch.get_rng_state()
    for one in (optimizer, resumed):
        for seed in range(3, 6):
            train(one, [seed])
    assert bits(twins) == bits(params)
    assert torch.equal(torch.get_rng_state(), generator)
    seeds = [resumed.state[p]["seed"] for p in twins]
    assert [seed.item() for seed in seeds] == [parameter_seed(5, 0, i) for i in range(3)]
    assert {(seed.dtype, seed.shape) for seed in seeds} == {(torch.int64, torch.Size([]))}


def test_seeds_are_made_where_the_rounding_is_switched_on_later():
    groups = [{"params": [nn.Parameter(torch.randn(3, 4).bfloat16())]} for _ in range(2)]
    optimizer = Nero(groups, seed=7)
    assert all("seed" not in state for state in optimizer.state.values())
    old = copy.deepcopy(optimizer.state_dict())
    (w,) = optimizer.param_groups[1]["params"]
    optimizer.param_groups[1]["rounding"] = "stochastic"
    train(optimizer, range(1))
    assert optimizer.state[w]["seed"].item() == parameter_seed(7, 1, 0)
    for group in old["param_groups"]:
        del group["rounding"]
    optimizer.load_state_dict(old)
    assert optimizer.state[w]["seed"].item() == parameter_seed(7, 1, 0)
    assert "seed" not in optimizer.state[optimizer.param_groups[0]["params"][0]]
    late = nn.Parameter(torch.randn(3, 4).bfloat16())
    optimizer.add_param_group({"params": [late], "rounding": "stochastic", "seed": 8})
    assert optimizer.state[late]["seed"].item() == parameter_seed(8, 2, 0)


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wider_weights_are_rounded_as_ever(path: PathRow, dtype: torch.dtype):
    params = [nn.Parameter(torch.randn(4, 6, dtype=dtype)) for _ in range(2)]
    twins = copy.deepcopy(params)
    for weights, rounding in ((params, "nearest"), (twins, "stochastic")):
        train(build(weights, path, rounding=rounding), range(3))
    assert bits(twins) == bits(params)


@every_path
def test_a_seed_that_is_changed_in_place_is_used(path: PathRow):
    """As torch.distributed.checkpoint does, which loads into the tensors that are there."""
    ends = []
    for options in (path, PATHS[0]):
        torch.manual_seed(0)
        w = nn.Parameter(torch.randn(64, 64).bfloat16())
        optimizer = build([w], options, rounding="stochastic")
        for seed in (None, 7):
            if seed is not None:
                optimizer.state[w]["seed"].fill_(seed)
            give_gradients([w], 0)
            optimizer.step()
        ends.append(w.detach())
    assert (ends[0] != ends[1]).float().mean() < 0.01


@every_low_dtype
@pytest.mark.parametrize("exponent", [0, -20], ids=["normal", "small"])
def test_the_cpu_kernel_rounds_the_same_numbers_to_the_same_bits(dtype: torch.dtype, exponent: int):
    ends = []
    for path in ({"foreach": False}, {}):
        torch.manual_seed(0)
        w = nn.Parameter((torch.randn(5000) * 2.0**exponent).to(dtype))
        optimizer = Nero([w], lr=2.0 ** (exponent - 9), beta=0.0, rounding="stochastic", **path)
        optimizer.state[w]["scale"].fill_(1)  # so that all arithmetic before rounding is exact
        w.grad = torch.randn(5000).sign().to(dtype)
        before = w.detach().clone()
        optimizer.step()
        ends.append(bits([w.detach()]))
        assert (w.detach() != before).any()
    assert ends[0] == ends[1]


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")
@every_path
def test_a_compiled_step_rounds_by_the_same_noise(path: PathRow):
    params = [nn.Parameter(torch.randn(4, 6).bfloat16()) for _ in range(2)]
    eager = copy.deepcopy(params)
    optimizer, reference = (build(w, path, rounding="stochastic") for w in (params, eager))
    torch.compiler.reset()
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for seed in range(4):
        give_gradients(params, seed)
        give_gradients(eager, seed)
        step()
        reference.step()
    assert bits(params) == bits(eager)
