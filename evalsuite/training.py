"""Training rows of a task, of any number: drawn by index, few bytes of memory each."""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from evalsuite.spool import SampleSpool
from evalsuite.types import Sample

_NO_TARGET = -1


class TrainingRows(Sequence[Sample]):
    """Rows to draw shots and trivial answers from; 24 bytes of memory for each beyond the spool's
    first thousands."""

    def __init__(self, rows: Iterable[Sample] = (), spool: SampleSpool | None = None) -> None:
        """`spool` is where the rows go, empty; by default one of its own."""
        self._rows = SampleSpool() if spool is None else spool
        self._targets = array("i")
        self._categories = array("I")
        self._codes: dict[str, int] = {}
        self._completions = array("Q")
        for row in rows:
            self.append(row)

    def append(self, row: Sample) -> None:
        """Adds a row at the end."""
        self._rows.append(row)
        self._targets.append(_NO_TARGET if row.target is None else row.target)
        self._categories.append(self._codes.setdefault(row.category, len(self._codes)))
        self._completions.append(hash64(row.right))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._rows)

    def of_category(self, category: str) -> Sequence[int]:
        """Indices of the rows of a category, in order."""
        code = self._codes.get(category)
        if code is None:
            return ()
        return np.flatnonzero(np.asarray(self._categories) == code).tolist()

    def target(self, index: int) -> int | None:
        """The right choice of a row, without reading it."""
        found = self._targets[index]
        return None if found == _NO_TARGET else found

    def most_common_target(self) -> int:
        """The most frequent right choice, 0 where a row has none; of several the lowest."""
        counts = np.bincount(np.maximum(self._targets, 0))
        return int(counts.argmax())

    def most_common_completion(self) -> str:
        """The most frequent completion; of several the one that comes first."""
        _, first, counts = np.unique(self._completions, return_index=True, return_counts=True)
        return self._rows[int(first[counts == counts.max()].min())].right


class InputHashes:
    """Whether a text is one of the inputs of many samples: eight bytes of memory for each.

    Two different texts share their 64 bits once in 10^19 pairs.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        hashes = np.fromiter((hash64(sample.input) for sample in samples), np.uint64)
        self._sorted = array("Q", np.unique(hashes).tobytes())

    def __contains__(self, text: str) -> bool:
        wanted = hash64(text)
        place = bisect_left(self._sorted, wanted)
        return place < len(self._sorted) and self._sorted[place] == wanted


def hash64(text: str) -> int:
    """64 bits of a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
