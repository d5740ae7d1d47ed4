"""The search for held-out examples among the training examples of a run."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.data.disk import Picked
from trainer.errors import DataError
from trainer.leakage import Finder, Report, TextHasher, decide, of_examples, of_files
from trainer.leakage.policy import Policy
from trainer.preflight.split import Split
from trainer.preflight.texts import TaskTexts


def look_for_leaks(
    split: Split, held_out: Sequence[Path], policy: Policy, drawn: frozenset[str]
) -> Report:
    """What the training examples share with the other parts and with the eval suite's items.

    `drawn` are the parts that were held out of the training files, not given as files.

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
    report = decide(finder.leaks(), policy, [one.source for one in held], drawn)
    report.check()
    return report


def without(texts: Sequence[TaskTexts], dropped: frozenset[int]) -> list[TaskTexts]:
    """The tasks without these training examples, counted through all of them.

    Raises DataError if none is left of a task.
    """
    found, begin = [], 0
    for of in texts:
        train = of.split.train
        gone = {i - begin for i in dropped if begin <= i < begin + len(train)}
        begin += len(train)
        if len(gone) == len(train):
            raise DataError(
                "key 'data.on_leak': every training row overlaps a held-out one, so dropping them "
                f"leaves nothing to train on{f' of task {of.task.name!r}' if of.task.name else ''}"
            )
        if gone:
            kept = array("q", (i for i in range(len(train)) if i not in gone))
            of = replace(of, split=replace(of.split, train=Picked(train, kept)))
        found.append(of)
    return found
