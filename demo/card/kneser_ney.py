"""An interpolated, modified Kneser-Ney n-gram model over token ids, in numpy.

Chen & Goodman (1999), "An empirical study of smoothing techniques for language modeling", with
KenLM's conventions (Heafield et al. 2013): counts are exact and none is dropped, n-grams that begin
a document keep their counts at lower orders since nothing stands in front of them, the unigrams
are interpolated with the uniform distribution, and the token that begins a document is never
predicted. Letters: T tokens, G distinct n-grams of one order, V size of the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Discounts = tuple[float, float, float]
"""Taken off counts of 1, of 2, and of 3 or more."""

# Where the counts of counts give no valid discounts, as in tiny texts; also KenLM's.
FALLBACK: Discounts = (0.5, 1.0, 1.5)
ABSENT = -1


@dataclass(frozen=True)
class Order:
    """All n-grams of one order. An n-gram's id is its place in `keys`."""

    keys: Ids  # [G], sorted: id of the first n - 1 tokens * V + the last token
    counts: Ids  # [G], adjusted
    discounts: Discounts
    totals: Floats  # [contexts], sum of the counts behind each context
    backoff: Floats  # [contexts], share of the next lower order


class KneserNey:
    """Probabilities of tokens given up to `order - 1` tokens before them in the same document."""

    def __init__(
        self,
        tokens: NDArray[np.uint16],
        order: int,
        vocab_size: int,
        bos: int,
        discounts: Sequence[Discounts] | None = None,
        begins: NDArray[np.bool_] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Counts `tokens` [T]: documents in a row, each of which begins with `bos`.

        `begins` [T] marks the first tokens of documents, and of pieces of documents whose beginning
        is not there: no n-gram goes over such a place. `discounts`, one triple per order from the
        unigrams on, take the place of those from the counts of counts. About 80 bytes per token at
        the peak.
        """
        if begins is None:
            begins = tokens == bos
        if order < 2 or not len(tokens) or not begins[0]:
            raise ValueError("needs an order of 2 or more, and documents that begin with bos")
        self.num_tokens, self._vocab_size, self._bos = len(tokens), vocab_size, bos
        self._orders: list[Order] = []
        ids = tokens.astype(np.int32)  # of the n-gram that begins at each place, or ABSENT
        keys = np.arange(vocab_size, dtype=np.int64)
        raw = np.bincount(tokens, minlength=vocab_size)
        starts_with_bos = keys == bos
        for n in range(1, order + 1):
            progress(f"{n}-grams: {len(keys):,}")
            longer = _longer(ids, tokens, begins, n, vocab_size) if n < order else None
            counts = raw
            if longer is not None:
                # Distinct tokens in front; the suffix of a longer n-gram begins one place later.
                in_front = np.bincount(ids[longer.first + 1], minlength=len(keys))
                counts = np.where(starts_with_bos, raw, in_front)
            if n == 1:
                counts[bos] = 0
            given = None if discounts is None else discounts[n - 1]
            num_contexts = 1 if n == 1 else len(self._orders[-1].keys)
            self._orders.append(_order(keys, counts, vocab_size, num_contexts, n == 1, given))
            if longer is not None:
                keys, raw, ids = longer.keys, longer.counts, longer.ids
                starts_with_bos = tokens[longer.first] == bos

    @property
    def discounts(self) -> list[Discounts]:
        """Those of each order, from the unigrams on."""
        return [order.discounts for order in self._orders]

    def probabilities(self, document: Sequence[int]) -> Floats:
        """P(token | the tokens before it) of all tokens [T - 1] behind the first, which is bos."""
        tokens = np.asarray(document, dtype=np.int64)
        targets = tokens[1:]
        # bos is no token to predict; all others have their share, met in training or not.
        found = np.full(len(targets), 1.0 / (self._vocab_size - 1))
        contexts = np.zeros(len(tokens), np.int64)  # ids of the n - 1 tokens from each place on
        for n, order in enumerate(self._orders, start=1):
            begins = np.flatnonzero(contexts[: len(tokens) - n + 1] != ABSENT)
            behind = contexts[begins]
            grams = _places(order.keys, behind * self._vocab_size + tokens[begins + n - 1])
            known = (order.totals[behind] > 0) & (begins + n > 1)
            where, context, gram = begins[known] + n - 2, behind[known], grams[known]
            count = np.where(gram == ABSENT, 0, order.counts[gram])
            share = (count - _discounted(count, order.discounts)) / order.totals[context]
            found[where] = share + order.backoff[context] * found[where]
            contexts = np.full(len(tokens), ABSENT, np.int64)
            contexts[begins] = grams
        return found


@dataclass(frozen=True)
class _Longer:
    """The n-grams of the next order."""

    keys: Ids  # [G]
    counts: Ids  # [G], as they stand in the text
    first: Ids  # [G], a place where each begins
    ids: NDArray[np.int32]  # [T], of the n-gram that begins there, or ABSENT


def _longer(
    ids: NDArray[np.int32],
    tokens: NDArray[np.uint16],
    begins: NDArray[np.bool_],
    n: int,
    vocab_size: int,
) -> _Longer:
    """From n-grams (`ids` by place) to those one token longer, within documents."""
    starts = np.flatnonzero((ids[: max(0, len(ids) - n)] != ABSENT) & ~begins[n:])
    keys = ids[starts].astype(np.int64) * vocab_size + tokens[starts + n]
    by_key = np.argsort(keys)
    keys = keys[by_key]
    starts = starts[by_key]
    del by_key
    is_first = np.empty(len(keys), dtype=bool)
    is_first[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    found = np.full(len(ids), ABSENT, np.int32)
    found[starts] = np.cumsum(is_first, dtype=np.int32) - 1
    places = np.flatnonzero(is_first)
    counts = np.diff(np.append(places, len(keys)))
    return _Longer(keys[places], counts, starts[places], found)


def _order(
    keys: Ids,
    counts: Ids,
    vocab_size: int,
    num_contexts: int,
    is_lowest: bool,
    given: Discounts | None,
) -> Order:
    discounts = given or _estimated(counts)
    contexts = np.zeros(len(keys), np.int64) if is_lowest else keys // vocab_size
    # Of no n-grams at all, bincount gives whole numbers.
    totals = np.bincount(contexts, counts, minlength=num_contexts).astype(np.float64)
    taken = np.bincount(contexts, _discounted(counts, discounts), minlength=num_contexts)
    backoff = np.divide(taken, totals, out=np.ones_like(totals), where=totals > 0)
    return Order(keys, counts, discounts, totals, backoff)


def _estimated(counts: Ids) -> Discounts:
    """Chen & Goodman, equation 26, from how many n-grams have counts 1 to 4."""
    n1, n2, n3, n4 = (int(number) for number in np.bincount(counts, minlength=5)[1:5])
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    is_valid = all(0 <= value <= count for count, value in enumerate(found, start=1))
    return found if is_valid else FALLBACK


def _discounted(counts: Ids, discounts: Discounts) -> Floats:
    """What is taken off each count."""
    return np.array((0.0, *discounts))[np.minimum(counts, 3)]


def _places(keys: Ids, wanted: Ids) -> Ids:
    """Where each wanted key stands in the sorted `keys`, or ABSENT."""
    if not len(keys):
        return np.full(len(wanted), ABSENT, np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, ABSENT)
