"""What a person sees while a run goes on: a bar, and a line per validation, on stderr."""

from collections.abc import Mapping
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

from trainer.job import StepReport

# Weight of the newest step in the smoothed loss and speed.
SMOOTHING = 0.1


class JobView:
    """Shows the progress of one job: its bar, and a line per validation."""

    def __init__(self, view: "ProgressView", name: str, num_steps: int, step: int) -> None:
        """`step` of `num_steps` are done."""
        self._view = view
        self._name = name
        self._num_steps = num_steps
        self._task = view.progress.add_task(
            name, total=num_steps, completed=step, loss=float("nan"), speed=0.0
        )
        self._loss: float | None = None
        self._speed = 0.0

    def stepped(self, report: StepReport) -> None:
        """Moves the bar on."""
        speed = report.num_tokens / max(report.time_s, 1e-9)
        if self._loss is None:
            self._loss, self._speed = report.loss, speed
        self._loss += SMOOTHING * (report.loss - self._loss)
        self._speed += SMOOTHING * (speed - self._speed)
        self._view.progress.update(
            self._task, completed=report.step, loss=self._loss, speed=self._speed
        )

    def note(self, text: str) -> None:
        """Prints a line."""
        self._view.print(self._name, text)

    def validated(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
        """Prints a validation loss, and what was measured beside it."""
        text = f"step {step}/{self._num_steps}: validation loss {loss:.4f}"
        text += "".join(f", {name} {value:.4f}" for name, value in metrics.items())
        if self._loss is not None:
            text += f", training loss {self._loss:.4f}, {self._speed:,.0f} tokens/s"
        self._view.print(self._name, text)


class ProgressView:
    """Shows the progress of a run's jobs. Off a terminal only the lines are printed."""

    def __init__(self, quiet: bool = False) -> None:
        """`quiet` prints nothing."""
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._num_jobs = 0
        self.progress = Progress(
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

    def add(self, name: str, num_steps: int, step: int) -> JobView:
        """A bar for a job, of whose `num_steps` `step` are done."""
        self._num_jobs += 1
        return JobView(self, name, num_steps, step)

    def print(self, name: str, text: str) -> None:
        """Prints a line about a job, which it names if there are several."""
        prefix = f"{name}: " if self._num_jobs > 1 else ""
        self._console.print(prefix + text, markup=False)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""
        self.progress.stop()
