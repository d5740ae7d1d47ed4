"""The search for held-out examples among the training examples of a run."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.data.disk import Picked
from trainer.errors import DataError
from trainer.leakage import Finder, Leak, Report, TextHasher, decide, of_examples, of_files
from trainer.leakage.policy import Policy
from trainer.preflight.texts import TaskTexts, joined


def look_for_leaks(
    texts: Sequence[TaskTexts],
    held_out: Sequence[Path],
    policy: Policy,
    drawn: frozenset[str],
    group_key: str | None,
) -> Report:
    """What the training examples share with the other parts and with the eval suite's items.

    `drawn` are the parts that were held out of the training files, not given as files.

    Raises DataError for a file that is not one of fingerprints, and for what `policy` refuses.
    """
    split = joined(texts)
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
    leaks = [] if group_key is None else list(_shared_groups(texts, group_key))
    leaks += finder.leaks()
    report = decide(leaks, policy, [one.source for one in held], drawn)
    report.check()
    return report


def _shared_groups(texts: Sequence[TaskTexts], key: str) -> Iterator[Leak]:
    """Training rows with a group that stands in a held-out file of their task, too: files are split
    already, and no hash has kept their groups on one side."""
    begin = 0
    for of in texts:
        parts = {"validation": of.split.validation, "test": of.split.test}
        held = {
            part: {example.group: example.where for example in examples}
            for part, examples in parts.items()
        }
        for row, example in enumerate(of.split.train, begin):
            for part, where in held.items():
                if example.group in where:
                    value = f"{key} {str(example.group)[:80]!r}"
                    said = f"{where[example.group]}, {value}"
                    yield Leak(row, "group", part, example.where, said, 1.0)
        begin += len(of.split.train)


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
