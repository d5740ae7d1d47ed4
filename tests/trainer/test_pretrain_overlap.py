"""Test items in pretraining text: found in the corpus, not in what was trained on without them."""

import gzip
import json
from pathlib import Path

import pytest

from trainer import corpus, pretrain_overlap
from trainer.errors import DataError
from trainer.keep_out import KeptOut
from trainer.pretrain_config import DataConfig, SourceConfig


def words(name: str, num: int = 13) -> str:
    return " ".join(f"{name}{number}" for number in range(num))


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    (folder / "quiz" / "deep").mkdir(parents=True)
    items = [{"q": words("one"), "a": "x"}, {"q": words("absent")}, {"q": "short"}]
    (folder / "quiz" / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    examples = {"canary": "text", "examples": [{"input": words("two")}, {"input": words("three")}]}
    (folder / "quiz" / "deep" / "a.json").write_text(json.dumps(examples))
    (folder / "quiz" / "deep" / "b.tsv").write_text(f"0\t{words('two')}\n1\t{words('four')}\n")
    (folder / "quiz" / "c.csv").write_text(
        f'"Read\nthis: ""{words("six", 12)}\nsix12""",yes\nshort,no\n'
    )
    (folder / "quiz" / "train.jsonl").write_text(json.dumps({"q": words("five")}) + "\n")
    return folder


def test_items_are_counted_by_folder(sets: Path, tmp_path: Path) -> None:
    documents = [f"Say: {words('one').upper()}!", f"{words('two')} and more", words("five")]
    documents.append(words("six"))
    documents += [f"Plain document {number} of the corpus." for number in range(60)]
    (tmp_path / "corpus").mkdir()
    with gzip.open(tmp_path / "corpus" / "tales.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in documents)
    config = DataConfig((SourceConfig("tales", 1.0),), validation_share=0.0)
    work, out = tmp_path / "work", tmp_path / "out.json"
    corpus.prepare(config, tmp_path / "corpus", work, 300, 32, keep_out=KeptOut([words("one")]))
    command = [str(sets), "--work", str(work), "--corpus", str(tmp_path / "corpus")]
    assert pretrain_overlap.main([*command, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found == {
        "num_words": 13,
        "sets": {
            "quiz": {"items": 5, "long_enough": 3, "in_training": 1, "in_corpus": 2},
            "quiz/deep": {"items": 4, "long_enough": 4, "in_training": 2, "in_corpus": 2},
        },
    }


def test_training_texts_are_those_prepared(tmp_path: Path) -> None:
    texts = [f"Document {number}, <|user|>with é and  spaces." for number in range(70)]
    (tmp_path / "corpus").mkdir()
    with gzip.open(tmp_path / "corpus" / "tales.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    config = DataConfig((SourceConfig("tales", 1.0),), validation_share=0.0)
    corpus.prepare(config, tmp_path / "corpus", tmp_path / "work", 300, 32)
    assert list(pretrain_overlap.training_texts(tmp_path / "work")) == texts


def test_missing_sets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tmp_path / "no"), "--work", str(tmp_path), "--out", str(tmp_path / "o")]
    assert pretrain_overlap.main(command) == 2
    assert f"error: {tmp_path / 'no'}: no file to keep out" in capsys.readouterr().err


def test_files_that_are_not_json_are_named(sets: Path) -> None:
    (sets / "quiz" / "broken.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"broken\.jsonl: "):
        pretrain_overlap.overlap(sets, {"in_training": []})
