"""The interface of objectives is enough for one that learns from pairs: nothing else changes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.config import DataConfig
from trainer.data import Preference, Row, to_preferences
from trainer.log import read_log
from trainer.objectives import OBJECTIVES, Objective
from trainer.tokens import IGNORED, Encoded, collate
from understudy.prompt import PromptTemplate


@dataclass(frozen=True)
class Pairs:
    """B prompts with their better completions, then with their worse ones."""

    input_ids: Tensor  # [2B, T]
    labels: Tensor  # [2B, T]
    num_tokens: int
    num_terms: int
    where: tuple[str, ...]


class Pairwise(Objective):
    """-log sigmoid of how much likelier the better completion is: DPO without its reference."""

    task: ClassVar[str] = "CAUSAL_LM"
    formats: ClassVar[frozenset[str]] = frozenset({"preference"})

    def target_columns(self, data: DataConfig) -> tuple[str, ...]:
        return ("chosen", "rejected")

    def read(
        self, rows: Sequence[Row], template: PromptTemplate, data: DataConfig, *, chat: bool
    ) -> list[Preference]:
        return to_preferences(rows, template, chat=chat)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Preference]
    ) -> list[Encoded]:
        def ids(text: str) -> tuple[int, ...]:
            given = tokenizer(text, add_special_tokens=False)["input_ids"]
            return (*given, tokenizer.eos_token_id)

        return [
            Encoded(
                tuple(tokenizer(example.prompt)["input_ids"]),
                ids(example.completion),
                example.where,
                rejected_ids=ids(example.rejected),
            )
            for example in examples
        ]

    def collate(self, examples: Sequence[Encoded], device: str) -> Pairs:
        sides = [Encoded(e.prompt_ids, e.completion_ids, e.where) for e in examples]
        sides += [Encoded(e.prompt_ids, e.rejected_ids, e.where) for e in examples]
        both = collate(sides, device)
        num_tokens = sum(example.num_tokens for example in examples)
        where = tuple(example.where for example in examples)
        return Pairs(both.input_ids, both.labels, num_tokens, len(examples), where)

    def _margins(self, model: Any, batch: Pairs) -> Tensor:
        logits = self.logits(model, batch)[:, -batch.labels.shape[1] : -1]
        targets = batch.labels[:, 1:]
        losses = functional.cross_entropy(
            logits.float().transpose(1, 2), targets, reduction="none", ignore_index=IGNORED
        )
        likely, unlikely = (-losses.sum(1)).chunk(2)
        return likely - unlikely

    def summed_loss(self, model: Any, batch: Pairs) -> Tensor:
        return -functional.logsigmoid(self._margins(model, batch)).sum()

    def measure(self, model: Any, batch: Pairs) -> tuple[Tensor, list[float]]:
        margins = self._margins(model, batch)
        return -functional.logsigmoid(margins).sum(), margins.tolist()

    def metrics(self, observed: Sequence[float]) -> dict[str, float]:
        return {"accuracy": sum(margin > 0 for margin in observed) / len(observed)}

    def logits(self, model: Any, batch: Pairs) -> Tensor:
        logits: Tensor = model(input_ids=batch.input_ids).logits
        return logits


@pytest.fixture
def pairwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "supervised", lambda settings, base: Pairwise())


def preferences(num: int) -> list[dict[str, str]]:
    """The better completion is the row's own, the worse one the same for all."""
    return [
        {"input": row["input"], "chosen": row["completion"], "rejected": "nobody paid"}
        for row in make_rows(num)
    ]


@pytest.mark.usefixtures("pairwise")
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_a_run_over_pairs(
    method: str,
    write_config: WriteConfig,
    write_rows: WriteRows,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Split, wordings, batches, validation metrics, export; and resumed to the same bits."""
    path = write_rows("pairs.jsonl", preferences(40))
    config = write_config(
        data={"train": str(path), "validation": 0.3, "template_name": "summarize"},
        method={"type": method},
        optimiser={"learning_rate": 0.02, "batch_size": 4, "max_steps": 7},
        loop={"checkpoint_every": 2},
    )
    whole = train(config, capsys)
    assert whole["validation_loss"] < whole["validation_loss_before"]
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    accuracies = [r["accuracy"] for r in records if r["event"] == "validation"]
    assert accuracies[-1] >= accuracies[0]
    run = json.loads((Path(whole["artifact"]) / "run.json").read_text())
    assert run["max_logit_difference_reread"] == 0

    num_calls = 0
    original = Pairwise.summed_loss

    def stops(self: Pairwise, model: Any, batch: Pairs) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 6:
            raise KeyboardInterrupt
        return original(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Pairwise, "summed_loss", stops)
        assert main(["train", str(config), "--overwrite"]) == 130
    assert train(config, capsys, "--resume")["content_hash"] == whole["content_hash"]
    # The same ids through disk.
    streamed = train(config, capsys, "--overwrite", "--set", "data.stream=true")
    assert streamed["content_hash"] == whole["content_hash"]


def test_supervised_learns_no_pairs(
    write_config: WriteConfig, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows("pairs.jsonl", preferences(12))
    assert main(["train", str(write_config(data={"train": str(path)}))]) == 2
    assert "does not learn preferences" in capsys.readouterr().err
