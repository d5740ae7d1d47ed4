"""Plots as SVG text, without a library: they stand inside a page and follow its colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 560
_LABEL = 170
_RIGHT = 64
_ROW = 24
_PAD = 8
_TOP = 8
_AXIS = 26


@dataclass(frozen=True)
class Dot:
    """A value with its interval."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    kind: str
    """A CSS class: `base`, `trivial`, `adapter`, `gain`, `loss`, `unclear`."""


def dot_plot(title: str, dots: Sequence[Dot], zero: bool = False) -> str:
    """One line per dot, on a common axis; `zero` draws a line at 0. Empty without any value."""
    known = [
        bound
        for dot in dots
        for bound in (dot.value, dot.low, dot.high)
        if bound is not None and math.isfinite(bound)
    ]
    if not known:
        return ""
    low, high = min([*known, 0.0] if zero else known), max([*known, 0.0] if zero else known)
    marks = ticks(low, high)
    low, high = min(low, marks[0]), max(high, marks[-1])
    span = _WIDTH - _LABEL - _RIGHT - 2 * _PAD

    def x(value: float) -> float:
        return round(_LABEL + _PAD + span * (value - low) / (high - low), 1)

    height = _TOP + _ROW * len(dots) + _AXIS
    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
    ]
    bottom = _TOP + _ROW * len(dots)
    for mark in marks:
        style = "zero" if zero and mark == 0 else "grid"
        parts.append(f'<line class="{style}" x1="{x(mark)}" x2="{x(mark)}" y1="0" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(mark)}" y="{bottom + 16}">{mark:g}</text>')
    for index, dot in enumerate(dots):
        y = _TOP + _ROW * index + _ROW / 2
        parts.append(
            f'<text class="label" x="{_LABEL - 10}" y="{y + 4}">{escape(_short(dot.label))}'
            f"<title>{escape(dot.label)}</title></text>"
        )
        if dot.value is None:
            parts.append(f'<text class="tick" x="{_LABEL + 8}" y="{y + 4}">unscored</text>')
            continue
        if dot.low is not None and dot.high is not None:
            parts.append(
                f'<line class="bar {dot.kind}" x1="{x(dot.low)}" x2="{x(dot.high)}" '
                f'y1="{y}" y2="{y}"/>'
            )
        parts.append(f'<circle class="dot {dot.kind}" cx="{x(dot.value)}" cy="{y}" r="4.5"/>')
        parts.append(
            f'<text class="value" x="{_WIDTH - 4}" y="{y + 4}">'
            f"{'+' if zero and dot.value > 0 else ''}{shown(dot.value)}</text>"
        )
    return "".join([*parts, "</svg>"])


_SIDE, _EDGE = 220, 30


def reliability_plot(title: str, lines: Sequence[Mapping[str, float]]) -> str:
    """Accuracy over confidence, a dot per bin with its interval; the diagonal is calibrated."""

    def at(x: float, y: float) -> tuple[float, float]:
        return round(_EDGE + _SIDE * x, 1), round(_TOP + _SIDE * (1 - y), 1)

    (left, bottom), (right, top) = at(0, 0), at(1, 1)
    parts = [
        f'<svg class="plot square" viewBox="0 0 {_SIDE + 2 * _EDGE} {_SIDE + _TOP + _AXIS}" '
        f'role="img" aria-label="{escape(title, quote=True)}">',
        f'<line class="grid" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>',
        f'<line class="grid" x1="{left}" y1="{bottom}" x2="{left}" y2="{top}"/>',
        f'<line class="zero" x1="{left}" y1="{bottom}" x2="{right}" y2="{top}"/>',
    ]
    for mark in (0, 0.5, 1):
        x, y = at(mark, mark)
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}">{mark:g}</text>')
        parts.append(f'<text class="label" x="{left - 4}" y="{y + 4}">{mark:g}</text>')
    for line in lines:
        (x, y), low, high = (
            at(line["confidence"], line["accuracy"]),
            at(0, line["ci_low"])[1],
            at(0, line["ci_high"])[1],
        )
        parts.append(f'<line class="bar adapter" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>')
        parts.append(
            f'<circle class="dot adapter" cx="{x}" cy="{y}" r="4"><title>'
            f"{line['num_samples']} samples, confidence {line['confidence']:.3f}, accuracy "
            f"{line['accuracy']:.3f}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers within an interval, or hardly outside; a point gets some room."""
    if high - low <= 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    raw = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.ceil(low / step - 0.1), math.floor(high / step + 0.1)
    return [round(step * number, 10) for number in range(first, last + 1)]


def shown(value: float) -> str:
    """A number as a reader wants it: three decimals at most, none that say nothing."""
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"
