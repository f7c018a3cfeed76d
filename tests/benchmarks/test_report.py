from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.learning import Learned
from benchmarks.picture import Bar, draw, ratio_bars
from benchmarks.report import Figure, Report
from benchmarks.timing import Summary


@pytest.fixture
def report() -> Report:
    figure = Figure("SFT", "tokens/s", {"ours": [30.0, 10.0, 20.0], "trl": [10.0, 10.0, 10.0]}, ("ours", "trl"))
    alone = Figure("memory", "MB", {"ours": [5.0]})
    return Report("loop", {"size": "tiny"}, 2, [figure, alone], {"both learn": True})


def test_the_table_shows_median_range_and_ratio(report: Report) -> None:
    first, second, check = report.text().splitlines()
    assert first.split("  ")[0] == "SFT, tokens/s"
    assert "ours 20.0 [10.0, 30.0]" in first
    assert first.endswith("ours / trl = 2.00 [1.00, 3.00]")
    assert second.split() == ["memory,", "MB", "ours", "5.00"]
    assert check == "holds: both learn"


def test_the_json_holds_every_value_and_where_it_comes_from(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "new" / "loop.json")
    written = json.loads((tmp_path / "new" / "loop.json").read_text())
    figure = written["figures"][0]
    assert figure["values"] == {"ours": [30.0, 10.0, 20.0], "trl": [10.0, 10.0, 10.0]}
    assert figure["summaries"]["ours"] == {"low": 10.0, "median": 20.0, "high": 30.0, "count": 3}
    assert figure["ratio"] == {"low": 1.0, "median": 2.0, "high": 3.0, "count": 3}
    assert written["figures"][1]["ratio"] is None
    assert written["checks"] == {"both learn": True}
    assert written["machine"]["threads"] == 2
    assert written["versions"]["torch"].startswith("2.")


def test_company_is_noted_and_none_is_not(report: Report) -> None:
    report.note_company([0.01, None])
    assert report.notes == []
    report.note_company([0.01, 0.8])
    assert "up to 0.8 cores" in report.text()


def test_what_does_not_hold_is_said(report: Report) -> None:
    assert report.holds
    report.checks["the same tokens"] = False
    assert not report.holds
    assert "DOES NOT HOLD: the same tokens" in report.text()


def test_a_picture_is_well_formed_and_to_scale(report: Report) -> None:
    bars = [*ratio_bars(report.figures), Bar("a < b & c", Summary(2.0, 4.0, 6.0, 3))]
    assert [bar.mark for bar in bars] == [1.0, None]
    tree = ElementTree.fromstring(draw("loop, tiny", bars))
    space = {"svg": "http://www.w3.org/2000/svg"}
    widths = [float(box.attrib["width"]) for box in tree.findall(".//svg:rect[@x]", space)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert "a < b & c" in [text.text for text in tree.findall(".//svg:text", space)]


@pytest.mark.parametrize(
    ("start", "ours", "theirs", "higher", "verdict"),
    [
        (50.0, [70.0, 74.0], [73.0, 75.0], True, "same"),  # 2 apart, up to 9.6 by the seeds alone
        (0.0, [3.2, 3.3, 3.25, 3.28], [3.5, 3.4, 3.45, 3.47], True, "less"),  # 0.2 apart, up to 0.07
        (0.0, [0.6, 0.7], [0.78, 0.82], True, "same"),  # 0.15 apart, up to 0.23: two seeds know little
        (50.0, [60.0, 61.0], [73.0, 75.0], True, "less"),
        (50.0, [80.0, 81.0], [73.0, 75.0], True, "more"),
        (90.0, [60.0, 61.0], [73.0, 75.0], False, "more"),
        (50.0, [73.4, 73.4], [74.0, 74.0], True, "same"),  # no spread, but within 3 % of the way from 50
        (50.0, [73.2, 73.2], [74.0, 74.0], True, "less"),
        (50.0, [50.0, 50.0], [50.0, 50.0], True, "void"),  # nobody learns
        (-0.7, [-0.9, -0.6], [-0.6, -0.55], True, "void"),  # one seed of ours gets worse
        (50.0, [60.0, 61.0], [50.5, 50.0], True, "void"),  # they learn nothing
        (50.0, [51.0, 54.0], [54.0, 54.5], True, "void"),  # the worst seed gains 1, the seeds are 3 apart
        (4.0, [5.0, 5.0], [5.0, 5.0], False, "void"),  # both get worse alike
        (50.0, [70.0, float("nan")], [70.0, 71.0], True, "void"),
        (50.0, [72.0], [74.0], True, "unknown"),  # one seed has no spread
    ],
)
def test_learning_the_same_is_within_the_spread_over_seeds(
    start: float, ours: list[float], theirs: list[float], higher: bool, verdict: str
) -> None:
    learned = Learned("accuracy", start, ours, theirs, higher)
    assert learned.verdict == verdict
    assert learned.row()["verdict"] == verdict
    assert (learned.row()["noise"] is None) == (len(ours) < 2 or not all(map(math.isfinite, ours)))
