"""Bases that cannot be trained on: one line and exit code 2, before the weights load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import trainer.model
from server.models import checks
from tests.trainer.conftest import Refused, WriteConfig, WriteRows, make_rows
from trainer.__main__ import main


def test_base_with_damaged_weights(
    write_config: WriteConfig, base: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "model.safetensors: tensors end at byte" in refused(write_config(base=str(damaged)))


def test_base_that_lacks_a_tensor(
    write_config: WriteConfig,
    base: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers would go on with random numbers."""
    lacking = tmp_path / "lacking"
    shutil.copytree(base, lacking)
    tensors = load_file(lacking / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.undo()
    line = refused(write_config(base=str(lacking)), "--quiet")
    assert "its weights lack 1 tensors, such as model.layers.1.mlp.up_proj.weight" in line


@pytest.mark.parametrize("key", trainer.model.EXPERT_KEYS)
def test_base_with_experts(
    key: str, write_config: WriteConfig, base: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    experts = tmp_path / "experts"
    shutil.copytree(base, experts)
    config = json.loads((experts / "config.json").read_text())
    (experts / "config.json").write_text(json.dumps({**config, key: 8}))
    assert f"a mixture of experts ({key} 8)" in refused(write_config(base=str(experts)))


def test_server_and_trainer_know_experts_by_the_same_keys() -> None:
    assert trainer.model.EXPERT_KEYS == checks.EXPERT_KEYS


def test_base_whose_weights_have_another_shape(
    write_config: WriteConfig, base: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """transformers says nothing when it quantizes them."""
    other = tmp_path / "other"
    shutil.copytree(base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "intermediate_size": 192}))
    line = refused(write_config(base=str(other)))
    assert "mlp.down_proj.weight has shape (64, 128), config.json asks for (64, 192)" in line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", "x", "not a model: "),
        ("num_attention_heads", 0, "not a model: "),
        ("hidden_act", "nope", "not a decoder: "),
    ],
)
def test_base_with_a_nonsensical_configuration(
    key: str, value: Any, expected: str, base: Path, tmp_path: Path, write_config: WriteConfig,
    refused: Refused,
) -> None:  # fmt: skip
    broken = shutil.copytree(base, tmp_path / "broken")
    content = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(content | {key: value}))
    assert f"base '{broken}': {expected}" in refused(write_config(base=str(broken)))


def test_a_tokenizer_of_more_tokens_than_the_base(
    base: Path,
    tmp_path: Path,
    write_config: WriteConfig,
    write_rows: WriteRows,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused where a row holds one of them, and no sooner."""
    larger = shutil.copytree(base, tmp_path / "larger")
    tokenizer = AutoTokenizer.from_pretrained(larger)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(larger)
    config = write_config(base=str(larger))
    assert main(["plan", str(config), "--json"]) == 0
    path = write_rows("train.jsonl", [*make_rows(40), {"input": "a zebra", "completion": "x"}])
    sets = ["--set", "data.validation=0"]
    expected = f"{path}:41: holds the token 'zebra', number 320 of the base's tokenizer"
    capsys.readouterr()
    assert expected in refused(config, *sets)
