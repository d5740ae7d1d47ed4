"""Subsets: by size, in the data's order, by seed, in proportion to strata."""

from collections import Counter

import pytest

from evalsuite.errors import InputError
from evalsuite.subsets import Subset, split_subset
from evalsuite.types import Sample

SAMPLES = [
    Sample(str(i), f"in {i}", ("x",), category="abc"[0 if i < 70 else 1 if i < 95 else 2])
    for i in range(100)
]


def ids(subset: Subset) -> list[int]:
    return [int(sample.id) for sample in subset.of(SAMPLES)]


@pytest.mark.parametrize("draw", ["first", "random", "stratified"])
@pytest.mark.parametrize("size", [1, 7, 20, 99, 100, 500])
def test_size_and_order(draw: str, size: int) -> None:
    found = ids(Subset(size, draw, 3))
    assert len(found) == min(size, 100)
    assert found == sorted(set(found))


def test_the_seed_decides() -> None:
    assert ids(Subset(20, "random", 1)) == ids(Subset(20, "random", 1))
    assert ids(Subset(20, "random", 1)) != ids(Subset(20, "random", 2))
    assert ids(Subset(20, "stratified", 1)) != ids(Subset(20, "stratified", 2))
    assert ids(Subset(20)) == list(range(20))


@pytest.mark.parametrize("seed", range(4))
def test_strata_in_proportion(seed: int) -> None:
    counts = Counter(SAMPLES[i].category for i in ids(Subset(20, "stratified", seed)))
    assert counts == {"a": 14, "b": 5, "c": 1}


def test_right_answers_are_strata_where_there_is_no_category() -> None:
    samples = [Sample(str(i), "in", ("x",), ("n", "y"), int(i < 40)) for i in range(50)]
    found = Subset(10, "stratified").of(samples)
    assert sum(sample.target or 0 for sample in found) == 8


@pytest.mark.parametrize(
    ("name", "rest", "subset"),
    [
        ("mmlu", "mmlu", None),
        ("mmlu@first:5", "mmlu", Subset(5)),
        ("mmlu@random:5:9", "mmlu", Subset(5, "random", 9)),
        ("a=b/c@d.json@stratified:12", "a=b/c@d.json", Subset(12, "stratified")),
    ],
)
def test_names(name: str, rest: str, subset: Subset | None) -> None:
    assert split_subset(name) == (rest, subset)


@pytest.mark.parametrize("name", ["mmlu@random:0", "mmlu@last:5", "mmlu@random:5:x"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError, match="a subset"):
        split_subset(name)
