"""Fingerprints of test items: found again in other text, word for word or in part."""

import json
from pathlib import Path

import pytest

from understudy.fingerprint import (
    FingerprintError,
    FingerprintIndex,
    fingerprint,
    lines,
    ngram_hashes,
    read,
    similarity,
    sketch,
    words,
)

LONG = " ".join(f"w{i}" for i in range(30))


def index(text: str, *references: str) -> FingerprintIndex:
    return FingerprintIndex([fingerprint("t@1", "d" * 64, "7", text, references)])


def test_words_fold_case_form_and_punctuation() -> None:
    assert words("“Café”, ﬁne!  A_b 3.5") == ["café", "fine", "a_b", "3", "5"]


@pytest.mark.parametrize(("count", "ngrams"), [(7, 0), (8, 1), (12, 1), (13, 1), (14, 2), (30, 18)])
def test_number_of_ngrams(count: int, ngrams: int) -> None:
    assert len(list(ngram_hashes([f"w{i}" for i in range(count)]))) == ngrams


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert words("今天 Hello_1 สวัสดี あア ä-ö") == [*"今天", "hello_1", *"สวสด", *"あア", "ä", "ö"]
    item = "今天天气很好我们去公园散步吧然后回家吃饭"
    (found,) = index(item).overlaps(f"他说{item[2:]}再见")
    assert found.share > 0.7
    assert not found.whole


def test_same_words_are_found_whole() -> None:
    (found,) = index(LONG).overlaps(LONG.upper().replace(" ", ",  "))
    assert (found.task, found.id, found.whole, found.share) == ("t@1", "7", True, 1.0)


def test_a_part_is_found_within_other_text() -> None:
    part = " ".join(f"w{i}" for i in range(10, 24))
    (found,) = index(LONG).overlaps(f"something before {part} and after")
    assert not found.whole
    assert found.share == pytest.approx(2 / 18)


def test_a_long_reference_is_found_and_a_short_one_is_not() -> None:
    held = index("is it so that way", LONG, "yes it is")
    assert held.overlaps(LONG)[0].whole
    assert held.overlaps("yes it is") == []
    assert held.overlaps("Is it so, that way?")[0].whole
    assert index("too short").overlaps("too short") == []


def test_similarity_is_the_jaccard_index_of_five_words_in_a_row() -> None:
    def shingles(found: list[str]) -> set[tuple[str, ...]]:
        return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}

    first = [f"w{i}" for i in range(100)]
    for cut in (10, 30, 60):
        second = [*first[:cut], "new", *first[cut + 3 :], "end"]
        a, b = shingles(first), shingles(second)
        expected = len(a & b) / len(a | b)
        assert similarity(sketch(first), sketch(second)) == pytest.approx(expected)
    long = [f"w{i}" for i in range(4000)]
    other = [*long[:3600], *(f"x{i}" for i in range(400))]
    a, b = shingles(long), shingles(other)
    expected = len(a & b) / len(a | b)
    assert len(sketch(long)) == 128
    # Standard deviation sqrt(0.82 * 0.18 / 128) = 0.034.
    assert similarity(sketch(long), sketch(other)) == pytest.approx(expected, abs=0.1)
    assert similarity(sketch(long), sketch(long)) == 1
    assert similarity((), ()) == 0
    assert sketch(["too", "short"]) == ()


def test_unlike_text_has_nothing_in_common() -> None:
    assert index(LONG).overlaps(" ".join(f"x{i}" for i in range(40))) == []
    assert index(LONG).overlaps("") == []


def test_largest_share_first() -> None:
    items = [fingerprint("t@1", "d", str(n), " ".join(LONG.split()[:n]), ()) for n in (20, 30)]
    found = FingerprintIndex(items).overlaps(" ".join(LONG.split()[:20]))
    assert [(o.id, o.whole) for o in found] == [("20", True), ("30", False)]
    assert found[1].share == pytest.approx(8 / 18)
    assert found[1].similarity == pytest.approx(16 / 26)


def test_file_and_back(tmp_path: Path) -> None:
    items = [fingerprint("t@1", "d" * 64, str(n), f"{LONG} {n}", ("a",)) for n in range(3)]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(lines(items)))
    assert list(read(path)) == items
    assert "w1" not in path.read_text()


_ITEM = {"task": "t@1", "data": "d", "id": "1", "texts": [], "ngrams": [], "sketch": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "f.jsonl:1: 'format' is None, expected 'understudy-fingerprints'; write the file"),
        ("[]\n", "f.jsonl:1: expected an object"),
        ("x\n", "f.jsonl:1: not JSON"),
        ("".join(lines([])) + '{"task": "t"}\n', "f.jsonl:2: no field 'data'"),
        ("".join(lines([])) + "[" * 100_000 + "\n", "f.jsonl:2: nested too deeply"),
        (
            "".join(lines([])) + json.dumps({**_ITEM, "texts": "abc"}) + "\n",
            "f.jsonl:2: 'texts' must be a list of hashes",
        ),
        (
            "".join(lines([])) + json.dumps({**_ITEM, "ngrams": [5]}) + "\n",
            "f.jsonl:2: 'ngrams' must be a list of hashes",
        ),
        ("".join(lines([])).replace("13", "8"), "'ngram' is 8, expected 13"),
    ],
)
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(text)
    with pytest.raises(FingerprintError) as error:
        list(read(path))
    assert message in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FingerprintError, match="cannot be read"):
        list(read(tmp_path / "nowhere"))
