"""Bias and toxicity: against plain readings of their definitions, and what is refused."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.__main__ import main
from evalsuite.aspects.bias import WordLists, bias_fields, imbalance, read_words, tokens
from evalsuite.aspects.toxicity import read_toxic_words, toxicity_fields
from evalsuite.errors import InputError
from evalsuite.stats import BootstrapConfig
from tests.evalsuite.scoring import SEEDS, close

GROUPS = {"one": ("a", "b"), "two": ("c",), "three": ("d", "e", "f")}
TARGETS = ("x", "y", "z")
LISTS = WordLists({"kind": GROUPS}, {"things": TARGETS}, "s")
CONFIG = BootstrapConfig(num_resamples=50)


def plain_distance(texts: list[list[str]]) -> float | None:
    rates = [
        sum(text.count(word) for text in texts for word in words) / len(words)
        for words in GROUPS.values()
    ]
    if not sum(rates):
        return None
    return sum(abs(rate / sum(rates) - 1 / len(rates)) for rate in rates) / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_as_a_plain_reading(seed: int) -> None:
    rng = random.Random(seed)
    texts = [rng.choices("abcdefxyzuvw", k=rng.randint(0, 6)) for _ in range(30)]
    found = bias_fields([" ".join(text).upper() + "." for text in texts], LISTS, CONFIG)["kind"]
    assert found["representation"]["value"] == close(plain_distance(texts))
    by_target = [plain_distance([t for t in texts if word in t]) for word in TARGETS]
    known = [value for value in by_target if value is not None]
    assert found["associations"]["things"]["value"] == close(sum(known) / len(known))
    assert found["counts"] == {
        name: sum(text.count(word) for text in texts for word in words)
        for name, words in GROUPS.items()
    }


def test_nothing_to_count_is_no_number() -> None:
    found = bias_fields(["nobody here", ""], LISTS, CONFIG)["kind"]
    assert (found["representation"], found["associations"]) == (None, {"things": None})
    assert found["counts"] == {"one": 0, "two": 0, "three": 0}


def test_balance_and_its_contrary() -> None:
    sizes = np.array([2.0, 4.0])
    assert imbalance(np.array([1.0, 2.0]), sizes) == close(0.0)
    assert imbalance(np.array([3.0, 0.0]), sizes) == close(0.5)


def test_own_lists_are_in_balance_and_tokens_are_words() -> None:
    words = read_words()
    sizes = {name: len(group) for name, group in words.groups["gender"].items()}
    assert sizes["female"] == sizes["male"]
    assert tokens("She's HERE, the so-called “man’s” x2.") == [
        "she's", "here", "the", "so", "called", "man's", "x2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("groups: {g: {a: [x]}}\ntargets: {}\n", "groups.g: dictionary should have at least 2"),
        ("groups: {g: {a: [x], b: [x]}}\ntargets: {}\n", "groups.g: 'x' stands there twice"),
        ("groups: {g: {a: [X], b: [y]}}\ntargets: {}\n", "'X' is not one word in lower case"),
        ("groups: {g: {a: [x y], b: [y]}}\ntargets: {}\n", "'x y' is not one word"),
        ("groups: {g: {a: [x], b: [y]}}\n", "targets: field required"),
        ("[", "not YAML"),
    ],
)
def test_wrong_lists(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_words(path)


def pinned(path: Path) -> str:
    return f"{path}@sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_toxicity_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("# a comment\ndarn\n\ngo away\n")
    words = read_toxic_words(pinned(path))
    texts = ["DARN it", "darned", "Go\naway!", "a comment", "go far away"]
    assert [words.score(text) for text in texts] == [1.0, 0.0, 1.0, 0.0, 0.0]
    found = toxicity_fields(texts, words, 0.95)
    assert (found["k"], found["num_texts"]) == (1, 5)
    for name in ("expected_maximum", "probability", "toxic_fraction"):
        assert found[name] == close(0.4)
    assert toxicity_fields([], words, 0.95)["toxic_fraction"] is None


def test_a_list_without_its_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("darn\n")
    with pytest.raises(InputError, match="needs its hash") as error:
        read_toxic_words(str(path))
    assert pinned(path) in str(error.value)
    with pytest.raises(InputError, match="has another hash"):
        read_toxic_words(f"{path}@sha256:{'0' * 64}")
    with pytest.raises(InputError, match="cannot be read"):
        read_toxic_words(f"{tmp_path / 'gone'}@sha256:00")
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no words"):
        read_toxic_words(pinned(path))


def test_a_run_with_lists(server: Any, make_tasks: Any, tmp_path: Path, capsys: Any) -> None:
    files = make_tasks()
    server.gold = files.gold
    toxic, words = tmp_path / "bad.txt", tmp_path / "w.yaml"
    toxic.write_text("no idea\n")
    words.write_text("groups: {pets: {cats: [cats], dogs: [dogs]}}\ntargets: {colours: [red]}\n")
    out = tmp_path / "out"
    command = ["run", "--server", server.address, "--adapters", "base,gold", "--shots", "0"]
    command += ["--tasks", f"{files.rewrite},{files.mood}", "--out", str(out)]
    assert main([*command, "--toxicity", str(toxic)]) == 2
    assert pinned(toxic) in capsys.readouterr().err
    assert server.requests == []
    lists = ["--words", str(words), "--toxicity", pinned(toxic)]
    assert main([*command, *lists]) == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["texts"]) == ["rewrite"]
    rows = report["texts"]["rewrite"]
    assert list(rows) == ["base", "trivial", "gold", "references"]
    assert rows["base"]["toxicity"]["toxic_fraction"] == 1.0
    assert rows["gold"]["toxicity"]["toxic_fraction"] == 0.0
    assert rows["gold"]["bias"] == rows["references"]["bias"]
    pets = rows["gold"]["bias"]["pets"]
    assert pets["counts"] == {"cats": 12, "dogs": 0}
    assert pets["associations"]["colours"]["value"] == close(0.5)
    assert main(["report", "--out", str(out), *lists]) == 0
    assert json.loads((out / "report.json").read_text()) == report
    assert 'id="bias"' in (out / "report.html").read_text()
