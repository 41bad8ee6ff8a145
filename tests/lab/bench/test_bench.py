import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from typer.testing import CliRunner

from nero_lab.bench import measure, memory
from nero_lab.bench.contestants import (
    ADAMW,
    CONTESTANTS,
    FLOOR,
    MUON,
    NERO,
    ORTHOGONAL,
    RULE,
    Contestant,
)
from nero_lab.bench.devices import CPU
from nero_lab.bench.grids import bytes_text
from nero_lab.bench.measure import Runner, Settings
from nero_lab.bench.results import Report, Row, Table, TrainingRow, backward_ratio
from nero_lab.bench.run import QUICK_SETTINGS
from nero_lab.bench.targets import targets, verdicts
from nero_lab.bench.training import Trainer
from nero_lab.bench.workloads import DTYPES, FULL, QUICK, Workload, gpt2
from nero_lab.cli.app import app

TINY = Workload("tiny", "tiny", ((6, 4), (6,), (2, 6)), hidden=(0,), conv1d=True)


def build(key: str, work: Workload = TINY, dtype: torch.dtype = torch.float32) -> Runner:
    weights, gradients = measure.make_tensors(work, dtype)
    contestant = CONTESTANTS[key]
    parameters = measure.make_parameters(contestant, work, weights, gradients, own=True)
    return Runner(contestant, parameters, work)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("bench")
    file = out / "records" / "bench.json"
    arguments = ["bench", "--quick", "--out", str(out), "--json", str(file), "--threads", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return out, json.loads(file.read_text("utf-8")), result.output


def test_the_quick_run_measures_every_workload_in_both_dtypes(quick):
    _, report, _ = quick
    measured = {(table["workload"], table["dtype"]) for table in report["tables"]}
    assert measured == {(workload, dtype) for workload in QUICK for dtype in DTYPES}
    assert QUICK.keys() == FULL.keys()
    assert [(row["model"], row["optimizer"]) for row in report["training"]] == [
        *product(
            ("resnet18", "vit", "gpt", "mlp"), ("nero", "nero-for-model", "muon", "adamw", "sgd")
        )
    ]


@pytest.mark.parametrize("model", ["resnet18", "vit", "gpt"])  # a long chain has none
def test_the_recommended_optimiser_trains_with_orthogonal_directions(model: str) -> None:
    optimizer = Trainer(model, "nero-for-model", quick=True).optimizer
    assert any(group["orthogonal"] for group in optimizer.param_groups)
    assert "orthogonal directions" in optimizer.path
    plain = Trainer(model, "nero", quick=True).optimizer
    assert not any(group["orthogonal"] for group in plain.param_groups)


def test_nobody_fails_and_only_those_with_a_reason_are_left_out(quick):
    _, report, _ = quick
    skipped = {}
    for table in report["tables"]:
        for row in table["rows"]:
            assert not row["skipped"].startswith("failed"), row
            if row["skipped"]:
                skipped.setdefault(row["key"], set()).add(table["workload"])
            else:
                assert row["seconds"] > 0
                assert row["rounds"] >= QUICK_SETTINGS.least
    assert skipped == {"adamw-8bit": set(QUICK)}


def test_the_page_shows_what_was_measured(quick):
    out, report, _ = quick
    page = (out / "benchmarks.md").read_text("utf-8")
    assert (out / "assets" / "benchmarks.png").stat().st_size > 10_000
    assert "its figures mean nothing" in page
    for table in report["tables"]:
        assert f"### {table['label']}, {table['dtype']}" in page
    assert page.count("| holds |") + page.count("| does not hold |") == len(list(targets()))
    assert report["machine"]["cpu"] in page
    assert report["machine"]["versions"]["torch"] in page
    for line in page.splitlines():  # as many cells as the heading above
        if line.startswith("| ---"):
            columns = line.count(" | ")
        elif line.startswith("| ") and not re.match(r"^\| (optimiser|workload|model)", line):
            assert line.count(" | ") == columns or line == "|  |  |", line


def test_the_console_shows_the_targets_and_where_the_page_is(quick):
    out, _, printed = quick
    assert "Targets" in printed
    assert f"Wrote {out / 'benchmarks.md'}" in printed


def test_an_unknown_part_is_refused():
    result = CliRunner().invoke(app, ["bench", "--quick", "--only", "gpt2,gpt3"])
    assert result.exit_code == 2
    assert "gpt3: choose from gpt2, resnet50" in re.sub(r"[\s│]+", " ", result.output)


def synthetic(workload: str, dtype: str, extra: int = 0, **seconds: float) -> Table:
    rows = (Row(key, key, turns=(value,), resident_rise=extra) for key, value in seconds.items())
    return Table(workload, workload, dtype, 1, 1, True, tuple(rows))


def report_of(*tables: Table) -> Report:
    return Report({}, {}, None, "", "", tables=tables)


def test_ratios():
    table = synthetic("gpt2", "float32", nero=2.0, adamw=5.0)
    assert table.ratio(NERO, ADAMW) == 0.4
    assert table.ratio(ADAMW, NERO) == 2.5
    assert table.ratio(NERO, FLOOR) is None
    skipped = Table("w", "w", "float32", 1, 1, True, (Row(NERO, "", "no"), Row(ADAMW, "", "no")))
    assert skipped.ratio(NERO, ADAMW) is None
    beside = Table("w", "w", "float32", 1, 1, True, (skipped.rows[0], *table.rows[1:]))
    assert beside.ratio(NERO, ADAMW) is None


def test_a_ratio_is_taken_within_rounds_so_that_a_change_of_speed_is_not_in_it():
    # Fast in two rounds and slow in three, of which one sits out those that the other does not.
    ours, theirs = (1.0, 1.0, 2.0, None, 2.2), (2.0, 2.0, None, 4.0, 4.0)
    rows = (Row(NERO, "", turns=ours), Row(ADAMW, "", turns=theirs))
    table = Table("w", "w", "float32", 1, 1, True, rows)
    assert table.ratio(NERO, ADAMW) == 0.5
    never = (Row(NERO, "", turns=(1.0, None)), Row(ADAMW, "", turns=(None, 1.0)))
    assert Table("w", "w", "float32", 1, 1, True, never).ratio(NERO, ADAMW) is None


def test_targets_hold_up_to_their_limits_and_not_above():
    seconds = {NERO: 0.48, ADAMW: 1.0, FLOOR: 0.48 / 1.15 * 1.001, RULE: 3.0}
    seconds |= {ORTHOGONAL: 2.5, MUON: 2.0}
    each_target = verdicts(report_of(synthetic("gpt2", "float32", **seconds)))
    found = {each["what"]: (each["verdict"], each["limit"]) for each in each_target}
    assert found == {
        "time, Nero / AdamW fused": ("holds", "≤ 0.48"),
        "time, Nero / add_": ("holds", "≤ 1.15"),
        "time, Nero / foreach=False": ("does not hold", "≤ 0.12"),
        "time, Nero orthogonal / Muon, hidden matrices": ("holds", "≤ 1.25"),
        "MiB at the peak of a step": ("holds", "< 1"),
    }


@pytest.mark.parametrize(
    ("extra", "verdict"), [(2**20 - 1, "holds"), (2**20, "does not hold"), (None, "not measured")]
)
def test_the_target_of_memory_is_below_a_mebibyte(extra: int | None, verdict: str):
    (each,) = verdicts(report_of(synthetic("matrix", "bfloat16", extra=extra, nero=1.0)))
    assert each["verdict"] == verdict


def test_a_target_without_its_figure_is_not_measured():
    found = verdicts(report_of(synthetic("small", "float32", nero=1.0)))
    assert [each["verdict"] for each in found] == ["not measured", "holds"]


def test_backward_passes_compare_within_a_model():
    rows = tuple(
        TrainingRow(model, model, 1, optimizer, optimizer, 1, 1.0, backward, 1.0)
        for model, optimizer, backward in [("a", "nero", 3.0), ("a", "sgd", 2.0), ("b", "nero", 1)]
    )
    assert [backward_ratio(rows, row, "sgd") for row in rows] == [1.5, 1.0, None]
    assert rows[0].share == 0.2


def test_slow_contestants_sit_out_rounds_evenly():
    settings = Settings(rounds=15, least=5, seconds=6.0)
    assert [settings.rounds_for(s, full=False) for s in (0.1, 0.6, 0.4, 9)] == [15, 10, 15, 5]
    assert settings.rounds_for(9, full=True) == 15
    for own in range(1, 16):
        taken = [measure.takes_part(index, own, 15) for index in range(15)]
        assert sum(taken) == own
    assert [measure.takes_part(index, 5, 15) for index in range(6)] == [False, False, True] * 2


def test_all_contestants_step_the_same_tensors_by_the_same_gradients():
    weights, gradients = measure.make_tensors(TINY, torch.float32)
    for contestant in CONTESTANTS.values():
        if contestant.compiled:
            continue
        parameters = measure.make_parameters(contestant, TINY, weights, gradients, own=True)
        for index, (p, w, g) in enumerate(zip(parameters, weights, gradients, strict=True)):
            turned = contestant.in_out and index in TINY.hidden
            assert torch.equal(p.t() if turned else p, w)
            assert torch.equal(p.grad.t() if turned else p.grad, g)
            assert p.data_ptr() != w.data_ptr()
            assert turned or p.grad.data_ptr() == g.data_ptr()
        runner = Runner(contestant, parameters, TINY)
        for index, (p, w) in enumerate(zip(parameters, weights, strict=True)):
            turned = contestant.in_out and index in TINY.hidden
            left = contestant.key in (ORTHOGONAL, MUON) and index not in TINY.hidden
            assert torch.equal(p, w.t() if turned else w) == left, contestant.key
        assert runner.seconds == []


def test_common_weights_are_not_copied():
    weights, gradients = measure.make_tensors(TINY, torch.float32)
    shared = measure.make_parameters(CONTESTANTS[NERO], TINY, weights, gradients, own=False)
    assert [p.data_ptr() for p in shared] == [w.data_ptr() for w in weights]


def test_the_strided_layout_turns_the_same_neurons():
    dense, strided = build(NERO).parameters, build("nero-in-out").parameters
    torch.testing.assert_close(strided[0].t(), dense[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(strided[1], dense[1])


def test_a_contestant_that_fails_is_a_row():
    def fail(*_: Any) -> Any:
        raise RuntimeError("no such\nthing")

    broken = {"broken": Contestant("broken", "Broken", fail), NERO: CONTESTANTS[NERO]}
    device = replace(CPU, contestants=broken)
    table = measure.measure(TINY, "float32", QUICK_SETTINGS, lambda _: None, device)
    assert table.row("broken").skipped == "failed: RuntimeError: no such"
    assert table.row(NERO).seconds > 0


def test_bytes_of_state():
    entries, neurons = TINY.entries, 6 + 6 + 2
    # Per tensor a step count of four bytes, and Nero's scale.
    assert memory.state_bytes(build(NERO).optimizers) == 4 * neurons + 3 * 8
    assert memory.state_bytes(build(ADAMW).optimizers) == 2 * 4 * entries + 3 * 4
    bfloat16 = build(ADAMW, dtype=torch.bfloat16)
    assert memory.state_bytes(bfloat16.optimizers) == 2 * 2 * entries + 3 * 4
    assert memory.state_bytes(build(FLOOR).optimizers) == 0
    muon = build("muon")  # momentum for the matrix, AdamW for the rest
    assert memory.state_bytes(muon.optimizers) == 4 * 24 + 2 * 4 * (entries - 24) + 2 * 4


def test_memory_that_two_states_share_counts_once():
    common = torch.zeros(10)
    state = {1: {"table": common, "own": torch.zeros(5)}, 2: {"table": common[:3], "n": 3}}
    assert memory.state_bytes([SimpleNamespace(state=state)]) == 4 * 15


def test_the_peak_of_a_step_is_seen_by_both_meters():
    x = Parameter(torch.ones(2**24))
    size = 4 * 2**24

    @torch.no_grad()
    def action() -> None:
        x.add_(x + 1)

    assert size <= memory.torch_peak(action) < size + 2**12
    rise = memory.resident_rise(action)
    if rise is None:
        pytest.skip("this system does not report resident memory")
    # Linux counts pages on each processor for a while before it adds them up, takes back those of
    # files where memory is short, and other threads use some: a margin of a quarter.
    assert 0.75 * size < rise < 1.25 * size
    idle = memory.resident_rise(lambda: None)
    assert idle is not None
    assert idle < 0.25 * size


def test_gpt2_has_all_its_parameters():
    work = gpt2(768, 50257, 1024, 12)
    assert work.entries == 124_439_808
    assert len(work.shapes) == 148
    block = [work.shapes[i] for i in work.hidden[:4]]
    assert block == [(2304, 768), (768, 768), (3072, 768), (768, 3072)]


def test_bytes_in_words():
    texts = {None: "–", 0: "0 B", 2048: "2 KiB", 3 * 2**20: "3 MiB", 1000 * 2**30: "1,000 GiB"}
    assert {count: bytes_text(count) for count in texts} == texts
