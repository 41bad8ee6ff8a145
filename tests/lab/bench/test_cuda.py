"""What `nero bench --device cuda` does, on a machine without a GPU.

A made-up GPU stands in for torch.cuda: once with a time of its own, so that each figure is known,
and once around steps on the CPU, so that every line of the benchmark runs but the GPU's own.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn import Parameter
from typer.testing import CliRunner

from nero_lab.bench import devices, memory
from nero_lab.bench.clocks import Queued
from nero_lab.bench.contestants import (
    ADAMW,
    CONTESTANTS,
    CUDA_CONTESTANTS,
    FLOOR,
    MUON,
    NERO,
    ORTHOGONAL,
    CompiledNero,
    ForeachFloor,
)
from nero_lab.bench.devices import CPU, CUDA, gpu_facts
from nero_lab.bench.grids import compact_grid
from nero_lab.bench.measure import Settings, measure
from nero_lab.bench.page import markdown
from nero_lab.bench.results import Report, Row, Table
from nero_lab.bench.run import QUICK_SETTINGS, run_bench
from nero_lab.bench.targets import targets, verdicts
from nero_lab.bench.workloads import CUDA_FULL, CUDA_QUICK, DTYPES, Workload
from nero_lab.cli.app import app

TINY = Workload("gpt2", "tiny", ((6, 4), (6,), (2, 6)), hidden=(0,))


class MadeUpGpu:
    """A host and a device, each with its time in seconds; the device works through a queue."""

    unit = 1e-3

    def __init__(self) -> None:
        self.time = self.free_at = 0.0

    def now(self) -> float:
        return self.time

    def queue(self, host: float, device: float) -> None:
        self.time += host
        self.free_at = max(self.free_at, self.time) + device

    def work(self, jobs: int) -> None:
        for _ in range(jobs):
            self.queue(1e-5, self.unit)

    def synchronize(self) -> None:
        self.time = max(self.time, self.free_at)

    def event(self) -> Any:
        return MadeUpEvent(self)


class MadeUpEvent:
    def __init__(self, gpu: MadeUpGpu) -> None:
        self.gpu = gpu
        self.at = 0.0

    def record(self) -> None:
        self.at = max(self.gpu.time, self.gpu.free_at)

    def query(self) -> bool:
        return self.at <= self.gpu.time

    def elapsed_time(self, other: "MadeUpEvent") -> float:
        return 1e3 * (other.at - self.at)


class HostGpu(MadeUpGpu):
    """Takes steps on the CPU for those of a device: nothing is queued."""

    def now(self) -> float:
        return time.perf_counter()

    def work(self, jobs: int) -> None:
        assert jobs > 0

    def synchronize(self) -> None: ...

    def event(self) -> Any:
        return HostEvent(self)


class HostEvent(MadeUpEvent):
    def record(self) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return False


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    """CUDA's benchmark, taken on the CPU."""
    device = replace(
        CUDA,
        torch_device="cpu",
        clock=lambda: Queued(HostGpu()),  # type: ignore[arg-type]
        peak=lambda step, _: (memory.torch_peak(step), None),
        free=lambda: 2**33,
    )
    monkeypatch.setitem(devices.DEVICES, "cuda", device)  # type: ignore[arg-type]
    return device


def launches(gpu: MadeUpGpu, count: int = 10, waits: bool = False) -> Callable[[], None]:
    """Return a step: 0.1 ms of Python and 0.02 ms of the device for each kernel."""

    def step() -> None:
        if waits:
            gpu.synchronize()
        for _ in range(count):
            gpu.queue(1e-4, 2e-5)

    return step


def test_a_steps_time_is_the_devices_where_the_host_is_ahead():
    gpu = MadeUpGpu()
    clock = Queued(gpu)  # type: ignore[arg-type]
    step = launches(gpu)
    first, estimate = clock.warm_up(step, compiled=False)
    assert first == pytest.approx(10e-4 + 2e-5)
    turn = clock.turn(step)
    assert not clock.waits
    assert turn.seconds == pytest.approx(10 * 2e-5)  # not the 1 ms that Python takes
    assert turn.host == pytest.approx(10e-4)
    assert turn.alone == pytest.approx(10e-4 + 2e-5)
    assert not turn.late
    assert estimate > 2 * 10e-4


def test_a_step_that_waits_for_the_device_is_found_out():
    gpu = MadeUpGpu()
    clock = Queued(gpu)  # type: ignore[arg-type]
    step = launches(gpu, waits=True)
    clock.warm_up(step, compiled=False)
    turn = clock.turn(step)
    assert clock.waits
    assert turn.late
    assert turn.seconds == pytest.approx(10e-4 + 2e-5)


def test_a_host_that_is_slower_than_thought_is_given_more_time():
    gpu = MadeUpGpu()
    clock = Queued(gpu)  # type: ignore[arg-type]
    steps = iter([1, 1, *[25] * 9])  # kernels of each step: the first two are the short ones

    def step() -> None:
        launches(gpu, next(steps))()

    clock.warm_up(step, compiled=False)
    assert not clock.waits
    assert clock.turn(step).seconds == pytest.approx(25 * 2e-5)


def test_a_contestant_that_waits_has_a_note(made_up):
    class Late(HostEvent):
        def query(self) -> bool:
            return True

    class LateGpu(HostGpu):
        def event(self) -> Any:
            return Late(self)

    late = replace(made_up, clock=lambda: Queued(LateGpu()))  # type: ignore[arg-type]
    for device, note in ((made_up, ""), (late, "waits for the device")):
        row = measure(TINY, "float32", QUICK_SETTINGS, lambda _: None, device).row(NERO)
        assert row is not None
        assert row.note[: len("waits for the device")] == note


def test_a_contestant_that_fails_in_a_round_is_a_row(made_up):
    class Sometimes(Queued):
        turns = 0

        def turn(self, step):
            self.turns += 1
            if self.turns == 3:
                raise RuntimeError("CUDA error:\nout of memory")
            return super().turn(step)

    clocks = iter([Sometimes(HostGpu())])  # type: ignore[arg-type]
    device = replace(made_up, clock=lambda: next(clocks, None) or made_up.clock())
    table = measure(TINY, "float32", Settings(4, 2), lambda _: None, device)
    assert table.rows[0].skipped == "failed: RuntimeError: CUDA error:"
    assert [row.key for row in table.rows if row.skipped.startswith("failed")] == [FLOOR]


def test_who_takes_part_on_cuda():
    assert list(CUDA_CONTESTANTS) == [
        *(FLOOR, NERO, "nero-foreach", "nero-compiled", ADAMW, "adamw-foreach", "sgd"),
        *("muon", MUON, ORTHOGONAL),
    ]
    full = {key for key, each in CUDA_CONTESTANTS.items() if each.full_rounds}
    assert full == {FLOOR, NERO, ADAMW}
    compiled = CUDA_CONTESTANTS["nero-compiled"]
    takes_part = [
        (key, dtype)
        for key, build in CUDA_QUICK.items()
        for dtype in DTYPES
        if compiled.takes_part(build(), dtype)
    ]
    assert takes_part == [("gpt2", "float32")]
    assert CONTESTANTS[NERO].full_rounds  # the CPU's stay as they are


def test_the_workloads_on_cuda():
    assert list(CUDA_FULL) == list(CUDA_QUICK) == ["gpt2", "billion", "resnet50", "small"]
    billion = CUDA_FULL["billion"]()
    assert billion.entries == pytest.approx(1e9, rel=0.02)
    assert {billion.shapes[i] for i in billion.hidden} == {(2048, 2048), (5632, 2048), (2048, 5632)}
    others = [s for i, s in enumerate(billion.shapes) if i not in billion.hidden]
    assert set(others) == {(32000, 2048), (2048,)}
    assert CUDA.parts == tuple(CUDA_FULL)
    assert "billion" not in CPU.parts


def test_the_floor_adds_a_multiple_of_each_gradient():
    parameters = [Parameter(torch.randn(3, 4)), Parameter(torch.randn(5))]
    for p in parameters:
        p.grad = torch.randn_like(p)
    wanted = [p.detach() - 1e-4 * p.grad for p in parameters]
    ForeachFloor(parameters).step()
    for p, w in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.detach(), w)


def test_the_compiled_step_is_one_graph(monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def compiler(step: Any, **options: Any) -> Any:
        asked.update(options)
        return step

    monkeypatch.setattr(torch, "compile", compiler)
    parameter = Parameter(torch.randn(3, 4))
    parameter.grad = torch.randn(3, 4)
    before = parameter.detach().clone()
    contestant = CompiledNero([parameter])
    contestant.step()
    assert asked == {"fullgraph": True}
    assert not torch.equal(parameter, before)
    assert memory.state_bytes([contestant]) > 0


def test_targets_on_cuda():
    found = {(t.workload, t.dtype, t.what): t.limit for t in targets("cuda")}
    adamw, floor = (
        "device time, Nero / AdamW fused",
        "device time, Nero / add_",
    )
    assert {key[:2]: x for key, x in found.items() if key[2] == adamw} == {
        ("gpt2", "float32"): 0.48,
        ("gpt2", "bfloat16"): 0.5,
        ("billion", "float32"): 0.48,
        ("billion", "bfloat16"): 0.5,
        ("resnet50", "float32"): 0.55,
        ("resnet50", "bfloat16"): 0.55,
    }
    assert {key[:2]: x for key, x in found.items() if key[2] == floor} == {
        ("gpt2", "float32"): 1.15,
        ("billion", "float32"): 1.15,
    }
    assert {key[:2] for key in found if "orthogonal" in key[2]} == {
        (workload, dtype) for workload in ("gpt2", "billion") for dtype in DTYPES
    }
    assert {key[2] for key in found if key[0] == "small"} == {"time alone, Nero / AdamW fused"}


def row(key: str, device: float, alone: float, **more: Any) -> Row:
    figures: dict[str, Any] = {"quartiles": (device, device), "rounds": 1, "state_bytes": 1}
    times = {"seconds": device, "turns": (device,), "alone_turns": (alone,), "alone_seconds": alone}
    return Row(key, key, **figures, **times, host_seconds=alone, **more)


def report_of(*tables: Table, **more: Any) -> Report:
    settings = {**vars(Settings(50, seconds=1.0)), "device": "cuda", "threads": 1}
    gpu = {
        "name": "NVIDIA H100",
        "capability": "9.0",
        "memory": 80 * 2**30,
        "cache": 50 * 2**20,
        "multiprocessors": 132,
        "runtime": "13.0",
        "driver": "580.1",
    }
    machine = {"cpu": "a", "cores": 2, "memory": 2**34, "platform": "b", "path": "c"}
    machine |= {"versions": {"torch": "2.11", "triton": "3.6"}, "gpu": gpu}
    return Report(machine, settings, None, "now", "nero bench", tables=tables, **more)


SMALL = Table(
    *("small", "small tensors", "float32", 1, 1, True),
    (
        row(NERO, 2e-3, 3e-3, note="waits"),
        row(ADAMW, 1e-3, 4e-3),
        row(FLOOR, 5e-4, 5e-4, compile_seconds=83.4),
    ),
)


def test_small_tensors_are_judged_by_a_step_alone():
    assert SMALL.ratio(NERO, ADAMW) == 2.0
    assert SMALL.ratio(NERO, ADAMW, alone=True) == 0.75
    (found,) = verdicts(report_of(SMALL))
    assert (found["value"], found["verdict"]) == (0.75, "holds")


def test_the_page_of_a_gpu():
    page = markdown(report_of(SMALL, failures=("GPT-2, float32: failed: no memory",)))
    assert "![Time of a step on a GPU](assets/benchmarks-cuda.png)" in page
    assert (
        "| GPU | NVIDIA H100, capability 9.0, 132 multiprocessors, 80 GiB, cache 50 MiB |" in page
    )
    assert "| CUDA | runtime 13.0, driver 580.1 |" in page
    assert "torch 2.11, triton 3.6" in page
    assert f"| {NERO} | 2 (2-2) | 2 | 4 | 3 | 0.75 | 3 | 1 | 1 | – |" in page
    assert f"{NERO}: waits." in page
    assert f"{FLOOR}: its first step, which compiles, took 83 s." in page
    assert "**Not measured:** GPT-2, float32: failed: no memory." in page
    assert "L2 cache" in page
    assert "VmHWM" not in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_what_to_do(tmp_path: Path):
    result = CliRunner().invoke(app, ["bench", "--device", "cuda", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    said = re.sub(r"[\s│]+", " ", result.output)
    assert "there is no CUDA device: torch" in said
    assert "or leave out --device" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tpu"], "tpu: choose from cpu, cuda"),
        (["--only", "billion"], "billion: choose from gpt2, resnet50, small, matrix, training"),
    ],
)
def test_what_there_is_not_is_refused(arguments: list[str], said: str):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert said in re.sub(r"[\s│]+", " ", result.output)


def test_whole_training_steps_are_refused_on_cuda(made_up):
    result = CliRunner().invoke(app, ["bench", "--device", "cuda", "--only", "training"])
    assert result.exit_code == 2
    said = re.sub(r"[\s│]+", " ", result.output)
    assert "training: choose from gpt2, billion, resnet50, small" in said


def test_a_whole_run(made_up, tmp_path: Path):
    file = tmp_path / "found.json"
    arguments = ["bench", "--device", "cuda", "--quick", "--no-compile", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--json", str(file)])
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text("utf-8"))
    measured = [(table["workload"], table["dtype"]) for table in report["tables"]]
    assert measured == [(workload, dtype) for workload in CUDA_QUICK for dtype in DTYPES]
    skipped = {}
    for table in report["tables"]:
        for found in table["rows"]:
            if found["skipped"]:
                skipped.setdefault(found["key"], []).append(table["workload"])
                assert found["skipped"].startswith("left out by --no-compile")
            else:
                assert found["seconds"] > 0
                assert found["alone_seconds"] >= found["host_seconds"] > 0
                assert found["resident_rise"] is None
    assert skipped == {"nero-compiled": ["gpt2"]}
    assert {each["verdict"] for each in report["targets"]} <= {"holds", "does not hold"}
    assert len(report["targets"]) == len(list(targets("cuda")))
    assert len(result.output) < 11_000  # what a caller at a distance is shown
    page = (tmp_path / "benchmarks-cuda.md").read_text("utf-8")
    assert "# Benchmarks on a GPU" in page
    assert (tmp_path / "assets" / "benchmarks-cuda.png").stat().st_size > 10_000
    assert not (tmp_path / "benchmarks.md").exists()


def test_a_workload_that_cannot_be_measured_costs_no_other(made_up, tmp_path: Path):
    def fail() -> int:
        raise RuntimeError("CUDA error: an illegal memory access")

    sizes = iter([2**33, None])
    device = replace(made_up, free=lambda: next(sizes) or fail())
    console = Console(file=(tmp_path / "said").open("w"))
    report = run_bench(tmp_path, None, ["small"], QUICK_SETTINGS, "nero bench", console, device)
    assert [table.dtype for table in report.tables] == ["float32"]
    (failure,) = report.failures
    assert failure.endswith("bfloat16: failed: RuntimeError: CUDA error: an illegal memory access")


def test_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch):
    class Properties:
        total_memory = 2**36
        multi_processor_count = 132

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    found = gpu_facts()
    assert (found["name"], found["capability"], found["memory"]) == ("NVIDIA H100", "9.0", 2**36)
    assert found["driver"]


def test_few_characters_say_whose_time_is_not_the_devices_alone():
    grid = compact_grid(SMALL)
    assert grid.rows[0][0] == f"{NERO}*"
    assert grid.rows[1][0] == ADAMW
    waits, compiled = grid.notes
    assert waits == "* the device's time has time of Python's in it"
    assert compiled == f"{FLOOR}: compiled in 83 s"
