"""The table: what it says is what the optimiser does, and what the optimiser keeps."""

from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nero import Nero
from nero.model.depth import rate_factor
from nero.model.describe import describe
from nero.model.param_groups import param_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.mix = nn.Conv1d(6, 4, 2, groups=3 - 1)
        self.narrow = nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.ones(()))


def state_bytes(optimizer: torch.optim.Optimizer) -> dict[Tensor, int]:
    return {
        p: sum(value.numel() * value.element_size() for value in state.values())
        for p, state in optimizer.state.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"preset": "finetune"},
        {"preset": "paper", "overrides": {"mix.*": {"momentum": 0.9}}},
        {"head": "mix", "overrides": {"embedding.weight": {"radius": 3.0}}},
    ],
    ids=str,
)
def test_the_bytes_are_those_that_the_optimisers_keep(arguments: Any, dtype: torch.dtype) -> None:
    model = Model().to(dtype)
    table = describe(model, **arguments)
    nero = Nero(param_groups(model, **arguments))
    adam = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    adam.step()
    kept = state_bytes(nero)
    assert [row.state_bytes for row in table.rows] == [kept[p] for p in model.parameters()]
    assert table.state_bytes == sum(kept.values())
    assert table.adam_bytes == sum(state_bytes(adam).values())


def test_a_batch_shows_rows_and_rates() -> None:
    layers = [part for _ in range(11) for part in (nn.Linear(6, 6), nn.ReLU())]
    model = nn.Sequential(nn.LayerNorm(6), *layers, nn.Linear(6, 3))
    blind, seen = describe(model), describe(model, batch=torch.randn(2, 6))
    assert "rate" not in str(blind)
    assert {(row.row, row.rate) for row in blind.rows} == {(None, None)}
    assert [row.row for row in seen.rows] == [None] * 2 + [12] * 24
    assert [row.rate for row in seen.rows] == [1.0] * 2 + [rate_factor(12)] * 24
    header, _, norm, _, first, *_ = str(seen).splitlines()
    assert header.split()[-2:] == ["row", "rate"]
    assert norm.split()[-1] == "1"
    assert first.split()[-2:] == ["12", f"{rate_factor(12):.3g}"]


def test_rows_are_data() -> None:
    table = describe(Model(), head="mix")
    assert [row.name for row in table.rows] == [name for name, _ in Model().named_parameters()]
    rows = {row.name: row for row in table.rows}
    mix = rows["mix.weight"]
    assert (mix.owner, mix.role, mix.shape, mix.neurons, mix.fan_in, mix.constraint) == (
        *("Conv1d", "head", (4, 3, 2)),
        *(4, 6, "mean 0, norm 1"),
    )
    kept = describe(Model(), head="mix", preset="finetune").rows
    assert {row.name: row.constraint for row in kept}["embedding.weight"] == "own norm"
    free = describe(Model(), overrides={"mix.weight": {"center": False, "radius": None}}).rows
    assert {row.name: row.constraint for row in free}["mix.weight"] == "free"
    assert rows["narrow.weight"].constraint == "free (fan-in too small)"
    assert rows["scale"].shape == ()
    assert table.entries == sum(p.numel() for p in Model().parameters())
    assert describe(Model(), preset="paper").rows[1].constraint == "mean 0, norm 1"
    wide = describe(Model(), overrides={"mix.weight": {"radius": 2.5}})
    assert {row.name: row.constraint for row in wide.rows}["mix.weight"] == "mean 0, norm 2.5"


def test_it_changes_nothing() -> None:
    model = Model()
    before = [p.detach().clone() for p in model.parameters()]
    describe(model, preset="paper")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_the_text() -> None:
    table = describe(Model())
    lines = str(table).splitlines()
    assert repr(table) == str(table)
    assert len(lines) == 2 + len(table.rows) + 1
    assert " ".join(lines[0].split()) == (
        "name owner role shape neurons fan in constraint state bytes"
    )
    for line, row in zip(lines[2:], table.rows, strict=False):
        assert line.startswith(row.name)
        assert line.endswith(f"{row.state_bytes:,}")
        assert lines[0].index("owner") == line.index(row.owner, len(row.name))
    assert "scalar" in str(table)
    assert f"{11 + 4 + 3} neurons" in lines[-1]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.cells += tag == "td"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"<b>&": nn.Linear(4, 3)})

    table = describe(Odd())
    source = table._repr_html_()
    tags = Tags()
    tags.feed(source)
    assert tags.open == []
    assert tags.cells == 8 * len(table.rows)
    assert "parts.<b>&.weight" in tags.text
    assert "<b>" not in source
    assert table.summary in tags.text


def test_an_empty_model() -> None:
    table = describe(nn.ReLU())
    assert table.rows == ()
    assert "0 parameters" in str(table)
    assert "<table>" in table._repr_html_()


def test_tied_names_and_large_models() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(50_000, 1024), nn.Linear(1024, 50_000, bias=False))
        model[1].weight = model[0].weight
    table = describe(model)
    assert [row.name for row in table.rows] == ["0.weight = 1.weight"]
    assert "51,200,000 entries" in table.summary
    assert "Adam 409.6 MB" in table.summary
