"""The Kneser-Ney model beside NLTK's numbers and its definition read plainly."""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated

from demo.card.kneser_ney import Discounts, KneserNey

BOS, EOS, VOCAB = 0, 1, 9
DOCUMENTS = st.lists(st.lists(st.integers(2, VOCAB - 1), max_size=12), min_size=1, max_size=8)


def stream(documents: list[list[int]]) -> np.ndarray:
    ids = [token for document in documents for token in (BOS, *document, EOS)]
    return np.array(ids, dtype=np.uint16)


def grams(documents: list[list[int]], n: int) -> list[tuple[int, ...]]:
    whole = [(BOS, *document, EOS) for document in documents]
    found = [d[at : at + n] for d in whole for at in range(len(d) - n + 1)]
    return [gram for gram in found if gram != (BOS,)]


def plain(
    documents: list[list[int]], order: int, discounts: list[Discounts]
) -> dict[tuple[int, ...], np.ndarray]:
    """By context: the distribution over all tokens but BOS, from Chen & Goodman's equations."""
    below = {(): np.full(VOCAB, 1 / (VOCAB - 1))}
    for n in range(1, order + 1):
        raw = Counter(grams(documents, n))
        longer = set(grams(documents, n + 1))
        counts = {
            gram: number
            if n == order or gram[0] == BOS
            else len({other[0] for other in longer if other[1:] == gram})
            for gram, number in raw.items()
        }
        by_context = defaultdict(dict)
        for gram, count in counts.items():
            by_context[gram[:-1]][gram[-1]] = count
        for context, followers in by_context.items():
            lower = below[context[1:]] if context else below[()]
            total = sum(followers.values())
            taken = {w: (0.0, *discounts[n - 1])[min(c, 3)] for w, c in followers.items()}
            found = sum(taken.values()) / total * lower
            for token, count in followers.items():
                found[token] += (count - taken[token]) / total
            below[context] = found
    return below


def longest(known: dict[tuple[int, ...], np.ndarray], context: tuple[int, ...]) -> np.ndarray:
    while context not in known:
        context = context[1:]
    return known[context]


@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, asked=st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=10))
def test_probabilities_are_those_of_the_definition(
    documents: list[list[int]], asked: list[int]
) -> None:
    order = 4
    model = KneserNey(stream(documents), order, VOCAB, BOS)
    known = plain(documents, order, model.discounts)
    whole = (BOS, *asked)
    expected = [
        longest(known, whole[max(0, at - order + 1) : at])[whole[at]] for at in range(1, len(whole))
    ]
    np.testing.assert_allclose(model.probabilities(whole), expected, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(documents=DOCUMENTS, context=st.lists(st.integers(1, VOCAB - 1), max_size=6))
def test_probabilities_sum_to_one(documents: list[list[int]], context: list[int]) -> None:
    model = KneserNey(stream(documents), 5, VOCAB, BOS)
    total = sum(
        model.probabilities((BOS, *context, token))[-1] for token in range(VOCAB) if token != BOS
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_one_discount_gives_nltk_s_numbers() -> None:
    """NLTK has the unmodified form: one discount, none for the unigrams, no uniform part."""
    rng = np.random.default_rng(5)
    documents = [[int(t) for t in rng.integers(2, VOCAB, 60)] for _ in range(6)]
    discount, order = 0.7, 3
    oracle = KneserNeyInterpolated(order, discount=discount)
    vocabulary = [str(token) for token in range(1, VOCAB)]
    words = [
        tuple(str(token) for token in gram)
        for n in range(1, order + 1)
        for gram in grams(documents, n)
    ]
    oracle.fit([words], vocabulary)
    triples = [(0.0, 0.0, 0.0), *[(discount,) * 3] * (order - 1)]
    model = KneserNey(stream(documents), order, VOCAB, BOS, triples)
    asked = [BOS, *documents[0][:5], *documents[3][7:30], *rng.integers(2, VOCAB, 20)]
    found = model.probabilities(asked)
    # From the third token on, no context begins a document: there the conventions differ.
    for at in range(order, len(asked)):
        context = [str(token) for token in asked[at - order + 1 : at]]
        if tuple(int(w) for w in context) in set(grams(documents, order - 1)):
            expected = oracle.score(str(asked[at]), context)
            assert found[at - 1] == pytest.approx(expected, rel=1e-12)


def test_discounts_are_chen_and_goodman_s() -> None:
    """Bigrams, the highest order: 4 that stand once, 2 twice, 1 three times, 1 four times."""
    pairs = [(2, 3)] * 4 + [(2, 4)] * 3 + [(2, 5)] * 2 + [(2, 6)] * 2
    documents = [list(pair) for pair in pairs]
    counts = Counter(gram for document in documents for gram in pairwise((BOS, *document, EOS)))
    num = Counter(min(count, 5) for count in counts.values())
    model = KneserNey(stream(documents), 2, VOCAB, BOS)
    assert (num[1], num[2], num[3], num[4]) == (0, 4, 2, 2)
    assert model.discounts[1] == (0.5, 1.0, 1.5)  # none stands once: no estimate

    documents += [[7], [8]]
    counts = Counter(gram for document in documents for gram in pairwise((BOS, *document, EOS)))
    num = Counter(counts.values())
    y = num[1] / (num[1] + 2 * num[2])
    expected = (
        1 - 2 * y * num[2] / num[1],
        2 - 3 * y * num[3] / num[2],
        3 - 4 * y * num[4] / num[3],
    )
    model = KneserNey(stream(documents), 2, VOCAB, BOS)
    assert model.discounts[1] == pytest.approx(expected)


def test_two_documents_by_hand() -> None:
    """`a b` and `a c` as bigrams with discounts of 0.5: P(b | a) from counts on paper."""
    a, b, c = 2, 3, 4
    half: Discounts = (0.5, 0.5, 0.5)
    model = KneserNey(stream([[a, b], [a, c]]), 2, VOCAB, BOS, [half, half])
    # Different tokens in front: a 1 (BOS), b 1, c 1, EOS 2; of 5 in all, 4 * 0.5 taken off.
    uniform = 1 / (VOCAB - 1)
    unigram_b = 0.5 / 5 + 4 * 0.5 / 5 * uniform
    bigram_b = 0.5 / 2 + 2 * 0.5 / 2 * unigram_b
    unigram_a = unigram_b
    bigram_a = 1.5 / 2 + 0.5 / 2 * unigram_a
    found = model.probabilities([BOS, a, b])
    np.testing.assert_allclose(found, [bigram_a, bigram_b], rtol=1e-12)
    assert -math.log2(found.prod()) == pytest.approx(-math.log2(bigram_a * bigram_b))


def test_pieces_of_documents_share_no_n_gram() -> None:
    """A piece without its beginning adds what its own n-grams add, and no more."""
    whole, piece = [2, 3, 4, 5, 6, 7], [8, 5, 6]
    tokens = np.array([BOS, *whole, EOS, *piece], dtype=np.uint16)
    begins = np.zeros(len(tokens), dtype=bool)
    begins[[0, len(whole) + 2]] = True
    half: Discounts = (0.5, 0.5, 0.5)
    model = KneserNey(tokens, 2, VOCAB, BOS, [half, half], begins)
    # EOS is followed by nothing: its unigrams decide. 5 has two tokens in front, 4 and 8; 2, 3, 4,
    # 6, 7 and EOS one; 8, which only begins a piece, none.
    uniform = 1 / (VOCAB - 1)
    left_over = 7 * 0.5 / 8 * uniform
    assert model.probabilities([BOS, EOS, 8])[-1] == pytest.approx(left_over)
    assert model.probabilities([BOS, EOS, 5])[-1] == pytest.approx(1.5 / 8 + left_over)


def test_documents_must_begin_with_bos() -> None:
    with pytest.raises(ValueError, match="begin with bos"):
        KneserNey(np.array([3, 4], np.uint16), 3, VOCAB, BOS)
