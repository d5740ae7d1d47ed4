"""Documents that share a passage with test sets are found, whatever their case and punctuation."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import DataError
from trainer.keep_out import NUM_WORDS, KeptOut, passages

ITEM = "The quick brown fox, they say, jumps over the lazy dog on every second Sunday of May."
WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "e1"]), max_size=30)


@given(WORDS, WORDS)
def test_meets_exactly_where_thirteen_words_in_a_row_are_shared(
    kept: list[str], other: list[str]
) -> None:
    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[at : at + NUM_WORDS]) for at in range(len(words) - NUM_WORDS + 1)}

    expected = bool(runs(kept) & runs(other))
    assert KeptOut([" ".join(kept)]).meets(" ".join(other)) == expected
    assert len(KeptOut([" ".join(kept)])) == len(runs(kept))


def test_case_punctuation_and_surroundings_do_not_hide_a_passage() -> None:
    kept = KeptOut([ITEM])
    shouted = ITEM.upper().replace(",", "").replace(" ", "  --")
    assert kept.meets(f"He wrote this: {shouted} And then he left.")
    assert not kept.meets(" ".join(reversed(ITEM.split())))
    assert not kept.meets(" ".join(ITEM.split()[: NUM_WORDS - 1]))
    assert not KeptOut([]).meets(ITEM)


def test_order_of_words_matters() -> None:
    words = [f"w{number}" for number in range(NUM_WORDS)]
    swapped = [words[1], words[0], *words[2:]]
    assert not np.array_equal(passages(" ".join(words)), passages(" ".join(swapped)))


def test_folder_is_read_by_kind_of_file_without_what_is_for_training(tmp_path: Path) -> None:
    def item(name: str) -> str:
        return " ".join(f"{name}{number}" for number in range(NUM_WORDS))

    (tmp_path / "a.jsonl").write_text(json.dumps({"rows": [{"text": item("one")}]}) + "\n")
    (tmp_path / "b.json").write_text(json.dumps([{"q": {"deep": item("two")}}]))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.tsv").write_text(f"0\t{item('three')}\n")
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": item("four")}) + "\n")
    (tmp_path / "SOURCE.txt").write_text(item("five"))
    kept = KeptOut.of_folder(tmp_path)
    found = [kept.meets(item(name)) for name in ("one", "two", "three", "four", "five")]
    assert found == [True, True, True, False, False]


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file to keep out there"):
        KeptOut.of_folder(tmp_path)
    (tmp_path / "broken.jsonl").write_text("{not json\n")
    with pytest.raises(DataError, match=r"broken\.jsonl"):
        KeptOut.of_folder(tmp_path)
