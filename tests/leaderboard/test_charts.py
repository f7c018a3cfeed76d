from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from harness.leaderboard.charts import _ticks, curve_panels, interval_bar
from harness.leaderboard.legend import decimals, explain
from harness.leaderboard.table import FIRST_COLUMNS, LAST_COLUMNS
from harness.types import Interval


def test_the_bar_is_to_scale() -> None:
    svg = ElementTree.fromstring(interval_bar(Interval(50, 25, 75), (0.0, 100.0), label="<b>", before=0.0, mark=50.0))
    width, pad = float(svg.attrib["width"]), 6.0
    dots = {dot.attrib["class"]: float(dot.attrib["cx"]) for dot in svg.iter("circle")}
    assert dots == {"before": pad, "after": width / 2}
    whisker = next(line for line in svg.iter("line") if line.attrib["class"] == "whisker")
    quarter = (width - 2 * pad) / 4
    assert float(whisker.attrib["x1"]) == pytest.approx(pad + quarter)
    assert float(whisker.attrib["x2"]) == pytest.approx(pad + 3 * quarter)


def test_a_value_off_the_scale_is_an_arrowhead() -> None:
    svg = ElementTree.fromstring(interval_bar(Interval(-5, -6, -4), (0.0, 100.0), label=""))
    assert [child.tag for child in svg] == ["path"]
    # A scale of one point still draws.
    assert "circle" in interval_bar(Interval(3, 3, 3), (3.0, 3.0), label="")


def test_panels_draw_one_line_per_seed_and_series() -> None:
    points = [
        {"series": name, "sqrt_kl": x, "value": y} for name in ("gold", "bon_gold") for x, y in ((2, 1.0), (0, 0.0))
    ]
    drawn = curve_panels([(1, points), (2, points)])  # type: ignore[arg-type]
    figure = ElementTree.fromstring(drawn)
    lines = [line.attrib["points"].split() for line in figure.iter("polyline")]
    assert len(lines) == 4
    for line in lines:
        (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line)
        assert x0 < x1  # sorted by KL, whatever the record's order
        assert y0 > y1  # higher values are higher on the page
    assert len(re.findall("<title>bon_gold, seed", drawn)) == 2
    assert curve_panels([]) == ""
    assert curve_panels([(1, [{"series": "gold", "sqrt_kl": 0.0, "value": 2.0}])]).count("<circle") == 1


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 7.9), (2.4501, 2.4502), (0, 1e6), (5, 5), (0, 0), (-1e-12, 0)]
)
def test_ticks_enclose_their_range(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert ticks == sorted(set(ticks))


def test_every_column_is_explained() -> None:
    metrics = [f"{name}_{cell}" for name in ("bleu", "gold", "meteor") for cell in ("before", "delta", "delta_high")]
    for column in (*FIRST_COLUMNS, *metrics, *LAST_COLUMNS):
        assert explain(column)
        assert decimals(column) in (0, 1, 2)
    assert "Extra metric meteor" in explain("meteor_delta_low")
    assert "lower end" in explain("meteor_delta_low")
