"""Held-out texts among training rows: the search against its plain form, and what is done."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import WORDS
from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from trainer.__main__ import main
from trainer.data import Example
from trainer.errors import DataError
from trainer.leakage import Finder, Leak, TextHasher, decide, of_examples, of_files
from trainer.leakage.distinct import Distinct
from trainer.leakage.find import MAX_ROWS_OF_NGRAM
from understudy import fingerprint
from understudy.fingerprint import FingerprintIndex, ngram_hashes, sketch, words


def text(seed: int, num_words: int = 40) -> str:
    rng = random.Random(seed)
    vocabulary = words(WORDS)
    return " ".join(f"{rng.choice(vocabulary)}{rng.randrange(30)}" for _ in range(num_words))


def example(asked: str, number: int = 0, completion: str = "c") -> Example:
    return Example(f"Sum up: {asked}", completion, f"t:{number}", {"input": asked})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=3), max_size=6), st.integers(0, 99))
def test_hashes_are_those_of_the_plain_form(lengths: list[list[int]], seed: int) -> None:
    documents = [[text(seed + n, n) for n in texts] for texts in lengths]
    found = TextHasher().words(documents)
    ngrams, sketches = found.ngrams(), found.sketches()
    for index, texts in enumerate(documents):
        plain = {int(h, 16) for one in texts for h in ngram_hashes(words(one))}
        assert set(ngrams.hashes[ngrams.owners == index].tolist()) == plain
        if len(texts) == 1:
            mine = [int(h, 16) for h in sketch(words(texts[0]))]
            assert sketches.hashes[sketches.owners == index].tolist() == mine
    for windows in (ngrams, sketches):
        assert np.all(np.diff(windows.owners) >= 0)


def write_suite(path: Path, items: dict[str, str]) -> Path:
    made = [fingerprint.fingerprint("gsm8k@1", "d", k, asked, ()) for k, asked in items.items()]
    path.write_text("".join(fingerprint.lines(made)))
    return path


def leaks_in(train: list[Example], held: list[Example], suite: Path | None = None) -> list[Leak]:
    hasher = TextHasher()
    sources = [of_examples("validation", held, hasher)]
    finder = Finder(sources + ([of_files([suite])] if suite else []), hasher)
    for begin in range(0, len(train), 7):
        finder.add(train[begin : begin + 7])
    return finder.leaks()


def test_each_kind_is_found_and_nothing_else(tmp_path: Path) -> None:
    held = [example(text(i), i) for i in range(30)]
    changed = text(3).split()
    changed[20] = "new"
    half = " ".join(text(5).split()[:36])
    part = " ".join(text(6).split()[:14])
    train = [example(text(1000 + i), i) for i in range(50)]
    train[10] = example(f" {text(2)}\n", 10)
    train[20] = example(" ".join(changed), 20)
    train[30] = example(f"{text(2000)} {half} {text(2001)}", 30)
    train[40] = example(f"{part} and {text(3000)}", 40)
    found = {(leak.row, leak.kind, leak.where, leak.held) for leak in leaks_in(train, held)}
    assert found == {
        (10, "exact", "t:10", "t:2"),
        (30, "ngram", "t:30", "t:5"),
        (40, "partial", "t:40", "t:6"),
        # One word of 40 changes 5 of 36 shingles: 31 / 41 = 0.756 is no near-duplicate yet.
        (20, "partial", "t:20", "t:3"),
    }
    longer = [*text(3).split(), "and", "more", "words"]
    (near,) = leaks_in([example(" ".join(longer))], held)
    assert (near.kind, near.held) == ("near", "t:3")
    assert near.share == pytest.approx(36 / 39)
    suite = write_suite(tmp_path / "f.jsonl", {str(i): text(i) for i in range(30)})
    from_suite = leaks_in(train, [], suite)
    assert {(k.row, k.kind, k.held.replace("gsm8k@1 item ", "t:")) for k in from_suite} == {
        (row, kind, where) for row, kind, _, where in found
    }
    shouted = example(text(2).upper().replace(" ", ", "))
    assert [leak.kind for leak in leaks_in([shouted], held, suite)] == ["near", "exact"]
    answered = example("Say it.", completion=text(4))
    assert [leak.source for leak in leaks_in([answered], held, suite)] == ["eval suite"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_search_agrees_with_the_plain_index(tmp_path_factory: Any, seed: int) -> None:
    """Random rows made of pieces of held-out ones, looked up by `FingerprintIndex` one by one."""
    rng = random.Random(seed)
    items = {str(i): text(seed + i, rng.randrange(5, 60)) for i in range(12)}
    suite = write_suite(tmp_path_factory.mktemp("suite") / "f.jsonl", items)
    index = FingerprintIndex(fingerprint.read(suite))
    train = []
    for number in range(30):
        found = rng.choice(list(items.values())).split()
        begin = rng.randrange(len(found))
        piece = found[begin : begin + rng.randrange(1, 60)] if rng.random() < 0.7 else found
        extra = text(rng.randrange(10**6), rng.randrange(0, 12))
        train.append(example(f"{' '.join(piece)} {extra}".strip(), number, completion="x"))
    leaks = {leak.row: leak for leak in leaks_in(train, [], suite)}
    num_rows: dict[str, set[str]] = {}
    for one in train:
        for ngram in ngram_hashes(words(one.texts[0])):
            num_rows.setdefault(ngram, set()).add(one.texts[0])
    common = {n for n, rows in num_rows.items() if len(rows) > MAX_ROWS_OF_NGRAM}
    for row, one in enumerate(train):
        overlaps = index.overlaps(one.texts[0])
        if any(o.whole for o in overlaps):
            assert leaks[row].kind == "exact"
        elif (most := max((o.similarity for o in overlaps), default=0)) >= 0.8:
            assert leaks[row].kind == "near"
            assert leaks[row].share == pytest.approx(most)
        elif not common:
            share = max((o.share for o in overlaps), default=0)
            kind = "ngram" if share >= 0.7 else "partial" if share else None
            assert (leaks[row].kind if row in leaks else None) == kind
            assert row not in leaks or leaks[row].share == pytest.approx(share)


def test_a_phrase_of_many_rows_tells_nothing() -> None:
    phrase = " ".join(text(1).split()[:13])
    held = [example(f"{phrase} {text(2)}", 99)]
    train = [example(f"{phrase} {text(100 + i)}", i) for i in range(MAX_ROWS_OF_NGRAM)]
    assert {leak.kind for leak in leaks_in(train, held)} == {"partial"}
    same = [example(train[0].texts[0], 50)]
    assert len(leaks_in(train + same, held)) == MAX_ROWS_OF_NGRAM + 1, "an equal row is no other"
    assert leaks_in([*train, example(f"{phrase} {text(999)}", 60)], held) == []


def test_policy() -> None:
    def refused(policy: Any, kind: str, source: str) -> bool:
        leak = Leak(0, kind, source, "t:1", "h:1", 1.0)
        return bool(decide([leak], policy, [source]).refused)

    for kind in ("exact", "near", "ngram"):
        assert refused("refuse", kind, "validation")
        assert refused(None, kind, "validation") == (kind == "exact")
        assert refused(None, kind, "eval suite")
        assert not refused("warn", kind, "eval suite")
        assert not refused("drop", kind, "eval suite")
    assert not refused("refuse", "partial", "eval suite")


def test_groups_are_a_remedy_for_what_was_held_out_of_the_training_files() -> None:
    leak = Leak(0, "near", "validation", "t:1", "h:1", 0.9)
    for drawn in (frozenset[str](), frozenset({"validation"})):
        with pytest.raises(DataError) as caught:
            decide([leak], "refuse", ["validation"], drawn).check()
        assert ("group_key" in str(caught.value)) == bool(drawn)


@pytest.fixture
def leaking(write_config: WriteConfig, write_rows: WriteRows, tmp_path: Path) -> Path:
    """A configuration whose training rows 4 and 5 are test items, and 6 a validation row."""
    rows = make_rows(20)
    rows[3]["input"], rows[4]["input"] = text(1), f"{text(2)} or so"
    write_rows("train.jsonl", rows)
    held = write_rows("held.jsonl", [{**rows[5], "completion": "other"}])
    suite = write_suite(tmp_path / "suite.jsonl", {"7": text(1), "8": text(2)})
    path = write_config()
    config = path.read_text().replace("validation: 0.2", f"validation: {held}")
    path.write_text(config.replace("data:", f"data:\n  held_out: {suite}", 1))
    return path


def test_a_run_that_drops_what_leaks(
    leaking: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", str(leaking), "--json", "--set", "data.on_leak=drop"]) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("leakage: ")]
    train = tmp_path / "train.jsonl"
    assert len(lines) == 3
    assert (
        f"1 training rows ask the same as validation rows and were dropped, such as {train}:6"
        in (lines[0])
    )
    assert "(gsm8k@1: 1) and were dropped" in lines[1]
    report = json.loads((tmp_path / "run" / "leakage.json").read_text())
    assert report["num_rows_dropped"] == 3
    kinds = [(o["kind"], o["source"], o["examples"][0]["row"]) for o in report["overlaps"]]
    assert kinds == [
        ("exact", "validation", f"{train}:6"),
        ("exact", "eval suite", f"{train}:4"),
        ("near", "eval suite", f"{train}:5"),
    ]
    run = json.loads((Path(json.loads(captured.out)["artifact"]) / "run.json").read_text())
    assert run["data"]["num_train"] == 17
    assert run["data"]["num_leaks_dropped"] == 3
    assert str(tmp_path) not in json.dumps(run)


def test_refusals(leaking: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        assert main(["train", str(leaking), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    train = tmp_path / "train.jsonl"
    assert f"{train}:4: is in the eval suite: gsm8k@1 item 7 (1 such" in refused()
    line = refused("--set", "data.held_out=null")
    assert f"held.jsonl:1: same prompt as training example {train}:6 (1 such" in line
    assert "group_key" not in line


def make_many(num: int, num_words: int) -> list[Example]:
    """Rows as fast as they can be made, of a vocabulary of 20,000 words."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{i}" for i in range(20_000)])
    drawn = vocabulary[rng.zipf(1.3, (num, num_words)) % 20_000]
    return [example(" ".join(row), i) for i, row in enumerate(drawn.tolist())]


def bench() -> Callable[[], None] | None:
    """`python -c 'from tests.trainer.test_leakage import bench; bench()'`: seconds for 100,000."""
    import time

    every = make_many(105_000, 100)
    begin = time.process_time()
    leaks_in_all(every[:100_000], every[100_000:])
    print(f"{time.process_time() - begin:.1f} s CPU for 100,000 rows of 100 words")
    return None


def leaks_in_all(train: list[Example], held: list[Example]) -> list[Leak]:
    hasher = TextHasher()
    finder = Finder([of_examples("validation", held, hasher)], hasher)
    finder.add(train)
    return finder.leaks()


@given(st.lists(st.lists(st.integers(0, 12), max_size=30), max_size=12))
def test_equal_rows_are_found_across_chunks(chunks: list[list[int]]) -> None:
    distinct = Distinct()
    seen: dict[int, int] = {}
    num_rows = 0
    for chunk in chunks:
        expected = [seen.setdefault(key, num_rows + i) for i, key in enumerate(chunk)]
        num_rows += len(chunk)
        assert distinct.add(np.array(chunk, np.uint64)).tolist() == expected
