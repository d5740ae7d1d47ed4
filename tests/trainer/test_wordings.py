"""The library of wordings, and which of them each example gets."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from tests.trainer.test_train import train
from trainer.data import Example
from trainer.errors import ConfigError
from trainer.templates import Wording, Wordings, families, named
from trainer.templates.wordings import Inverted
from understudy.artifact import verify
from understudy.prompt import PromptTemplate


def test_every_wording_reads_its_family_s_columns() -> None:
    found = families()
    assert len(found) > 25
    for family in found.values():
        assert len(family.wordings) >= 6 or family.name == "chat"
        assert len(set(family.wordings)) == len(family.wordings)
        for text in family.wordings:
            assert PromptTemplate(text).variables == set(family.columns), text
        for text in family.inverted:
            (learnt,) = set(family.columns) - PromptTemplate(text).variables
            others = set(family.columns) - {learnt}
            assert PromptTemplate(text).variables == {"completion", *others}, text
        assert all(text.endswith("\n") for text in family.wordings + family.inverted)


def test_no_two_families_share_a_wording_word_for_word() -> None:
    texts = Counter(text for family in families().values() for text in family.wordings)
    assert texts.most_common(1)[0][1] == 1


def test_names() -> None:
    assert [name for name, _ in named("rate/*")] == [f"rate/{i}" for i in range(6)]
    assert named("rate") == named("rate/0")
    assert named("rate/2")[0][1] == families()["rate"].wordings[2]
    for wrong in ("rate/6", "rate/", "rate/-1", "rate/x"):
        with pytest.raises(ConfigError, match="'rate' has wordings 0 to 5, and rate/\\*"):
            named(wrong)


def wordings(*texts: str) -> tuple[Wording, ...]:
    return tuple(Wording(str(i), PromptTemplate(text)) for i, text in enumerate(texts))


def example(text: str, completion: str = "c") -> Example:
    return Example(f"A {text}", completion, "f:1", {"input": text})


def test_a_wording_depends_on_the_content_alone() -> None:
    several = Wordings(wordings("A {{ input }}", "B {{ input }}", "C {{ input }}"))
    examples = [example(f"text {i}") for i in range(300)]
    reworded = several.reword(examples, seed=0)
    counts = Counter(name for _, name in reworded)
    assert sorted(counts) == ["0", "1", "2"]
    assert min(counts.values()) > 70
    for (got, name), original in zip(reworded, examples, strict=True):
        assert got.prompt == f"{'ABC'[int(name)]} {original.values['input']}"
        assert got.content == original.content
    assert several.reword(examples[::-1], seed=0)[::-1] == reworded
    assert several.reword(examples[10:], seed=0) == reworded[10:]
    assert several.reword(examples, seed=1) != reworded


def test_inverted_wordings_learn_the_input() -> None:
    turned = Inverted("i", PromptTemplate("From {{ completion }}:"), "input")
    several = Wordings(wordings("A {{ input }}"), (turned,), 0.25)
    reworded = several.reword([example(f"text {i}", f"c {i}") for i in range(400)], seed=0)
    inverted = [(i, got) for i, (got, name) in enumerate(reworded) if name == "i"]
    assert 60 < len(inverted) < 140
    for i, got in inverted:
        assert (got.prompt, got.completion) == (f"From c {i}:", f"text {i}")
    ((kept, name),) = Wordings(wordings("A {{ input }}"), (turned,), 0.999).reword(
        [example(" ")], seed=0
    )
    assert (kept.prompt, name) == ("A  ", "0"), "an empty column cannot be learnt"


def test_a_run_over_several_wordings(
    write_config: WriteConfig, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first travels with the adapter and is what validation used; the card and run.json name
    the others."""
    write_rows("train.jsonl", make_rows(60))
    own = "My own words: {{ input }}\n"
    config = write_config(
        data={
            "train": str(write_rows("train.jsonl", make_rows(60))),
            "validation": 0.2,
            "templates": ["summarize/2", "rewrite/*", own],
            "inverted_share": 0.2,
        }
    )
    summary = train(config, capsys)
    artifact = Path(summary["artifact"])
    manifest = verify(artifact)
    assert manifest.prompt_template == families()["summarize"].wordings[2]
    data = json.loads((artifact / "run.json").read_text())["data"]
    assert [entry["name"] for entry in data["wordings"]] == [
        "summarize/2",
        *(f"rewrite/{i}" for i in range(6)),
        "given/2",
        "summarize/inverted/0",
        "summarize/inverted/1",
        "rewrite/inverted/0",
    ]
    assert data["wordings"][7]["template"] == own
    assert sum(entry["num_examples"] for entry in data["wordings"]) == data["num_train"]
    again = train(config, capsys, "--overwrite")
    assert again["content_hash"] == summary["content_hash"]
    assert "trained on 11 wordings of" in (artifact / "README.md").read_text()
    overrides = ("--set", "data.templates=[summarize/2]", "--set", "data.inverted_share=0")
    single = train(config, capsys, "--overwrite", *overrides)
    assert single["content_hash"] != summary["content_hash"]
    assert single["validation_loss_before"] == summary["validation_loss_before"]
    card = (artifact / "README.md").read_text()
    assert "trained on the prompt above and" in card
