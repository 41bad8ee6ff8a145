"""Tables, pictures and the page of results, from all records, some of them or none."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from lab.fake_records import DATA, by_distance, fake_record, fake_records
from lab.fake_tasks import ADAM, NERO, PERPLEXITY, SGD, fake_comparison
from nero_lab.analysis import table
from nero_lab.analysis.curves import COLUMNS, beyond, curves, flat, limits, logarithmic
from nero_lab.analysis.document import write_document
from nero_lab.analysis.interactive import _by_lr_html
from nero_lab.analysis.measured import Measured, measure
from nero_lab.analysis.palette import styles
from nero_lab.analysis.pictures import _draw_by_lr, save_figure
from nero_lab.data.found import FoundData
from nero_lab.experiments.task import Variant
from nero_lab.records.store import Record
from nero_lab.sweeps.comparison import Comparison

ENDING = by_distance(0.9, 0.1, {"nero": 1e-3, "adam": 1e-3})


@pytest.fixture
def comparison() -> Comparison:
    return fake_comparison(NERO, ADAM, SGD, figure="3 right")


@pytest.fixture
def records(comparison: Comparison) -> list[Record]:
    return fake_records(comparison, ENDING)


def _cells(measured: Measured) -> dict[str, dict[str, str]]:
    """Return the table by variant and heading; of two equal headings the second has a star."""
    head = []
    for heading in table.headings(measured):
        head.append(f"{heading}*" if heading in head else heading)
    return {row[0]: dict(zip(head, row, strict=True)) for row in table.cells(measured)}


def test_table_tells_both_rates_the_range_over_seeds_and_what_was_published(comparison, records):
    nero = _cells(measure(comparison, records)[0])["Nero"]
    assert nero["default lr"] == "0.01"
    assert nero["test accuracy"].startswith("0.3")
    assert nero["best lr of grid"] == "0.001"
    assert nero["test accuracy*"] == "0.8840 [0.8680, 0.9000]"
    assert nero["published"] == "0.9 (lr 0.01, test accuracy, seed 0)"
    assert nero["time of a run"] == "8.4 s"


def test_table_reports_the_test_part_while_validation_chooses(comparison):
    variant = comparison.variants[0]
    records = [
        fake_record(comparison.run(variant, lr, 0), comparison.task.metric, val, test=test)
        for lr, val, test in ((1e-3, 0.5, 0.9), (1e-2, 0.6, 0.4), (1e-1, 0.7, 0.3))
    ]
    nero = _cells(measure(comparison, records)[0])["Nero"]
    assert (nero["best lr of grid"], nero["test accuracy*"]) == ("0.1", "0.3000 (1 of 3 seeds)")


def test_variants_at_chance_keep_the_rate_at_default(comparison, records):
    sgd = _cells(measure(comparison, records)[0])["SGD"]
    assert sgd["best lr of grid"] == "0.001"
    assert sgd["test accuracy*"] == "0.1010 [0.1000, 0.1020]"


def test_variants_that_won_at_an_end_of_their_grid_are_reported(comparison, records):
    def found_ends(found: list[Record]) -> list[str]:
        return [each for each in table.about(measure(comparison, found)[0]) if "an end" in each]

    # Nero's grid begins at its best rate, Adam's has rates on both sides, SGD learns nothing.
    assert found_ends(records) == [
        "Won at an end of the grid, beyond which may be better rates: Nero (0.001)."
    ]
    assert found_ends([r for r in records if r.run.variant != "nero"]) == []


def test_divergence_is_reported(comparison, records):
    measured = measure(comparison, records)[0]
    head, rows = table.by_lr(measured)
    nero = dict(zip(head, rows[0], strict=True))
    assert nero["0.1"] == "not finite (diverged)"
    assert nero["0.0001"] == ""
    assert measured.diverged == 1
    assert any("Diverged: 1 of" in sentence for sentence in table.about(measured))


def test_missing_runs_are_reported(comparison, records):
    kept = [r for r in records if r.run.variant != "adam" and (r.run.lr, r.run.seed) != (0.1, 0)]
    measured = measure(comparison, kept)[0]
    cells = _cells(measured)
    assert cells["Adam"]["test accuracy"] == "-"
    assert cells["Nero"]["test accuracy*"] == "grid not finished"
    # Of Nero one; of Adam its grid and the other seeds at its default.
    missing = next(s for s in table.about(measured) if s.startswith("Not run yet"))
    assert f"Not run yet: {measured.missing} of" in missing
    assert table.by_lr(measured)[1][0][-1] == "not run"


def test_without_records_every_run_is_missing(comparison):
    (measured,) = measure(comparison, [])
    assert measured.missing == 3 * 5
    assert measured.data_name is None
    assert {row[2] for row in table.cells(measured)} == {"-"}


def test_a_stand_in_is_never_shown_as_the_original(comparison, records):
    (measured,) = measure(comparison, records)
    found_ends = table.about(measured)[0]
    assert found_ends.startswith("Data: Made-up digits, in the place of MNIST")
    assert "no measure for these" in found_ends


def test_data_sets_are_never_mixed(comparison, records):
    real = FoundData("MNIST", "feed", None, None)
    mixed = [*records, *fake_records(comparison, ENDING, data=real)[:4]]
    first, second = measure(comparison, mixed)
    assert (first.data_name, second.data_name) == ("Made-up digits", "MNIST")
    assert (len(first.records), len(second.records)) == (len(records), 4)
    assert first.missing == 0


def test_what_was_run_beside_the_preset_is_shown_with_what_differs(comparison, records):
    own = Variant("torch.optim:NAdam", "", "torch.optim:NAdam", lr_grid=(1e-3,))
    deeper = replace(comparison.run(NERO, 0.01, 0), model={"depth": 9}, precision="bf16-mixed")
    other = [comparison.run(own, 1e-3, 0), deeper, replace(deeper, lr=0.1)]
    extra = [fake_record(run, comparison.task.metric, 0.7) for run in other]
    measured = measure(comparison, [*records, *extra])[0]
    labels = [series.label for series in measured.series]
    assert labels == ["Nero", "Adam", "SGD", "NAdam", "Nero (depth 9, precision bf16-mixed)"]
    assert measured.series[-1].lrs == (0.01, 0.1)
    assert len({series.name for series in measured.series}) == len(labels)


def test_records_of_an_older_recipe_are_left_out(comparison, records):
    old = fake_record(replace(comparison.run(NERO, 0.01, 0), recipe=0), comparison.task.metric, 0.9)
    assert len(measure(comparison, [*records, old])[0].records) == len(records)


def test_curves_have_mean_and_range_and_end_where_a_seed_diverged(comparison):
    variant = comparison.variants[0]
    values = {0: (0.6, "finished"), 1: (0.8, "finished"), 2: (None, "diverged")}
    records = [
        fake_record(comparison.run(variant, 0.01, seed), comparison.task.metric, end, status=status)
        for seed, (end, status) in values.items()
    ]
    (curve,) = curves(measure(comparison, records)[0], COLUMNS[0])
    x, mean, low, high = curve.points[-1]
    assert (x, low, high) == (6, 0.6, 0.8)
    assert mean == pytest.approx(0.7)
    assert [len(seed.x) for seed in curve.seeds] == [6, 6, 3]
    assert curve.points[0][2] == 0.1  # the seed that diverged
    assert not flat(curve)
    assert curves(measure(comparison, records)[0], COLUMNS[1]) == []


def test_perplexities_are_drawn_on_a_logarithmic_axis(comparison, records):
    assert not logarithmic(measure(comparison, records)[0])
    lower = fake_comparison(NERO, metric=PERPLEXITY)
    wide = measure(lower, fake_records(lower, lambda run: (100 / run.lr, "finished")))[0]
    assert logarithmic(wide)
    assert not beyond(wide, 1e5)


def test_what_is_far_off_does_not_flatten_a_figure():
    lower = fake_comparison(NERO, metric=PERPLEXITY)
    far = fake_records(lower, lambda run: (1e12 if run.lr == 0.1 else 50.0, "finished"))
    measured = measure(lower, far)[0]
    assert limits(measured)[1] < 1e6
    assert beyond(measured, 1e12)


def test_variants_look_different(comparison, records):
    measured = measure(comparison, records)[0]
    few = styles(measured.series)
    assert few["nero"].colour == "#0072B2"
    assert len({style.colour for style in few.values()}) == 3
    template = measured.series[0]
    many = [
        replace(template, name=f"{optimizer}-{k}", optimizer=optimizer)
        for optimizer in ("nero", "adam", "sgd", "lamb")
        for k in range(4)
    ]
    alone = {style.colour for style in styles(many[:4]).values()}
    assert len(alone) == 4
    assert len({(s.colour, s.dash) for s in styles(many).values()}) == 16


@pytest.mark.parametrize("broken", [False, True])
def test_lines_by_learning_rate_run_through_the_means_of_all_seeds(comparison, broken: bool):
    variant, metric = comparison.variants[0], comparison.task.metric
    ends = {(1e-3, 0): 0.2, (1e-3, 1): 0.6, (1e-3, 2): None if broken else 0.7, (1e-2, 0): 0.3}
    records = [
        fake_record(comparison.run(variant, lr, seed), metric, end)
        for (lr, seed), end in ends.items()
    ]
    measured = measure(comparison, records)[0]
    figure = Figure()
    panel = figure.subplots()
    _draw_by_lr(panel, measured, styles(measured.series), {})
    lines = [line for line in panel.lines if line.get_linestyle() != "None"]
    drawn = {lr: value for line in lines for lr, value in line.get_xydata()}
    assert drawn == pytest.approx({1e-2: 0.3} if broken else {1e-3: 0.5, 1e-2: 0.3})
    marks = [line for line in panel.lines if line.get_marker() != "None"]
    assert len(marks) == len(ends)
    html = _by_lr_html(measured, styles(measured.series))
    assert all(f"seed {seed}: " in html for seed in (0, 1, 2))


def test_the_picture_is_drawn_and_its_vectors_have_no_date(tmp_path: Path):
    comparison = fake_comparison(NERO)
    rows = [measure(comparison, fake_records(comparison, ENDING))[0]]
    save_figure(rows, [tmp_path / "fig3.png", tmp_path / "fig3.svg"])
    assert (tmp_path / "fig3.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert ElementTree.parse(tmp_path / "fig3.svg").getroot().tag.endswith("svg")
    first = (tmp_path / "fig3.svg").read_bytes()
    save_figure(rows, [tmp_path / "fig3.png", tmp_path / "fig3.svg"])
    assert (tmp_path / "fig3.svg").read_bytes() == first


def test_the_document_has_everything_and_is_the_same_again(comparison, records, tmp_path: Path):
    experiments = [
        measure(comparison, records)[0],
        measure(fake_comparison(name="other", figure="5"), [])[0],
    ]
    page, pictures = tmp_path / "results.md", tmp_path / "assets"
    written = write_document(experiments, "cpu", "results/cpu", page, pictures)
    assert written == [page, pictures / "fig3.png"]
    text = page.read_text()
    assert "![Figure 3" in text
    assert "(assets/fig3.png)" in text
    assert "| Nero | 0.01 |" in text
    assert "Nothing is recorded: all 10 runs are missing." in text
    assert text.count("**not measured**") == 4  # C1, C3 and C4 are
    assert "| fake | Made-up digits for MNIST | accuracy, higher is better |" in text
    assert "Adam: 0.8840 [0.8680, 0.9000] at lr 0.001" in text
    assert DATA.name in text.partition("## Figure 3")[2]
    write_document(experiments, "cpu", "results/cpu", page, pictures)
    assert page.read_text() == text


def test_the_overview_has_nero_as_the_paper_has_it_and_no_ablation(tmp_path: Path):
    ablated = Variant("none", "none", "nero-none", lr_grid=NERO.lr_grid)
    comparison = fake_comparison(ablated, NERO)
    experiments = measure(comparison, fake_records(comparison, ENDING))
    page = tmp_path / "results.md"
    write_document(experiments, "cpu", "results/cpu", page, tmp_path / "assets")
    overview = page.read_text().partition("## All experiments")[2].partition("## Figure")[0]
    assert "| 0.8840 [0.8680, 0.9000] at lr 0.001 |" in overview
    unmeasured = measure(comparison, [])
    write_document(unmeasured, "cpu", "results/cpu", page, tmp_path / "assets")
    assert "| - | - | - | 0 (0 diverged) |" in page.read_text()
