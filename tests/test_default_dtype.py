"""torch's default dtype is no business of the optimiser's: its numbers and dtypes are its own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from helpers import every_path, snapshot, train, weights_like
from nero import Nero, NeuronLayout, geometry
from optimizer_table import PathRow


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float64], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"radius": "initial", "momentum": 0.9},
    {"radius": None, "center": False, "rounding": "stochastic"},
]


@every_path
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_run_has_the_same_bits_under_every_default(
    path: PathRow, options: dict[str, Any], dtype: torch.dtype, default: torch.dtype
):
    def run() -> Any:
        torch.manual_seed(0)
        params = weights_like((5, 4), (5, 4), (4, 3, 2), (7,), (), (0, 3), dtype=dtype)
        params[3].data.zero_()
        groups = [{"params": params[:2]}, {"params": params[2:], "neuron_axes": (1,)}]
        lr = torch.tensor(0.01, dtype=torch.float32) if path.tensor_lr else 0.01
        optimizer = Nero(groups, lr=lr, **path.options, **options)
        train(optimizer, range(3))
        optimizer.add_param_group({"params": weights_like((3, 4), dtype=dtype)})
        optimizer.load_state_dict(optimizer.state_dict())
        train(optimizer, range(3, 6))
        return snapshot(optimizer), optimizer.path, optimizer.skipped_neurons()

    expected = run()
    torch.set_default_dtype(default)
    assert run() == expected


def test_step_counts_go_on_beyond_what_16_bits_can_count(default: torch.dtype):
    (w,) = weights_like((2, 3))
    torch.set_default_dtype(default)
    optimizer = Nero([w])
    for limit in (256, 2048):
        optimizer.state[w]["step"].fill_(limit)
        train(optimizer, range(1))
        assert optimizer.state[w]["step"].item() == limit + 1  # a tensor would round the number


def test_geometry_and_groups_have_the_same_bits_under_every_default(default: torch.dtype):
    layer = torch.nn.Linear(6, 4, dtype=torch.float32)
    layout = NeuronLayout((4, 6))

    def run() -> Any:
        w = layer.weight.detach().clone()
        before = w.clone()
        norm, mean = geometry.neuron_norm(w, layout), geometry.neuron_mean(w, layout)
        geometry.project_(w, layout)
        return norm, mean, w, geometry.turning_angle(before, w, layout)

    expected = run()
    torch.set_default_dtype(default)
    for mine, theirs in zip(run(), expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
