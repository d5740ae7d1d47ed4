"""The comparison as a picture: score by method, change elsewhere, score against size."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from trainer.compare.table import Change, Result, Score

# Labels of points within this factor of sizes, and share of all scores, would overlap.
_NEAR_SIZES, _NEAR_SCORES = 8.0, 0.05


def plot(result: Result, png: Path, svg: Path) -> None:
    """Draws the result into both files."""
    num_panels = 2 + len(result.others)
    height = 1.6 + 0.34 * (len(result.rows) + 1)
    figure = Figure(figsize=(4.2 * num_panels, max(height, 3.4)), layout="constrained")
    panels = figure.subplots(1, num_panels, squeeze=False)[0]
    _scores(panels[0], result)
    for panel, name in zip(panels[1:-1], result.others, strict=True):
        _changes(panel, result, name)
    _sizes(panels[-1], result)
    figure.suptitle(f"{result.name}: {result.base} ({result.quantization}), 95% intervals")
    FigureCanvasAgg(figure).print_png(str(png))
    # Without the date, so that the same numbers give the same file.
    FigureCanvasSVG(figure).print_svg(str(svg), metadata={"Date": None})


def _labels(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _scores(axes: Axes, result: Result) -> None:
    """Scores with intervals, the base's as a band behind them."""
    base = result.base_score
    if base.value is not None:
        axes.axvline(base.value, color="tab:gray", linestyle="--", linewidth=1, label="base")
        if base.ci_low is not None and base.ci_high is not None:
            axes.axvspan(base.ci_low, base.ci_high, color="tab:gray", alpha=0.15)
    for place, row in enumerate(result.rows):
        _bar(axes, place, row.score, "tab:blue")
    _labels(axes, [row.label for row in result.rows])
    axes.set_xlabel(f"{result.metric} on {result.task}")
    axes.legend(loc="lower right", fontsize=8)


def _changes(axes: Axes, result: Result, task: str) -> None:
    axes.axvline(0, color="tab:gray", linestyle="--", linewidth=1)
    for place, row in enumerate(result.rows):
        change = row.forgetting[task]
        _bar(axes, place, change, "tab:red" if change.finding == "loss" else "tab:blue")
    _labels(axes, [row.label for row in result.rows])
    axes.set_xlabel(f"change on {task} ({result.others[task]}, more is better)")


def _bar(axes: Axes, place: int, score: Score | Change, color: str) -> None:
    if score.value is None:
        return
    if score.ci_low is not None and score.ci_high is not None:
        axes.plot([score.ci_low, score.ci_high], [place, place], color=color, linewidth=1.5)
    axes.plot(score.value, place, "o", color=color, markersize=5)


def _sizes(axes: Axes, result: Result) -> None:
    points = [
        (row.num_parameters, row.score.value, row.label)
        for row in result.rows
        if row.score.value is not None
    ]
    spread = max((value for _, value, _ in points), default=0.0) - min(
        (value for _, value, _ in points), default=0.0
    )
    labelled: list[tuple[int, float]] = []
    for size, value, label in sorted(points):
        axes.plot(size, value, "o", color="tab:blue", markersize=5)
        # Where points lie close together, one label above the other.
        num_near = sum(
            size < _NEAR_SIZES * other and abs(value - height) <= _NEAR_SCORES * spread
            for other, height in labelled
        )
        axes.annotate(
            label, (size, value),
            textcoords="offset points", xytext=(4, 3 + 8 * num_near), fontsize=7,
        )  # fmt: skip
        labelled.append((size, value))
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.set_xlabel("trained parameters")
    axes.set_ylabel(result.metric)
