"""A sweep as a picture: how the best came about, and the score over each key."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.sweep.space import Range, Space

if TYPE_CHECKING:
    from trainer.sweep.result import TrialRow

_COLORS = {"complete": "tab:blue", "pruned": "tab:gray"}
_COLUMNS = 3


def plot(
    rows: Sequence["TrialRow"], best: "TrialRow", space: Space, metric: str, path: Path
) -> None:
    """Draws a panel for the order of trials and one for each key into a PNG file."""
    num_panels = 1 + len(space)
    num_lines = math.ceil(num_panels / _COLUMNS)
    num_columns = min(num_panels, _COLUMNS)
    figure = Figure(figsize=(4.4 * num_columns, 3.4 * num_lines), layout="constrained")
    panels: list[Any] = figure.subplots(num_lines, num_columns, squeeze=False).ravel().tolist()
    scored = [row for row in rows if row.score is not None and row.state in _COLORS]
    _points(panels[0], [float(row.number) for row in scored], scored, best)
    panels[0].set_xlabel("trial")
    for panel, (name, spec) in zip(panels[1:], space.items(), strict=False):
        values = [row.values[name] for row in scored]
        if isinstance(spec, Range):
            _points(panel, [float(value) for value in values], scored, best)  # type: ignore[arg-type]
            panel.set_xscale("log" if spec.log else "linear")
        else:
            _points(panel, [float(spec.index(value)) for value in values], scored, best)
            panel.set_xticks(range(len(spec)), [str(choice) for choice in spec])
        panel.set_xlabel(name)
    for panel in panels[num_panels:]:
        panel.set_visible(False)
    panels[0].set_ylabel(metric)
    panels[0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(str(path))


def _points(
    axes: Axes, places: Sequence[float], rows: Sequence["TrialRow"], best: "TrialRow"
) -> None:
    for state, color in _COLORS.items():
        chosen = [(x, row) for x, row in zip(places, rows, strict=True) if row.state == state]
        scores = [row.score or 0.0 for _, row in chosen]
        axes.plot([x for x, _ in chosen], scores, "o", color=color, markersize=5, label=state)
    place = next(x for x, row in zip(places, rows, strict=True) if row.number == best.number)
    score = best.score or 0.0
    axes.plot([place], [score], "o", color="tab:red", markersize=10, fillstyle="none", label="best")
    axes.grid(alpha=0.3)
