"""What a person sees while a run goes on: a bar, and a line per validation, on stderr."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trainer.job import Job, StepReport

# Weight of the newest step in the smoothed loss and speed.
SMOOTHING = 0.1


class ProgressView:
    """Shows the progress of one job. Off a terminal only the lines are printed."""

    def __init__(self, job: Job, quiet: bool = False) -> None:
        """`quiet` prints nothing."""
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            job.config.name, total=job.num_steps, completed=job.step, loss=float("nan"), speed=0.0
        )
        self._num_steps = job.num_steps
        self._loss: float | None = None
        self._speed = 0.0

    def stepped(self, report: StepReport) -> None:
        """Moves the bar on."""
        speed = report.num_tokens / max(report.time_s, 1e-9)
        if self._loss is None:
            self._loss, self._speed = report.loss, speed
        self._loss += SMOOTHING * (report.loss - self._loss)
        self._speed += SMOOTHING * (speed - self._speed)
        self._progress.update(self._task, completed=report.step, loss=self._loss, speed=self._speed)

    def note(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text)

    def validated(self, step: int, loss: float) -> None:
        """Prints a validation loss."""
        text = f"step {step}/{self._num_steps}: validation loss {loss:.4f}"
        if self._loss is not None:
            text += f", training loss {self._loss:.4f}, {self._speed:,.0f} tokens/s"
        self._console.print(text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""
        self._progress.stop()
