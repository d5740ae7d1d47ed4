"""The progress bar of a run, on stderr, with rate and time left."""

import sys
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from evalsuite.runner import Progress


class _RateColumn(progress.ProgressColumn):
    """Requests per second."""

    def render(self, task: progress.Task) -> str:
        """`12.3/s`, once known."""
        speed = task.finished_speed or task.speed
        return "" if speed is None else f"{speed:.1f}/s"


class ProgressBar(Progress):
    """Shows a run's progress. Use as a context manager."""

    def __init__(self) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("asking"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            _RateColumn(),
            progress.TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._task = self._bar.add_task("asking", total=None)

    def start(self, total: int, done: int) -> None:
        """Shows `total` requests, of which `done` are answered already."""
        self._bar.update(self._task, total=total, completed=done)

    def advance(self) -> None:
        """One more request is done."""
        self._bar.advance(self._task)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
