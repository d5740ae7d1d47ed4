"""The run's log on disk: `metrics.jsonl`, and a plot of the losses."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.errors import CheckpointError


class MetricsLog:
    """Appends one JSON object per line; each survives a crash of the process at once."""

    def __init__(self, path: Path, num_bytes: int = 0) -> None:
        """Opens `path` after its first `num_bytes` bytes; what follows belongs to a lost part.

        Raises CheckpointError if there are fewer.
        """
        self._file = path.open("ab")
        if self._file.tell() < num_bytes:
            self._file.close()
            raise CheckpointError(f"{path}: shorter than when the checkpoint was written")
        self._file.truncate(num_bytes)

    def write(self, event: str, **values: float) -> None:
        """Appends `{"event": event, ...}`."""
        self._file.write(json.dumps({"event": event, **values}).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Makes the log survive a crash of the machine; returns its length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plot_losses(records: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draws training and validation loss over steps into a PNG file."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for event, label, style in (("train", "training", "-"), ("validation", "validation", "o-")):
        points = [(r["step"], r["loss"]) for r in records if r["event"] == event]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, style, label=label, linewidth=1, markersize=4)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per completion token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.print_png(str(path))
