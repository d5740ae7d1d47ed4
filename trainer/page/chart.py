"""Line charts as inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34
# More points than this are averaged: the chart has no more columns to show them.
MAX_POINTS = 400
NUM_TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve. `style` is a class of the style sheet: `raw`, `main` or `other`."""

    name: str
    points: Sequence[Point]
    style: str
    dots: bool = False
    """Whether each point is marked, with its value to be read under the pointer."""


def chart(lines: Sequence[Line], mark: float | None = None, mark_name: str = "") -> str:
    """An SVG element; `mark` is a step to draw a line at. Empty without points.

    Points that are not finite are left out.
    """
    finite = [replace(one, points=[p for p in one.points if math.isfinite(p[1])]) for one in lines]
    drawn = [line for line in finite if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs), whole=True), _ticks(min(ys), max(ys))
    left, right = min(xs), max(max(xs), min(xs) + 1)
    low, high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left)
        up = (y - low) / (high - low)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for y in y_ticks:
        _, row = place(left, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row}" y2="{row}"/>')
        parts.append(f'<text class="y" x="{LEFT - 7}" y="{row + 4}">{_number(y, high)}</text>')
    for x in x_ticks:
        if left <= x <= right:
            column, _ = place(x, low)
            parts.append(
                f'<text class="x" x="{column}" y="{HEIGHT - 14}">{_number(x, right)}</text>'
            )
    if mark is not None and left <= mark <= right:
        column, _ = place(mark, low)
        parts.append(
            f'<line class="mark" x1="{column}" x2="{column}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
            f"<title>{escape(mark_name)}</title></line>"
        )
    for line in drawn:
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in thin(line.points)))
        parts.append(f'<polyline class="{line.style}" points="{path}"/>')
        if line.dots:
            for x, y in line.points:
                column, row = place(x, y)
                text = f"{line.name} {y:.4g} after step {x:g}"
                parts.append(
                    f'<circle class="{line.style}" cx="{column}" cy="{row}" r="3.5">'
                    f"<title>{escape(text)}</title></circle>"
                )
    parts.append("</svg>")
    return "".join(parts)


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points: means over stretches of equal length."""
    if len(points) <= MAX_POINTS:
        return list(points)
    stretches = np.array_split(np.array(points, dtype=float), MAX_POINTS)
    return [(float(s[:, 0].mean()), float(s[:, 1].mean())) for s in stretches]


def smooth(points: Sequence[Point], parts: int = 20) -> list[Point]:
    """Each point the mean of those over a `parts`-th of the run before it."""
    if not points:
        return []
    window = max(1, len(points) // parts)
    values = np.array([y for _, y in points])
    means = np.convolve(values, np.full(window, 1 / window), mode="valid")
    return [(x, float(y)) for (x, _), y in zip(points[window - 1 :], means, strict=True)]


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0) * (1 if whole else 0.1)
    raw = (high - low) / NUM_TICKS
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _number(value: float, highest: float) -> str:
    """A tick's text, in powers of ten where the whole axis is small or large."""
    if value and (abs(highest) < 2e-3 or abs(highest) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+").replace(".0e", "e")
    return f"{value:,.6g}"
