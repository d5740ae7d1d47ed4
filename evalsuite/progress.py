"""The progress of a run, on stderr, with rate and time left: a bar, or a line now and then."""

import sys
import time
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from evalsuite.runner import Progress

_SECONDS_BETWEEN_LINES = 30.0


class _RateColumn(progress.ProgressColumn):
    """Requests per second and the time left at that rate."""

    def render(self, task: progress.Task) -> str:
        """`12.3/s, 0:01:10 left`, once known."""
        return str(task.fields["rate"])


class ProgressBar(Progress):
    """Shows a run's progress. Use as a context manager.

    The rate is that of answers asked for: those found in the log take no time and tell nothing
    about what is left. Where stderr is no terminal, a line is printed every half minute.
    """

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._is_terminal = console.is_terminal
        self._bar = progress.Progress(
            progress.TextColumn("asking"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            _RateColumn(),
            console=console,
            disable=not self._is_terminal,
        )
        self._task = self._bar.add_task("asking", total=None, rate="")
        self._total = self._done = self._asked = 0
        self._started_s: float | None = None
        self._told_s = time.monotonic()

    def start(self, total: int) -> None:
        """Shows that `total` outcomes are wanted."""
        self._total = total
        self._bar.update(self._task, total=total)

    def advance(self, asked: bool) -> None:
        """One more outcome is there."""
        self._done += 1
        if asked:
            self._asked += 1
            if self._started_s is None:
                # The first answer starts the clock.
                self._started_s = time.monotonic()
        if self._is_terminal:
            self._bar.update(self._task, advance=1, rate=self._rate())
        elif time.monotonic() - self._told_s > _SECONDS_BETWEEN_LINES:
            self._told_s = time.monotonic()
            print(f"evalsuite: {self._done} of {self._total}, {self._rate()}", file=sys.stderr)

    def _rate(self) -> str:
        if self._started_s is None:
            return ""
        rate = (self._asked - 1) / max(1e-9, time.monotonic() - self._started_s)
        if rate <= 0:
            return ""
        left = int((self._total - self._done) / rate)
        return f"{rate:.1f}/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

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
