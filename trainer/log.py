"""The run's log on disk: `metrics.jsonl`, and a plot of the losses."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer import writing
from trainer.errors import CheckpointError, OutputError

# The training loss is averaged over this part of the run.
SMOOTHED_PARTS = 20


class MetricsLog:
    """Appends one JSON object per line; each survives a crash of the process at once."""

    def __init__(self, path: Path, num_bytes: int = 0) -> None:
        """Opens `path` after its first `num_bytes` bytes; what follows belongs to a lost part.

        Raises CheckpointError if there are fewer.
        """
        self._path = path
        # Unbuffered: what a full disk refuses is not tried again when the file is closed.
        self._file = path.open("ab", buffering=0)
        if self._file.tell() < num_bytes:
            self._file.close()
            raise CheckpointError(f"{path}: shorter than when the checkpoint was written")
        self._file.truncate(num_bytes)
        # Truncating leaves the position behind the end, and `sync` would tell of bytes not there.
        self._file.seek(num_bytes)
        self.also: Callable[[str, int, dict[str, float]], None] | None = None
        """Called with event, step and values of each line."""

    def write(self, event: str, *, step: int, **values: float) -> None:
        """Appends `{"event": event, "step": step, ...}`; what is not finite is null. Raises
        OutputError."""
        line = writing.json_line({"event": event, "step": step, **values}).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise OutputError.of(self._path, error) from error
        if self.also is not None:
            self.also(event, step, values)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written, or is left of an earlier part."""
        return self._file.tell() == 0

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
    """The records of a log, in order; null, which was no finite number, is NaN."""
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [
        {key: math.nan if value is None else value for key, value in record.items()}
        for record in records
    ]


def plot_losses(records: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draws training and validation loss over steps into a PNG file.

    Batches hold examples of like length, so the loss of single steps goes up and down with it; the
    plain line is their mean over the steps before.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    train = [(r["step"], r["loss"]) for r in records if r["event"] == "train"]
    validation = [(r["step"], r["loss"]) for r in records if r["event"] == "validation"]
    if train:
        steps, losses = zip(*train, strict=True)
        window = max(1, len(losses) // SMOOTHED_PARTS)
        smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")
        axes.plot(steps, losses, color="tab:blue", linewidth=0.7, alpha=0.3)
        axes.plot(steps[window - 1 :], smooth, color="tab:blue", label="training")
    if validation:
        steps, losses = zip(*validation, strict=True)
        axes.plot(steps, losses, "o-", color="tab:orange", label="validation", markersize=4)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per completion token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.print_png(str(path))
