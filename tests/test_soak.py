import re

import pytest

import soak
from soak import Sample


def line(growth: float, samples: int = 400, minutes: float = 20.0) -> list[Sample]:
    """Memory that grows by so much over the time after the warm-up, with noise and a warm-up."""
    found = []
    for k in range(samples):
        part = k / (samples - 1)
        warm = 50 * min(1, part / soak.WARM_UP)
        noise = (0.3, -0.3)[k % 2]
        late = growth * max(0, part - soak.WARM_UP) / (1 - soak.WARM_UP)
        found.append(Sample(60 * minutes * part, 400 + warm + noise + late))
    return found


@pytest.mark.parametrize("mebibytes", [0.0, -3.0, 5.0, 100.0])
def test_growth_is_that_of_a_line_after_the_warm_up(mebibytes: float):
    grown = soak.growth(line(mebibytes))
    assert grown.mebibytes == pytest.approx(mebibytes, abs=0.1)
    assert grown.minutes == pytest.approx(15, abs=0.1)
    assert grown.kibibytes_a_minute == pytest.approx(1024 * mebibytes / 15, abs=10)


def test_a_round_that_takes_most_of_the_time_leaves_a_line():
    grown = soak.growth([Sample(1, 400), Sample(1.1, 401), Sample(10, 402)])
    assert grown.mebibytes == pytest.approx(1)
    assert grown.kibibytes_a_minute == pytest.approx(1024 * 60 / 8.9)


def test_a_short_soak_runs_and_reports(capsys: pytest.CaptureFixture[str]):
    assert soak.main(["--minutes", "0.03", "--limit", "1000", "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d rounds: \{.*'network steps': \d+", printed)
    assert re.search(r"memory: .* MiB at the end; grew by \S+ MiB in the last", printed)


def test_memory_that_grows_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soak, "soak", lambda minutes, first, done: line(4.5))
    assert soak.main([]) == 1
    monkeypatch.setattr(soak, "soak", lambda minutes, first, done: line(3.5))
    assert soak.main([]) == 0


def test_a_failure_names_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(seed: int, done: object) -> None:
        raise AssertionError("not the oracle's")

    monkeypatch.setattr(soak, "operate", fail)
    with pytest.raises(AssertionError, match="not the oracle's"):
        soak.main(["--seed", "7"])
    assert "failed in the round of --seed 7" in capsys.readouterr().err
