"""The card's measurements: hold-out, windows, bits per byte, blocks of the page, the command."""

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from demo.card.__main__ import main
from demo.card.bits import Measured, by_ngrams, by_source, windows
from demo.card.blocks import names, replaced, table
from demo.card.held import BOS, CardError, Document, held_out, read_tokenizer, training_tokens
from demo.card.kneser_ney import KneserNey
from demo.card.scores import _chance, write_texts
from demo.card.sizes import stage
from demo.card.tables import BLOCKS
from evalsuite.registry import load_tasks
from tests.process import environment
from trainer import corpus
from trainer.pretrain_config import DataConfig, SourceConfig

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("stories", "notices")


def text_of(source: str, number: int) -> str:
    return (
        f"The {source} of day {number}: the cat saw {number + 1} birds, é, and <|user|>sat<|end|>"
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of two sources, with what a run of four steps recorded."""
    folder = tmp_path_factory.mktemp("corpus")
    for source in SOURCES:
        with gzip.open(folder / f"{source}.jsonl.gz", "wt", encoding="utf-8") as out:
            for number in range(80):
                out.write(json.dumps({"text": text_of(source, number)}) + "\n")
    config = DataConfig(
        tuple(SourceConfig(source, 0.5) for source in SOURCES), validation_share=0.1
    )
    path = tmp_path_factory.mktemp("work")
    corpus.prepare(config, folder, path, vocab_size=320, context=32)
    lines = [
        {"step": 4, "elapsed_s": 7.2, "loss": 2.5, "learning_rate": 0.01, "tokens": 256},
        {
            "step": 4,
            "elapsed_s": 7.2,
            "validation": {source: {"loss": 2.0, "bits_per_byte": 1.5} for source in SOURCES},
        },
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def base(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the prepared folder's tokenizer; a page with every block."""
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(path)
    for file in (work / "tokenizer").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    blocks = [f"<!-- begin: {name} -->\nold {name}\n<!-- end: {name} -->\n" for name in BLOCKS]
    (path / "README.md").write_text("# A base\n\n" + "prose\n".join(blocks) + "the end\n")
    return path


def test_held_out_are_the_documents_that_training_does_not_see(work: Path) -> None:
    found = held_out([work])
    every = [text_of(source, number) for source in SOURCES for number in range(80)]
    assert [document.text for document in found] == [t for t in every if corpus.is_held_out(t, 0.1)]
    tokens = training_tokens([work, work], found)
    assert len(tokens) == sum(len(np.load(work / f"{source}.train.npy")) for source in SOURCES)
    again = training_tokens([work], [*found, Document("more", text_of("stories", 0))])
    seen = 0 if corpus.is_held_out(text_of("stories", 0), 0.1) else 1
    bos = read_tokenizer(work / "tokenizer").token_to_id(BOS)
    assert (tokens == bos).sum() - (again == bos).sum() == seen


def test_a_count_of_bytes_that_does_not_hold_is_refused(work: Path, tmp_path: Path) -> None:
    for file in work.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer").symlink_to(work / "tokenizer")
    counts = json.loads((work / "data.json").read_text())
    counts[0]["num_validation_bytes"] += 1
    (tmp_path / "data.json").write_text(json.dumps(counts))
    with pytest.raises(CardError, match="'stories' decode to"):
        held_out([tmp_path])
    with pytest.raises(CardError, match=r"data\.json: no such file"):
        held_out([tmp_path / "nowhere"])


@given(length=st.integers(1, 90), context=st.integers(2, 20).map(lambda half: 2 * half))
def test_windows_score_every_token_but_the_first_once(length: int, context: int) -> None:
    found = list(windows(range(length), context))
    assert [token for window in found for token in window.scored] == list(range(1, length))
    for number, window in enumerate(found):
        assert len(window.given) + len(window.scored) <= context
        assert window.given[-1] + 1 == window.scored[0]
        assert len(window.given) == (context // 2 if number else 1)


def test_bits_per_byte_by_hand() -> None:
    documents = [Document("a", "é!"), Document("b", "four"), Document("a", "x")]
    nats = [6 * math.log(2), 2 * math.log(2), 2 * math.log(2)]
    found = by_source(documents, [Measured(value, 2) for value in nats])
    assert found["a"] == {"documents": 2, "bytes": 4, "tokens": 4, "bits_per_byte": 2.0}
    assert found["b"]["bits_per_byte"] == 0.5
    assert found["all"] == {"documents": 3, "bytes": 8, "tokens": 6, "bits_per_byte": 1.25}


def test_n_grams_pay_for_each_token_of_a_document(work: Path) -> None:
    documents = held_out([work])
    tokenizer = read_tokenizer(work / "tokenizer")
    model = KneserNey(training_tokens([work], documents), 5, 320, 0)
    (measured,) = by_ngrams(model, tokenizer, documents[:1])
    ids = tokenizer.encode(documents[0].text).ids
    product = math.prod(model.probabilities(ids))
    assert measured == Measured(pytest.approx(-math.log(product)), len(ids) - 1)


def test_blocks_are_replaced_alone_and_again() -> None:
    page = "# T\n<!-- begin: one -->\nold\n<!-- end: one -->\nprose | with `signs`\n"
    page += "<!-- begin: two -->\n<!-- end: two -->\n"
    assert names(page) == ["one", "two"]
    once = replaced(page, "one", "| new |\n")
    assert replaced(once, "one", "| new |") == once
    assert "old" not in once
    assert "prose | with `signs`\n<!-- begin: two -->\n<!-- end: two -->\n" in once
    for broken in ("no markers", page * 2, page.replace("end: one", "end: on")):
        with pytest.raises(CardError, match="begin: one"):
            replaced(broken, "one", "new")


def test_a_stage_ends_with_its_last_step(work: Path, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text((work / "data.json").read_text())
    first, second = map(json.loads, (work / "metrics.jsonl").read_text().splitlines())
    second |= {"step": 6, "elapsed_s": 36.0}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    found = stage(tmp_path)
    assert (found["steps"], found["tokens"], found["hours"]) == (6, 384, 0.01)
    assert (found["last_loss"], found["checks"][-1]["tokens"]) == (2.5, 384)


def test_columns_of_numbers_stand_to_the_right() -> None:
    found = table(["name", "n", "share"], [["a", "1,000", "0.5 (0.1 to 0.9)"], ["b", "", "-"]])
    assert found.splitlines()[1] == "| --- | ---: | ---: |"


def test_page_of_the_embedded_base_has_every_block_once() -> None:
    page = (ROOT / "demo" / "base" / "README.md").read_text(encoding="utf-8")
    assert sorted(names(page)) == sorted(BLOCKS)
    for name in BLOCKS:
        replaced(page, name, "anything")


def test_texts_of_each_source_are_a_task_of_the_suite(tmp_path: Path) -> None:
    documents = [Document("tales", " Once  upon\na time. "), Document("tales", "w " * 3000)]
    documents.append(Document("single", "word"))
    (path,) = write_texts(documents, tmp_path)
    (task,) = load_tasks([str(path)], None)
    first, second = task.samples
    assert (task.name, first.input, first.choices) == ("text_tales", "Once", ("  upon\na time.",))
    assert len(second.input + second.choices[0]) <= 2000


@pytest.mark.parametrize(
    ("metric", "samples", "expected"),
    [
        ("accuracy", [{"choices": ["a", "b"]}, {"choices": ["a", "b", "c", "d"]}], 0.375),
        ("mcc", [{"choices": ["a", "b"]}], 0.0),
        ("rougeL", [{"task": "x"}], None),
        ("exact_match", [{"task": "bbh", "id": "sub:1"}, {"task": "bbh", "id": "sub:3"}], 0.5),
    ],
)
def test_chance(
    metric: str, samples: list[dict[str, Any]], expected: float | None, tmp_path: Path
) -> None:
    (tmp_path / "bbh" / "bbh").mkdir(parents=True)
    examples = [{"target": target} for target in ("yes", "no", "yes")]
    (tmp_path / "bbh" / "bbh" / "sub.json").write_text(json.dumps({"examples": examples}))
    assert _chance(metric, samples, tmp_path) == expected


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return


def oracle_nats(model: Any, tokenizer: Any, text: str, context: int) -> float:
    total = 0.0
    for window in windows(tokenizer.encode(text).ids, context):
        ids = torch.tensor([[*window.given, *window.scored]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        for place, token in enumerate(window.scored, start=len(window.given)):
            total -= logprobs[place - 1, token].item()
    return total


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(arguments) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return {line["section"]: line for line in lines}


@pytest.mark.usefixtures("quiet")
def test_command_measures_through_a_server_and_fills_its_blocks(
    base: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Takes the seconds of one real server's start."""
    common = ["--base", str(base), "--work", str(work)]
    sections = run([*common, "--only", "bf16,5gram,sizes"], capsys)
    assert set(sections) == {"bf16", "5gram", "facts", "stages"}
    served, grams = sections["bf16"], sections["5gram"]
    tokenizer, documents = read_tokenizer(base), held_out([work])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    nats = sum(oracle_nats(model, tokenizer, d.text, 32) for d in documents)
    num_bytes = sum(d.num_bytes for d in documents)
    found = served["result"]["sources"]["all"]
    assert found["bytes"] == grams["result"]["sources"]["all"]["bytes"] == num_bytes
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=5e-3)
    page = (base / "README.md").read_text()
    assert "| parameters | 49,344 (20,480 of them embeddings) |" in page
    assert "| tokens | 256 |" in page
    assert "old bits" in page  # not all of its sections are there
    assert page.count("prose") == len(BLOCKS) - 1

    # The second time nothing is measured: what is kept is printed, and the page stays.
    assert run([*common, "--only", "bf16,5gram,sizes"], capsys) == sections
    assert (base / "README.md").read_text() == page


def test_a_section_that_fails_leaves_the_others(
    base: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--base", str(base), "--results", str(tmp_path), "--only", "stages,facts,adapters"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["section"] for line in captured.out.splitlines()] == ["facts"]
    assert "demo.card: stages: needs --work" in captured.err
    assert "demo.card: adapters: needs --demo-report" in captured.err


def test_a_report_without_the_adapters_is_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    common = ["--base", str(base), "--results", str(tmp_path), "--only", "adapters"]
    for text, message in (("{}", f"--demo-report {report} has no "), ("{", "adapters: ")):
        report.write_text(text)
        assert main([*common, "--demo-report", str(report)]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "nowhere"], "--base nowhere is not a model directory"),
        (["--out", "nowhere"], "there is no nowhere"),
        ([], "--results: needed without --work"),
        (["--work", "nowhere"], "--work nowhere holds no data.json"),
    ],
)
def test_wrong_folders(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_unknown_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "bits"])
    assert "'bits' is none of facts, stages" in capsys.readouterr().err
