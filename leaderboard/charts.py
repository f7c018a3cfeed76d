"""Small inline SVG drawings: an interval beside a number, and curves against the square root of the KL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape

from harness.records import CurvePoint
from harness.types import Interval

_BAR_WIDTH, _BAR_HEIGHT, _PAD = 84, 14, 6
_WIDTH, _HEIGHT = 300, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34


def interval_bar(
    interval: Interval,
    scale: tuple[float, float],
    *,
    label: str,
    before: float | None = None,
    mark: float | None = None,
) -> str:
    """A dot with its interval as a line, on a scale that a whole column shares.

    Args:
        interval: the estimate and its ends.
        scale: the column's lowest and highest value; an estimate outside is an arrowhead at that end.
        label: what a screen reader says.
        before: drawn as a hollow dot, where there is one.
        mark: a value that gets a thin vertical line (50 for win rates).
    """
    low, high = scale
    span = (high - low) or 1.0

    def x(value: float) -> float:
        share = min(max((value - low) / span, 0.0), 1.0)
        return round(_PAD + share * (_BAR_WIDTH - 2 * _PAD), 1)

    middle = _BAR_HEIGHT / 2
    parts = []
    if mark is not None and low <= mark <= high:
        parts.append(f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="0" y2="{_BAR_HEIGHT}"/>')
    if before is not None:
        parts.append(f'<line class="move" x1="{x(before)}" x2="{x(interval.estimate)}" y1="{middle}" y2="{middle}"/>')
    if not low <= interval.estimate <= high:
        parts.append(_off_scale(middle, left=interval.estimate < low))
        return _bar(parts, label)
    ends = x(interval.low), x(interval.high)
    parts.append(f'<line class="whisker" x1="{ends[0]}" x2="{ends[1]}" y1="{middle}" y2="{middle}"/>')
    for end in ends:
        parts.append(f'<line class="whisker" x1="{end}" x2="{end}" y1="{middle - 3}" y2="{middle + 3}"/>')
    if before is not None:
        parts.append(f'<circle class="before" cx="{x(before)}" cy="{middle}" r="3"/>')
    parts.append(f'<circle class="after" cx="{x(interval.estimate)}" cy="{middle}" r="3.2"/>')
    return _bar(parts, label)


def _bar(parts: Sequence[str], label: str) -> str:
    size = f'width="{_BAR_WIDTH}" height="{_BAR_HEIGHT}" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}"'
    return f'<svg class="bar" {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _off_scale(middle: float, *, left: bool) -> str:
    tip, base = (1, 7) if left else (_BAR_WIDTH - 1, _BAR_WIDTH - 7)
    return f'<path class="after" d="M{tip} {middle}L{base} {middle - 4}V{middle + 4}Z"/>'


def curve_panels(curves: Sequence[tuple[int, Sequence[CurvePoint]]]) -> str:
    """One panel per measurement (proxy, judge, gold), each on its own scale, a line per seed and per method.

    The policy's line is solid; best-of-n's (series ``bon_<measurement>``) is dashed.

    Args:
        curves: per seed, the record's curve points.
    """
    panels: dict[str, list[tuple[int, str, list[CurvePoint]]]] = defaultdict(list)
    for seed, points in curves:
        lines: dict[str, list[CurvePoint]] = defaultdict(list)
        for point in points:
            if math.isfinite(point["sqrt_kl"]) and math.isfinite(point["value"]):
                lines[point["series"]].append(point)
        for series, line in lines.items():
            panels[series.removeprefix("bon_")].append((seed, series, sorted(line, key=lambda point: point["sqrt_kl"])))
    order = {"proxy": 0, "judge": 1, "gold": 2}
    names = sorted(panels, key=lambda name: (order.get(name, len(order)), name))
    widest = max((point["sqrt_kl"] for panel in panels.values() for _, _, line in panel for point in line), default=1.0)
    return "".join(_panel(name, panels[name], widest) for name in names)


def _panel(name: str, lines: Sequence[tuple[int, str, list[CurvePoint]]], widest: float) -> str:
    values = [point["value"] for _, _, line in lines for point in line]
    ticks_x, ticks_y = _ticks(0.0, widest or 1.0), _ticks(min(values), max(values))
    (left, right), (bottom, top) = (ticks_x[0], ticks_x[-1]), (ticks_y[0], ticks_y[-1])

    def x(value: float) -> float:
        return round(_LEFT + (value - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (top - value) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = []
    for tick in ticks_y:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(tick) + 3.5}" text-anchor="end">{tick:g}</text>')
    for tick in ticks_x:
        parts.append(f'<text x="{x(tick)}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">√KL (nats)</text>')
    for seed, series, line in lines:
        style = "line bon" if series.startswith("bon_") else "line"
        path = " ".join(f"{x(point['sqrt_kl'])},{y(point['value'])}" for point in line)
        title = f"<title>{escape(series)}, seed {seed}</title>"
        dots = "".join(f'<circle cx="{x(p["sqrt_kl"])}" cy="{y(p["value"])}" r="1.8"/>' for p in line)
        parts.append(f'<g class="{style} {_kind(name)}">{title}<polyline points="{path}"/>{dots}</g>')
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    about = escape(f"{name} against the square root of the KL, from {min(values):.3g} to {max(values):.3g}")
    chart = f'<svg class="chart" {size} role="img" aria-label="{about}">{"".join(parts)}</svg>'
    return f'<figure class="panel"><figcaption>{escape(name)}</figcaption>{chart}</figure>'


def _kind(name: str) -> str:
    return name if name in ("proxy", "judge", "gold") else "other"


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers that enclose a range.

    >>> _ticks(0.0, 4.7)
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
