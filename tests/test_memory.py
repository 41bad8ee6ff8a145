"""What a step allocates, reads and leaves alone, and how large the state is."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import (
    bits,
    build,
    every_constraint,
    every_momentum,
    every_path,
    give_gradients,
    weights_like,
)
from nero import Nero, NeuronLayout
from nero.directions import directions
from nero.first_step import _is_zero
from nero_lab.bench.memory import state_bytes
from nero_lab.bench.workloads import gpt2
from optimizer_table import PathRow

SHAPES = ((4, 6), (4, 6), (3, 2, 5), (3, 1), (4,), (4,), ())


def peak_bytes(action: Callable[[], Any]) -> int:
    """The most that PyTorch held at a time during the action, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_the_meter_sees_what_is_held_at_a_time():
    x = torch.ones(1000)
    assert peak_bytes(lambda: x.add_(1)) < 1000
    assert 4000 <= peak_bytes(lambda: (x + 1).mul_(2)) < 5000
    assert 8000 <= peak_bytes(lambda: (x + 1) * 2) < 9000


@pytest.mark.parametrize(
    "options", [{}, {"radius": "initial"}, {"radius": None, "center": False}], ids=str
)
def test_building_over_a_large_table_takes_a_piece_at_a_time(options: dict[str, Any]):
    table = nn.Parameter(torch.randn(2**15, 2**9).bfloat16())
    # A few temporaries of a piece in float32, and one number per neuron.
    allowed = 36 * 2**20
    assert peak_bytes(lambda: Nero([table], **options)) < allowed < 2 * table.nbytes


TEMPORARIES: dict[str, tuple[tuple[int, ...], torch.dtype, dict[str, Any]]] = {
    "square": ((2048, 2048), torch.float32, {}),
    "square with momentum": ((2048, 2048), torch.float32, {"momentum": 0.9}),
    "square (in, out)": ((2048, 2048), torch.float32, {"neuron_axes": (1,), "momentum": 0.9}),
    "initial radius": ((2048, 2048), torch.float32, {"radius": "initial"}),
    "small": ((256, 256), torch.float32, {}),
    "small with momentum": ((256, 256), torch.float32, {"momentum": 0.9}),
    "float64": ((512, 2048), torch.float64, {"momentum": 0.9}),
    "conv": ((512, 256, 3, 3), torch.float32, {"momentum": 0.9}),
    "transposed conv": ((256, 512, 3, 3), torch.float32, {"neuron_axes": (1,)}),
    "bias": ((2**12,), torch.float32, {"momentum": 0.9}),
    "long bias": ((2**20,), torch.float32, {"momentum": 0.9}),
    "bfloat16": ((2048, 2048), torch.bfloat16, {}),
    "bfloat16 with momentum": ((2048, 2048), torch.bfloat16, {"momentum": 0.9}),
    "bfloat16 of GPT-2's width": ((768, 768), torch.bfloat16, {}),
    "float16": ((2048, 2048), torch.float16, {"momentum": 0.9}),
    "bfloat16, stochastic": ((2048, 2048), torch.bfloat16, {"rounding": "stochastic"}),
    "float16, stochastic": ((2048, 2048), torch.float16, {"rounding": "stochastic"}),
}


@pytest.mark.parametrize(("shape", "dtype", "options"), TEMPORARIES.values(), ids=TEMPORARIES)
def test_a_step_holds_one_temporary_of_the_tensors_size_at_the_most(
    shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any]
):
    (w,) = weights_like(shape, dtype=dtype)
    w.grad = torch.randn(shape).to(dtype)
    optimizer = Nero([w], foreach=False, **options)
    optimizer.step()
    neurons = NeuronLayout(shape, options.get("neuron_axes", (0,))).neurons
    # Eight float32 numbers per neuron, which for a bias is all there is, are no tensor's size.
    assert peak_bytes(optimizer.step) <= w.numel() * w.element_size() + 32 * neurons + 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(4, 256, 256), (2, 512, 128), (2, 128, 512), (4, 64, 128)], ids=str
)
def test_directions_hold_two_stacks_besides_their_own(
    shape: tuple[int, int, int], dtype: torch.dtype
):
    d = torch.randn(shape)
    peak = peak_bytes(lambda: directions(d, center=True, dtype=dtype))
    per_row = 4 * shape[0] * shape[1]
    assert peak <= 3 * d.numel() * 4 + 8 * per_row + 1024


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(512, 512), (1024, 256), (64, 576)], ids=str)
def test_a_step_by_directions_holds_no_more(shape: tuple[int, int], momentum: float):
    """Than a stack and two more; of these all four are one."""
    params = weights_like(*[shape] * 4)
    for p in params:
        p.grad = torch.randn(shape)
    optimizer = Nero(params, orthogonal=True, momentum=momentum)
    optimizer.step()
    per_row = 4 * 4 * shape[0]
    assert peak_bytes(optimizer.step) <= 3 * 4 * params[0].nbytes + 8 * per_row + 4096


READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"}


class NoReads(TorchDispatchMode):
    """Fails where the host would wait to read a tensor, unless it is one of those allowed."""

    def __init__(self, allowed: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.allowed = list(allowed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS and not any(args[0] is tensor for tensor in self.allowed):
            raise AssertionError(f"{name} makes the host wait for {args[0]}")
        return func(*args, **kwargs or {})


def test_the_watch_sees_reads():
    x = torch.ones(3)
    for read in (lambda: x.sum().item(), lambda: bool(x.any()), x.nonzero, lambda: x.equal(-x)):
        with pytest.raises(AssertionError, match="makes the host wait"), NoReads():
            read()


@every_path
@every_constraint
@every_momentum
def test_a_step_reads_nothing_but_its_step_counts_and_those_not_where_capturable(
    path: PathRow, constraint: dict[str, Any], momentum: float, monkeypatch: pytest.MonkeyPatch
):
    # The CPU stands for a device here, on which nothing is looked at for zeros.
    assert not _is_zero(torch.zeros((), device="meta"))
    monkeypatch.setattr("nero.first_step._is_zero", lambda x: False)
    params = weights_like(*SHAPES)
    optimizer = build(params, path, momentum=momentum, **constraint)
    give_gradients(params, 0)
    params[0].grad[1, 2] = torch.nan
    counts = [] if path.options.get("capturable") else [optimizer.state[p]["step"] for p in params]
    before = bits(params)
    with NoReads(allowed=counts):
        optimizer.step()
        optimizer.step()
    assert bits(params) != before


@every_path
@every_constraint
@every_momentum
def test_construction_and_steps_run_where_tensors_hold_no_data(
    path: PathRow, constraint: dict[str, Any], momentum: float
):
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    for p in params:
        p.grad = torch.empty_like(p)
    if path.options.get("fused"):
        with pytest.raises(RuntimeError, match=r"fused=True, but parameter 0 .* on meta"):
            build(params, path, momentum=momentum, **constraint)
        return
    optimizer = build(params, path, momentum=momentum, **constraint)
    optimizer.step()
    optimizer.project_()
    capturable = path.options.get("capturable", False)
    for state in optimizer.state.values():
        assert state["step"].is_meta == capturable
        assert capturable or state["step"].item() == 1
        assert all(value.is_meta for key, value in state.items() if key != "step")


@every_constraint
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("lr_device", [None, "cpu", "cuda"])
def test_a_capturable_step_on_an_accelerator_stays_there(
    constraint: dict[str, Any], foreach: bool, lr_device: str | None
):
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in SHAPES]
        for p in params:
            p.grad = torch.empty_like(p)
        lr = 0.01 if lr_device is None else torch.full((), 0.01, device=lr_device)
        options = {"foreach": foreach, "capturable": True, "momentum": 0.9}
        optimizer = Nero(params, **options, **constraint)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        values = [value for state in optimizer.state.values() for value in state.values()]
    assert {value.device.type for value in values} == {"cuda"}


def with_nan(g: Tensor) -> Tensor:
    g[1, 2] = torch.nan
    return g


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda g: g,
    "with NaN": with_nan,
    "with infinity": lambda g: g / (g != g.max()),
    "zero": torch.zeros_like,
    "one number expanded": lambda g: g[:1, :1, :1, :1].expand(g.shape),
    "one neuron expanded": lambda g: g[:1].expand(g.shape),
    "channels_last": lambda g: g.to(memory_format=torch.channels_last),
    "strided": lambda g: torch.stack([g, g], -1)[..., 0],
}


@every_path
@every_momentum
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", GRADIENTS.values(), ids=GRADIENTS)
def test_the_callers_gradients_are_read_as_they_lie_and_not_written(
    path: PathRow, momentum: float, dtype: torch.dtype, shape: Callable[[Tensor], Tensor]
):
    params = weights_like((4, 3, 2, 5), (4, 3, 2, 5), dtype=dtype)
    dense = copy.deepcopy(params)
    optimizers = [build(weights, path, momentum=momentum) for weights in (params, dense)]
    for _ in range(2):
        for p, q in zip(params, dense, strict=True):
            p.grad = shape(torch.randn(p.shape, dtype=dtype))
            q.grad = p.grad.clone(memory_format=torch.contiguous_format)
        grads = [p.grad for p in params]
        before = bits(grads), [(g.stride(), g._version, g.data_ptr()) for g in grads]
        for optimizer in optimizers:
            optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert (bits(grads), [(g.stride(), g._version, g.data_ptr()) for g in grads]) == before
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(params, dense, rtol=tolerance, atol=tolerance)


def test_state_for_gpt2_is_at_most_a_900th_of_adams(capsys: pytest.CaptureFixture[str]):
    work = gpt2(768, 50257, 1024, 12)
    nero = adam = 0
    # One tensor of each kind at a time: all of them with Adam's state would take 2 GB.
    for shape, count in Counter(work.shapes).items():
        w = nn.Parameter(torch.rand(shape))
        w.grad = torch.zeros(shape)
        optimizers = Nero([w]), torch.optim.Adam([w], fused=True)
        for optimizer in optimizers:
            optimizer.step()
        nero, adam = (
            total + count * state_bytes([optimizer])
            for total, optimizer in zip((nero, adam), optimizers, strict=True)
        )
    with capsys.disabled():
        print(f"\nstate for GPT-2 124M: Nero {nero:,} bytes, Adam {adam:,} ({nero / adam:.4%})")
    assert adam >= 2 * 4 * work.entries
    assert nero <= 0.0011 * adam
