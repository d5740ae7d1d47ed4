"""One job's way to its end, turn by turn: a step, with what is due after it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from trainer.job import Job
from trainer.log import MetricsLog
from trainer.progress import JobView


@dataclass
class StopSignal:
    """Set by Ctrl-C or SIGTERM; looked at between turns."""

    number: int | None = None


@contextmanager
def stop_on_signal() -> Iterator[StopSignal]:
    """Notes SIGINT and SIGTERM instead of dying of them; a second one acts at once."""
    stop = StopSignal()

    def note(number: int, _: FrameType | None) -> None:
        stop.number = number
        restore()

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in handled}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield stop
    finally:
        restore()


def turns(job: Job, log: MetricsLog, view: JobView) -> Iterator[bool]:
    """Trains `job` from where it stands; yields after each turn whether a checkpoint is due.

    Between two turns the job may wait, be saved, or be dropped. Raises NonFiniteLossError.
    """
    settings = job.config.loop
    validate_every = settings.validate_every or job.steps_per_epoch
    checkpoint_every = settings.checkpoint_every or validate_every

    def validate() -> None:
        if job.has_validation:
            loss = job.validate()
            metrics = job.validation_metrics[job.step]
            elapsed_s = round(job.elapsed_s, 3)
            log.write("validation", step=job.step, loss=loss, **metrics, elapsed_s=elapsed_s)
            view.validated(job.step, loss, metrics)

    for note in job.notes:
        view.note(note)
    if job.step == 0 and not job.validation_losses:
        # Not again where a run goes on that was killed before its first step.
        if job.mixture and log.is_empty:
            shown = {f"per_epoch/{name}": count for name, count in job.mixture.items()}
            log.write("mixture", step=0, **shown)
        validate()
        yield True
    while not job.finished:
        report = job.train_step()
        log.write(
            "train",
            step=report.step,
            loss=report.loss,
            learning_rate=report.learning_rate,
            gradient_norm=report.gradient_norm,
            tokens=report.num_tokens,
            tokens_per_s=round(report.num_tokens / max(report.time_s, 1e-9), 1),
            elapsed_s=round(job.elapsed_s, 3),
        )
        view.stepped(report)
        if job.finished or job.step % validate_every == 0:
            validate()
        if job.stopped_early:
            view.note(_why_early(job))
        yield job.finished or job.step % checkpoint_every == 0


def _why_early(job: Job) -> str:
    settings = job.config.loop
    assert job.best is not None
    best = job.best.loss
    if settings.metric != "loss":
        best = job.validation_metrics[job.best.step][settings.metric]
    return (
        f"stopped early after step {job.step}: {settings.metric} did not get better in "
        f"{settings.patience} validations; best {best:.4f} after step {job.best.step}"
    )
