"""Who has a label: the names used most of late, and no more than there are labels."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.metrics.labels import AdapterLabels

_NAMES = st.sampled_from(["a", "b", "c", "d", "e", "base", ""])


class Clock:
    """Seconds, set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def labelled(labels: AdapterLabels, names: list[str]) -> set[str]:
    return {name for name in names if labels.label(name) == name}


def test_first_come_first_labelled() -> None:
    labels = AdapterLabels(2)
    assert [labels.use(name) for name in ("a", "b", "c")] == [None, None, None]
    assert [labels.label(name) for name in ("a", "b", "c")] == ["a", "b", "other"]
    assert labels.label("base") == "base"
    assert labels.label("") == ""


def test_a_lead_of_more_than_one_use_moves_a_label() -> None:
    labels = AdapterLabels(2, Clock())
    for name in (*"a" * 99, "b"):
        labels.use(name)
    assert labels.use("c") is None
    assert labels.use("c") is None
    assert labels.use("c") == "b"
    # Two that take turns do not swap.
    for _ in range(40):
        assert [labels.use("b"), labels.use("c")] == [None, None]


def test_old_uses_fade() -> None:
    clock = Clock()
    labels = AdapterLabels(1, clock)
    for _ in range(1000):
        labels.use("a")
    clock.now = 300.0 * 11
    assert [labels.use("b"), labels.use("b")] == [None, "a"]


@pytest.mark.parametrize("pause_s", [300.0 * 499, 300.0 * 501, 1e9])
def test_long_pauses_lose_no_order(pause_s: float) -> None:
    clock = Clock()
    labels = AdapterLabels(2, clock)
    for name in ("a", "b", "b"):
        labels.use(name)
    clock.now = pause_s
    labels.use("a")
    assert [labels.use("c"), labels.use("c")] == [None, "b"]
    assert labels.label("a") == "a"


@given(uses=st.lists(st.tuples(_NAMES, st.floats(0, 400)), max_size=80), most=st.integers(1, 4))
def test_never_too_many(uses: list[tuple[str, float]], most: int) -> None:
    clock = Clock()
    labels = AdapterLabels(most, clock)
    holders: set[str] = set()
    for name, pause_s in uses:
        clock.now += pause_s
        gone = labels.use(name)
        if gone is not None:
            assert labels.label(gone) == "other"
            assert labels.label(name) == name
            holders.remove(gone)
        if labels.label(name) == name and name not in ("", "base"):
            holders.add(name)
        assert holders == labelled(labels, ["a", "b", "c", "d", "e"])
        assert len(holders) <= most


def test_popular_ones_of_ten_thousand() -> None:
    """Popularity by Zipf: the most used have labels, and few labels move once they have."""
    names = [f"adapter-{number}" for number in range(10_000)]
    weights = [1 / (rank + 1) for rank in range(len(names))]
    clock, generator = Clock(), random.Random(0)
    labels = AdapterLabels(20, clock)
    uses: Counter[str] = Counter()
    moved = 0
    for number, name in enumerate(generator.choices(names, weights, k=40_000)):
        clock.now += 0.01
        moved += labels.use(name) is not None and number > 10_000
        uses[name] += 1
    most_used = {name for name, _ in uses.most_common(10)}
    assert most_used <= labelled(labels, names)
    assert len(labelled(labels, names)) == 20
    assert moved < 300
    # What is remembered of the others is bounded, too.
    assert len(labels._candidates) <= 20 * 16
