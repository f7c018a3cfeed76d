"""Ratios as a drawing: one bar per figure to its median, a line from the lowest round to the highest. Plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from benchmarks.report import Figure, shown
from benchmarks.timing import Summary

_LABEL, _PLOT, _VALUE, _ROW, _TOP, _BOTTOM = 290, 320, 150, 26, 34, 26


class Bar(NamedTuple):
    """One row of the drawing; ``mark``: a value of its own that it is to be seen against."""

    label: str
    summary: Summary
    mark: float | None = None


def ratio_bars(figures: Sequence[Figure]) -> list[Bar]:
    """A bar for each figure that has a ratio, marked at 1."""
    return [
        Bar(f"{figure.name} ({figure.unit}), {figure.of[0]} / {figure.of[1]}", ratio, 1.0)
        for figure in figures
        if (ratio := figure.ratio) is not None and figure.of is not None
    ]


def draw(title: str, bars: Sequence[Bar]) -> str:
    """An SVG document that needs no style sheet and reads on white and on dark."""
    widest = max(max(bar.summary.high, bar.mark or 0.0) for bar in bars)
    height = _TOP + _ROW * len(bars) + _BOTTOM
    width = _LABEL + _PLOT + _VALUE

    def x(value: float) -> float:
        return round(_LABEL + _PLOT * value / widest, 1)

    parts = [f'<text x="10" y="20" font-weight="bold">{escape(title)}</text>']
    for number, bar in enumerate(bars):
        middle = _TOP + _ROW * number + _ROW / 2
        low, median, high = (x(value) for value in (bar.summary.low, bar.summary.median, bar.summary.high))
        parts += [
            f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{_LABEL}" y="{middle - 7}" width="{round(median - _LABEL, 1)}" height="14" fill="#4a7fb5"/>',
            f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}" stroke="#1d3450" stroke-width="2"/>',
            f'<text x="{max(high, median) + 8}" y="{middle + 4}">{escape(shown(bar.summary))}</text>',
        ]
        if bar.mark is not None:
            mark, ends = x(bar.mark), f'y1="{middle - 11}" y2="{middle + 11}"'
            parts.append(f'<line x1="{mark}" x2="{mark}" {ends} stroke="#c0392b" stroke-width="1.5"/>')
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12" fill="#24292f"'
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    about = escape(f"{title}: " + "; ".join(f"{bar.label} {shown(bar.summary)}" for bar in bars))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{about}">'
        f"{ground}<g {style}>{''.join(parts)}</g></svg>\n"
    )
