"""Held-out examples among the training examples."""

from trainer.errors import DataError
from trainer.preflight.split import Split


def check_no_leak(split: Split) -> None:
    """Raises DataError if a held-out example asks what a training example asks."""
    seen = {example.content: example.where for example in split.train}
    for part in ("validation", "test"):
        leaks = [(e.where, seen[e.content]) for e in getattr(split, part) if e.content in seen]
        if leaks:
            held, trained = leaks[0]
            raise DataError(
                f"{held}: same prompt as training example {trained} ({len(leaks)} such {part} "
                "rows); remove them from one of the two"
            )
