"""The training loop: steps, validations and checkpoints, until all steps are done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from trainer import checkpoint
from trainer.errors import InterruptedRunError
from trainer.job import Job
from trainer.log import MetricsLog
from trainer.progress import ProgressView


@dataclass
class StopSignal:
    """Set by Ctrl-C or SIGTERM; looked at between steps."""

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


def run(
    job: Job,
    log: MetricsLog,
    view: ProgressView,
    checkpoint_path: Path,
    identity: checkpoint.Identity,
    stop: StopSignal,
) -> None:
    """Trains `job` to its end, from where it stands.

    Raises NonFiniteLossError, or InterruptedRunError after saving a checkpoint.
    """
    settings = job.config.loop
    validate_every = settings.validate_every or job.steps_per_epoch
    checkpoint_every = settings.checkpoint_every or validate_every

    def validate() -> None:
        if job.has_validation:
            loss = job.validate()
            log.write("validation", step=job.step, loss=loss, elapsed_s=round(job.elapsed_s, 3))
            view.validated(job.step, loss)

    def save() -> None:
        checkpoint.save(checkpoint_path, identity, job.state(), log.sync())

    for note in job.notes:
        view.note(note)
    if job.step == 0 and not job.validation_losses:
        validate()
        save()
    while not job.finished:
        if stop.number is not None:
            save()
            raise InterruptedRunError(stop.number, job.step)
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
        if job.finished or job.step % checkpoint_every == 0:
            save()
