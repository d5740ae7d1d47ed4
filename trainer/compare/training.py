"""Trains the methods of a comparison one after the other over one base in memory."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.compare.settings import Comparison, Entry
from trainer.errors import InterruptedRunError, TrainerError
from trainer.reuse import Done, finished, train_or_continue
from trainer.train import Bases


@dataclass(frozen=True)
class Trained:
    """One method's run."""

    entry: Entry
    done: Done | None
    """None if it failed."""
    error: str | None = None


def train_methods(
    comparison: Comparison, say: Callable[[str], None], *, quiet: bool
) -> list[Trained]:
    """Trains what is not trained yet; an interrupted run goes on.

    A method that cannot be trained on this base keeps its error and stops nobody else. Raises
    TrainerError if none can, and InterruptedRunError.
    """
    kept: Bases = {}
    trained: list[Trained] = []
    for number, entry in enumerate(comparison.entries, start=1):
        head = f"{number}/{len(comparison.entries)} {entry.label}"
        try:
            done = finished(entry.config)
            say(f"{head}: {'training' if done is None else 'trained already'}")
            done = done or train_or_continue(entry.config, kept, quiet=quiet)
            trained.append(Trained(entry, done))
        except InterruptedRunError:
            raise
        except TrainerError as error:
            say(f"{head}: {error}")
            trained.append(Trained(entry, None, str(error)))
    if all(found.done is None for found in trained):
        raise TrainerError(f"no method could be trained; the first: {trained[0].error}")
    return trained
