"""Where held-out documents come from: examples of the run, and fingerprints of the eval suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data import Example
from trainer.errors import DataError
from trainer.leakage.hashing import Hashes, TextHasher, Windows
from understudy import fingerprint


@dataclass(frozen=True)
class Held:
    """Held-out documents of one source. D documents."""

    source: str
    """`validation`, `test`, or `eval suite`."""
    names: list[str]  # [D]
    """`file:line` of an example, task and id of a test item."""
    whole: dict[str, int]
    """Documents by what an equal text has: an example's content, the hash of an item's text."""
    ngrams: Windows
    sketches: Windows

    @property
    def is_suite(self) -> bool:
        """Whether these are test items, known by their hashes alone."""
        return self.source == SUITE


SUITE = "eval suite"


def of_examples(source: str, examples: Sequence[Example], hasher: TextHasher) -> Held:
    """The documents behind held-out examples: what they ask, without wording and completion."""
    found = hasher.words([example.texts for example in examples])
    whole: dict[str, int] = {}
    for index, example in enumerate(examples):
        whole.setdefault(example.content, index)
    names = [example.where for example in examples]
    return Held(source, names, whole, found.ngrams(), found.sketches())


def of_files(paths: Sequence[Path]) -> Held:
    """The test items in files of fingerprints. Raises DataError."""
    names: list[str] = []
    whole: dict[str, int] = {}
    ngrams: list[Hashes] = []
    sketches: list[Hashes] = []
    for path in paths:
        try:
            for item in fingerprint.read(path):
                for text in item.texts:
                    whole.setdefault(text, len(names))
                ngrams.append(_values(item.ngrams))
                sketches.append(_values(item.sketch))
                names.append(f"{item.task} item {item.id}")
        except fingerprint.FingerprintError as error:
            raise DataError(f"key 'data.held_out': {error}") from error
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"key 'data.held_out': {path}: item {len(names) + 1} has a hash that is not "
                "16 hexadecimal digits; write the file again with `python -m evalsuite "
                "fingerprints`"
            ) from error
    if not names:
        raise DataError(
            f"key 'data.held_out': {', '.join(map(str, paths))}: holds no fingerprints; write the "
            "file again with `python -m evalsuite fingerprints`"
        )
    return Held(SUITE, names, whole, _windows(ngrams), _windows(sketches))


def _values(hashes: Sequence[str]) -> Hashes:
    return np.unique(np.array([int(value, 16) for value in hashes], np.uint64))


def _windows(documents: Sequence[Hashes]) -> Windows:
    owners = np.repeat(np.arange(len(documents)), [len(found) for found in documents])
    hashes = np.concatenate(documents) if documents else np.empty(0, np.uint64)
    return Windows(hashes, owners)
