"""Classifiers: what they learn, that the server answers what was trained, and what is refused."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from torch.nn import functional
from transformers import Qwen2Config

from server.adapters.artifact import ArtifactLimits, load_artifact
from server.models import loader as server_loader
from tests.server.engine.harness import Driver, HeldAdapter, read_adapter
from tests.tiny import WORDS, make_model
from tests.trainer.conftest import WriteConfig, WriteRows
from tests.trainer.jobs import configure, trained
from tests.trainer.test_train import train
from trainer import preflight
from trainer.__main__ import main
from trainer.config import ClassificationConfig, DataConfig
from trainer.data import Example
from trainer.log import read_log
from trainer.methods import METHODS
from trainer.model import give_head, load_base, load_tokenizer
from trainer.objectives.classification import Classification
from trainer.schedule import seeded
from understudy.artifact import verify

LABELS = ("dry", "late", "wet")
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "head": {"type": "head"},
    "lora": {"type": "lora", "rank": 4},
    "prompt_tuning": {"type": "prompt_tuning", "num_virtual_tokens": 3},
}


def class_rows(num: int) -> list[dict[str, Any]]:
    """Distinct texts whose class is told by their last word."""
    words = WORDS.split()
    last = {"dry": "bridge", "late": "noon", "wet": "short"}
    rows = []
    for i in range(num):
        label = LABELS[i % 3]
        text = f"{i} {words[i % len(words)]} {words[i * 7 % len(words)]} {last[label]}"
        rows.append({"text": text, "label": label})
    return rows


@pytest.fixture
def write(tmp_path: Path, write_config: WriteConfig, write_rows: WriteRows) -> Callable[..., Path]:
    """A configuration of a classifier over `rows`."""

    def configure(rows: list[Any], method: str = "head", **objective: Any) -> Path:
        train_path = write_rows("classes.jsonl", rows)
        return write_config(
            data={"train": str(train_path), "validation": 0.3, "template": "{{ text }}"},
            method=METHOD_SETTINGS[method],
            objective={"type": "classification", **objective},
            optimiser={"learning_rate": 0.05, "batch_size": 6, "epochs": 6},
            loop={"checkpoint_every": 5},
        )

    return configure


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS))
def test_the_server_answers_what_was_trained(
    method: str, write: Callable[..., Path], capsys: pytest.CaptureFixture[str], base: Path
) -> None:
    summary = train(write(class_rows(60), method), capsys)
    artifact = Path(summary["artifact"])
    # The features of random weights tell less than what is trained in them.
    least = 0.75 if method == "head" else 0.95
    assert summary["validation_metrics"]["accuracy"] >= least
    assert summary["validation_metrics"]["macro_f1"] >= least
    records = read_log(artifact.parent / "metrics.jsonl")
    validations = [r for r in records if r["event"] == "validation"]
    assert validations[0]["accuracy"] < validations[-1]["accuracy"]
    assert validations[0]["loss"] > summary["validation_loss"]
    manifest = verify(artifact)
    assert tuple(manifest.labels) == LABELS
    run = json.loads((artifact / "run.json").read_text())
    assert run["max_logit_difference_reread"] < 1e-5

    bare = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu", task="SEQ_CLS")
    give_head(bare, len(LABELS))
    model = peft.PeftModel.from_pretrained(bare, str(artifact)).eval()
    tokenizer = load_tokenizer(base)
    served = server_loader.load_base(base, quantization="nf4")
    limits = ArtifactLimits(1 << 30, 64, 1 << 30)
    version = load_artifact(artifact, name="first", base=served.info, limits=limits)
    driver = Driver(served)
    template = version.template
    assert template is not None
    for row in class_rows(9):
        prompt = tokenizer(template.render({"text": row["text"]}))["input_ids"]
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([prompt])).logits[0].double().softmax(0)
        inbox = driver.add(tuple(prompt), HeldAdapter("first", version.weights), classify=True)
        driver.run()
        found = {score.label: score.probability for score in inbox.classified.labels}
        assert [found[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS))
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_batch_gives_the_loss_of_transformers_row_by_row(
    method: str, quantization: str, base: Path
) -> None:
    """Its own loss, alone and without padding; neighbours change nothing."""
    from trainer.config_file import parse_config

    config = parse_config(
        {"name": "x", "base": "b", "data": {"train": "t"}, "output": {"dir": "o"}}
        | {"method": METHOD_SETTINGS[method]},
        "test",
    )
    model = load_base(
        base, quantization=quantization, dtype=torch.float32, device="cpu", task="SEQ_CLS"
    )
    tokenizer = load_tokenizer(base)
    with seeded(1, "test"):
        give_head(model, 3)
        adapted = METHODS[method].attach(model, config.method, tokenizer).train()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    settings = ClassificationConfig(type="classification", class_weights="balanced")
    rows = class_rows(7)
    examples = [Example(row["text"], row["label"], "f:1") for row in rows]
    objective = Classification(settings).bound(examples)
    assert objective.weights == pytest.approx((7 / 9, 7 / 6, 7 / 6))
    encoded = objective.encode(tokenizer, examples)
    batch = objective.collate(encoded, "cpu")
    assert batch.num_terms == pytest.approx(7)
    loss, observed = objective.measure(adapted, batch)
    plain = torch.zeros(())
    for example, (predicted, true) in zip(encoded, observed, strict=True):
        logits = adapted(input_ids=torch.tensor([example.prompt_ids])).logits
        assert example.class_id == true
        assert logits.argmax().item() == predicted
        alone = functional.cross_entropy(logits, torch.tensor([true]))
        plain = plain + objective.weights[true] * alone
    tolerance = 1e-5 if quantization == "nf4" else 1e-3
    assert loss.item() == pytest.approx(plain.item(), rel=tolerance)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    for got, expected in zip(
        torch.autograd.grad(objective.summed_loss(adapted, batch), trained),
        torch.autograd.grad(plain, trained),
        strict=True,
    ):
        assert expected.abs().max() > 0
        assert (got - expected).norm() <= max(tolerance, 1e-4) * expected.norm()


def test_metrics_of_known_answers() -> None:
    """Against figures worked out by hand: class 3 is predicted and never true."""
    metrics = Classification(ClassificationConfig(type="classification")).metrics(
        [(0, 0), (0, 0), (1, 0), (1, 1), (3, 1), (2, 2)]
    )
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 1 + 0) / 4)


EXTRA: dict[str, dict[str, Any]] = {
    "layers": {"modules": ["input_layernorm"]},
}


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose projections have biases, for BitFit."""
    directory = tmp_path_factory.mktemp("biased") / "qwen2"
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2,
    )
    return make_model(directory, config)


# Full fine-tuning writes a base, and PEFT's form of trained tokens saves nothing beside them.
HEADLESS = {"full", "trainable_tokens"}


@pytest.mark.parametrize("method", sorted(METHODS.keys() - HEADLESS))
def test_a_head_beside_every_method_is_served(
    method: str, base: Path, biased: Path, tmp_path: Path
) -> None:
    directory = biased if method == "bitfit" else base
    settings = {"type": "classification"}
    config = dataclasses.replace(
        configure(directory, tmp_path, {"type": method, **EXTRA.get(method, {})}),
        objective=ClassificationConfig(**settings),
        data=DataConfig(train=(_written(tmp_path),), template="{{ text }}"),
    )
    prepared = preflight.prepare(config)
    job = trained(config, prepared)
    parameters = sum(p.numel() for p in job.parameters.values())
    assert parameters == prepared.num_trainable
    kind = METHODS[method]
    kind.save(job.model, tmp_path / "adapter")
    served = server_loader.load_base(directory, quantization="nf4", kernels="torch")
    held = HeldAdapter("a", read_adapter(tmp_path / "adapter", served.info))
    objective, examples = prepared.objective, list(prepared.train)[:3]
    detached = kind.detach(job.model)
    reread = kind.reread(detached, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = objective.logits(reread, objective.collate(examples, "cpu")).double()
    driver = Driver(served)
    for example, logits in zip(examples, expected, strict=True):
        inbox = driver.add(example.prompt_ids, held, classify=True)
        driver.run()
        scores = sorted(inbox.classified.labels, key=lambda score: score.label)
        found = torch.tensor([score.logit for score in scores], dtype=torch.float64)
        assert (found - logits).norm() <= 1e-4 * logits.norm()


def _written(folder: Path) -> Path:
    path = folder / "classes.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in class_rows(30)))
    return path


@pytest.mark.parametrize("method", ["head", "lora"])
def test_interrupted_and_resumed_equals_uninterrupted(
    method: str,
    write: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write(class_rows(40), method)
    whole = train(config, capsys)
    num_calls = 0
    original = Classification.summed_loss

    def stops(self: Classification, model: Any, batch: Any) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 13:
            raise KeyboardInterrupt
        return original(self, model, batch)

    monkeypatch.setattr(Classification, "summed_loss", stops)
    assert main(["train", str(config), "--overwrite"]) == 130
    monkeypatch.undo()
    torch.set_num_threads(1)
    resumed = train(config, capsys, "--resume")
    assert resumed["content_hash"] == whole["content_hash"]
    assert resumed["validation_metrics"] == whole["validation_metrics"]


def test_what_is_held_out_for_a_classifier_is_no_task_of_texts(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(class_rows(40), "head")
    summary = train(config, capsys, "--set", "data.test=0.2", "--set", "optimiser.max_steps=1")
    folder = Path(summary["artifact"]).parent
    assert (folder / "test.jsonl").is_file()
    assert not (folder / "test.yaml").exists()


def test_numbers_are_labels_in_their_order() -> None:
    examples = [Example(f"{i}", str(i % 3 * 9 - 9), "f:1") for i in range(12)]
    bound = Classification(ClassificationConfig(type="classification")).bound(examples)
    assert bound.labels == ("-9", "0", "9")


def rows_of(**counts: int) -> list[dict[str, Any]]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [{"text": f"{i} rain", "label": label} for i, label in enumerate(labels)]


REFUSALS: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("one class", rows_of(a=30), {}, "all 20 training rows have the label 'a'; there is nothing"),
    ("imbalance", rows_of(a=90, b=2), {}, "of the training rows have the label 'a', more than"),
    (
        "no classes",
        [{"text": f"{i} rain", "label": f"the {i}th"} for i in range(30)],
        {},
        "different labels in",
    ),
    ("not listed", rows_of(a=9, b=9), {"labels": ["a", "c"]}, "objective.labels does not name"),
    ("too few listed", rows_of(a=9, b=9), {"labels": ["a"]}, "key 'objective.labels': "),
    ("no label", [{"text": "rain"}], {}, ":1: column 'label' is missing (there is text)"),
    ("null", [{"text": "rain", "label": None}], {}, ":1: column 'label' must be text, got null"),
    ("share", [{"text": "rain", "label": 0.5}], {}, ":1: column 'label' holds 0.5, no label"),
    ("other column", rows_of(a=9, b=9), {"label_column": "kind"}, ":1: column 'kind' is missing"),
    (
        "messages",
        [{"messages": [{"role": "user", "content": "a"}], "label": "b"}],
        {},
        ":1: rows with messages are not classified",
    ),
    ("unknown key", rows_of(a=9, b=9), {"lables": ["a"]}, "did you mean 'label"),
]


@pytest.mark.parametrize(("rows", "objective", "expected"), [r[1:] for r in REFUSALS])
def test_what_is_no_classification_is_refused_before_the_weights_load(
    rows: list[Any],
    objective: dict[str, Any],
    expected: str,
    write: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.model.load_base", None)
    config = write(rows, **objective)
    if "messages" in rows[0]:
        settings = yaml.safe_load(config.read_text())
        settings["data"]["template"] = "{{ messages }}"
        config.write_text(yaml.safe_dump(settings))
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert expected in error


def test_labels_unknown_in_training_are_refused(
    write: Callable[..., Path], write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    held = write_rows("held.jsonl", [{"text": "a bridge", "label": "icy"}])
    config = write(class_rows(30))
    assert main(["train", str(config), "--set", f"data.validation={held}"]) == 2
    assert f"{held}:1: no training row has its label 'icy'" in capsys.readouterr().err
    assert main(["train", str(config), "--set", "data.template='{{ text }} {{ label }}'"]) == 2
    assert "it reads 'label', the text to learn" in capsys.readouterr().err
    for method in ("full}", "trainable_tokens, tokens: [5]}"):
        assert main(["train", str(config), "--set", f"method={{type: {method}"]) == 2
        assert "take head" in capsys.readouterr().err
    assert main(["train", str(config), "--set", "objective={type: supervised}"]) == 2
    assert "'head' trains the head of a classifier" in capsys.readouterr().err


def test_a_fresh_head_knows_nothing(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before training the loss is near that of guessing, and the seed decides the head."""
    config = write(class_rows(40))
    hashes = {
        train(config, capsys, "--overwrite", "--set", f"seed={s}")["content_hash"]
        for s in (1, 1, 2)
    }
    assert len(hashes) == 2
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    assert abs(records[0]["loss"] - math.log(3)) < 1.5
