"""Which training rows overlap held-out documents."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from trainer.data import Example
from trainer.data.disk import Chained
from trainer.leakage.distinct import Distinct
from trainer.leakage.hashing import Hashes, TextHasher, Windows
from trainer.leakage.sources import Held
from understudy.fingerprint import SKETCH, text_hash, words

# Lee et al. (arXiv 2107.06499, section 4.2) and most after them call texts near-duplicates from a
# Jaccard index of 0.8 of their shingles.
NEAR = 0.8
# An n-gram of more training rows is a common phrase, as Brown et al. (arXiv 2005.14165, appendix
# C) found by inspection, and tells nothing.
MAX_ROWS_OF_NGRAM = 10
# PaLM (Chowdhery et al., arXiv 2204.02311, section 8) calls a test item contaminated from this
# share of its n-grams on. A single common n-gram, the rule of GPT-3, is reported but refuses
# nothing: it was made to leave a clean rest, not to say what leaked.
NGRAM_SHARE = 0.7
# Rows whose hashes are in memory at a time, and of these rows compared with all documents at once.
CHUNK_ROWS = 4096
BLOCK_ROWS = 256


@dataclass(frozen=True)
class Leak:
    """A training row and the held-out document that it overlaps most."""

    row: int
    """Index of the training row, in the order they were added."""
    kind: str
    """`exact`, `near` (Jaccard index from NEAR on), `ngram` (from NGRAM_SHARE on), or `partial`; or
    `group`, which a finder does not look for: both are of one group."""
    source: str
    where: str
    held: str
    share: float
    """1, the Jaccard index, or the share of the document's n-grams: 0..1."""


class Finder:
    """Looks training rows up among held-out documents.

    Rows come in any number of chunks, so that files larger than memory pass through; what is kept
    of them are their overlaps.
    """

    def __init__(self, held: Sequence[Held], hasher: TextHasher) -> None:
        """`hasher` may be the one that hashed the held-out examples: it remembers words."""
        self._sources = [_Source(one) for one in held if one.names]
        self._hasher = hasher
        self._added: list[Sequence[Example]] = []
        # Equal rows are looked up once, and count once where rows are counted.
        self._distinct = Distinct()
        self._equal: dict[int, list[int]] = defaultdict(list)

    def add(self, examples: Sequence[Example]) -> None:
        """Looks up some more training rows, which `leaks` may read once more."""
        begin = sum(map(len, self._added))
        self._added.append(examples)
        for first in range(0, len(examples), CHUNK_ROWS):
            self._add(begin + first, examples[first : first + CHUNK_ROWS])

    def leaks(self) -> list[Leak]:
        """For each row and source the strongest overlap, in the order of the rows."""
        added = Chained(self._added)
        found = [
            replace(leak, row=row, where=added[row].where)
            for source in self._sources
            for leak in source.leaks()
            for row in (leak.row, *self._equal.get(leak.row, ()))
        ]
        return sorted(found, key=lambda leak: leak.row)

    def _add(self, begin: int, examples: Sequence[Example]) -> None:
        rows, kept = [], []
        keys = np.array([_key(example) for example in examples], np.uint64)
        for row, first in enumerate(self._distinct.add(keys).tolist(), begin):
            if first != row:
                self._equal[first].append(row)
                continue
            rows.append(row)
            kept.append(examples[row - begin])
        asked = self._hasher.words([example.texts for example in kept])
        ngrams, sketches = asked.ngrams(), asked.sketches()
        for source in self._sources:
            if source.held.is_suite:
                # A test item's references may stand in a completion.
                texts = [(*example.texts, *example.answers) for example in kept]
                source.add(rows, kept, self._hasher.words(texts).ngrams(), sketches)
            else:
                source.add(rows, kept, ngrams, sketches)


class _Source:
    """One source of held-out documents, and what was found of it."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self._num_ngrams = np.bincount(held.ngrams.owners, minlength=len(held.names))
        self._known_ngrams = np.unique(held.ngrams.hashes)
        self._known_shingles = np.unique(held.sketches.hashes)
        self._sketch_sizes = np.bincount(held.sketches.owners, minlength=len(held.names))
        # [D, shingles]
        self._documents = _incidence(held.sketches, self._known_shingles, len(held.names))
        self._exact: dict[int, int] = {}
        self._near: dict[int, tuple[int, float]] = {}
        self._rows_of: dict[int, list[int]] = defaultdict(list)

    def add(
        self, rows: Sequence[int], examples: Sequence[Example], ngrams: Windows, sketches: Windows
    ) -> None:
        """Looks up the examples, which are the rows with these numbers."""
        for row, example in zip(rows, examples, strict=True):
            for key in self._keys(example):
                if (place := self.held.whole.get(key)) is not None:
                    self._exact[row] = place
                    break
        known = _in(ngrams.hashes, self._known_ngrams)
        places = np.searchsorted(self._known_ngrams, ngrams.hashes[known])
        for place, index in zip(places.tolist(), ngrams.owners[known].tolist(), strict=True):
            holders = self._rows_of[place]
            if len(holders) <= MAX_ROWS_OF_NGRAM:
                holders.append(rows[index])
        self._find_near(rows, sketches)

    def _keys(self, example: Example) -> Iterable[str]:
        if not self.held.is_suite:
            return (example.content,)
        found = [words(text) for text in (*example.texts, *example.answers)]
        return [text_hash(one) for one in found if one]

    def _find_near(self, numbers: Sequence[int], sketches: Windows) -> None:
        """Keeps for each row the document most like it, if that is a near-duplicate.

        Texts with a Jaccard index of NEAR share that part of both sketches or more, so most rows
        are none's near-duplicate for want of shingles that any document has.
        """
        sizes = np.bincount(sketches.owners, minlength=len(numbers))
        known = _in(sketches.hashes, self._known_shingles)
        num_known = np.bincount(sketches.owners[known], minlength=len(numbers))
        rows = np.flatnonzero((num_known >= NEAR * sizes) & (sizes > 0))
        for begin in range(0, len(rows), BLOCK_ROWS):
            block = rows[begin : begin + BLOCK_ROWS]
            chosen = known & np.isin(sketches.owners, block)
            owners = np.searchsorted(block, sketches.owners[chosen])
            mine = _incidence(
                Windows(sketches.hashes[chosen], owners), self._known_shingles, len(block)
            )
            # [rows, D]: how many shingles both sketches have
            shared = (mine @ self._documents.T).tocoo()
            mine_of, theirs = sizes[block[shared.row]], self._sketch_sizes[shared.col]
            keep = np.flatnonzero(shared.data >= NEAR * np.maximum(mine_of, theirs))
            likeness = shared.data[keep] / (mine_of + theirs - shared.data)[keep]
            best: dict[int, int] = {}
            for index in keep[np.argsort(likeness, kind="stable")].tolist():
                best[int(block[shared.row[index]])] = int(shared.col[index])
            for row, place in best.items():
                likeness_of = _likeness(_of(sketches, row), _of(self.held.sketches, place))
                if likeness_of >= NEAR:
                    self._near[numbers[row]] = (place, likeness_of)

    def leaks(self) -> Iterable[Leak]:
        """The strongest overlap of each row; `where` is left empty."""
        shares = self._shares()
        for row in sorted({*self._exact, *self._near, *shares}):
            if row in self._exact:
                kind, place, share = "exact", self._exact[row], 1.0
            elif row in self._near:
                kind, (place, share) = "near", self._near[row]
            else:
                place, share = shares[row]
                kind = "ngram" if share >= NGRAM_SHARE else "partial"
            yield Leak(row, kind, self.held.source, "", self.held.names[place], share)

    def _shares(self) -> dict[int, tuple[int, float]]:
        """For each row the document of which it has the largest share of n-grams."""
        order = np.argsort(self.held.ngrams.hashes, kind="stable")
        owners = self.held.ngrams.owners[order]
        bounds = np.searchsorted(self.held.ngrams.hashes[order], self._known_ngrams)
        ends = np.append(bounds[1:], len(owners))
        counts: dict[tuple[int, int], int] = defaultdict(int)
        for ngram, rows in self._rows_of.items():
            if len(rows) > MAX_ROWS_OF_NGRAM:
                continue
            for document in owners[bounds[ngram] : ends[ngram]].tolist():
                for row in rows:
                    counts[row, document] += 1
        best: dict[int, tuple[int, float]] = {}
        for (row, document), count in sorted(counts.items()):
            share = count / int(self._num_ngrams[document])
            if share > best.get(row, (0, 0.0))[1]:
                best[row] = (document, share)
        return best


def _key(example: Example) -> int:
    text = f"{example.content}\0{example.completion}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _in(values: Hashes, known: Hashes) -> np.typing.NDArray[np.bool_]:
    """Which of `values` are among `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: np.typing.NDArray[np.bool_] = known[places] == values
    return found


def _incidence(windows: Windows, known: Hashes, num_documents: int) -> csr_array:
    """Which document has which of the hashes `known`, as 0 and 1: [documents, hashes]."""
    columns = np.searchsorted(known, windows.hashes)
    ones = np.ones(len(columns), np.int32)
    return csr_array((ones, (windows.owners, columns)), shape=(num_documents, len(known)))


def _of(windows: Windows, document: int) -> Hashes:
    begin, end = np.searchsorted(windows.owners, [document, document + 1])
    return windows.hashes[begin:end]


def _likeness(first: Hashes, second: Hashes) -> float:
    """`understudy.fingerprint.similarity` of two sorted sketches."""
    smallest = np.union1d(first, second)[:SKETCH]
    return float(np.mean(_in(smallest, first) & _in(smallest, second)))
