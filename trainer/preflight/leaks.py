"""The search for held-out examples among the training examples of a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.errors import DataError
from trainer.leakage import Finder, Report, TextHasher, decide, of_examples, of_files
from trainer.leakage.policy import Policy
from trainer.preflight.split import Split


def look_for_leaks(split: Split, held_out: Sequence[Path], policy: Policy) -> Report:
    """What the training examples share with the other parts and with the eval suite's items.

    Raises DataError for a file that is not one of fingerprints, and for what `policy` refuses.
    """
    hasher = TextHasher()
    held = [
        of_examples(part, examples, hasher)
        for part, examples in (("validation", split.validation), ("test", split.test))
        if examples
    ]
    if held_out:
        held.append(of_files(held_out))
    finder = Finder(held, hasher)
    finder.add(split.train)
    report = decide(finder.leaks(), policy, [one.source for one in held])
    report.check()
    return report


def without(split: Split, dropped: frozenset[int]) -> Split:
    """The split without these training examples. Raises DataError if none is left."""
    kept = [example for i, example in enumerate(split.train) if i not in dropped]
    if not kept:
        raise DataError(
            "key 'data.on_leak': every training row overlaps a held-out one, so dropping them "
            "leaves nothing to train on"
        )
    return replace(split, train=kept)
