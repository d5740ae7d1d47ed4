"""Classification heads are read beside any method, or refused with the reason."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from server.adapters.artifact import ArtifactLimits, load_artifact, read_weights
from server.errors import AdapterRefusedError
from server.models.loader import load_base
from server.types import BaseInfo
from tests.tiny import make_adapter, make_base
from understudy.artifact import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    Manifest,
    content_hash,
    seal,
)

_LIMITS = ArtifactLimits(max_bytes=1 << 24, max_lora_rank=64, max_host_bytes=1 << 24)
_HEAD = "base_model.model.score.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def info(base: Path) -> BaseInfo:
    return load_base(base, quantization="none").info


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    return make_adapter(base, tmp_path_factory.mktemp("lora"), config, name="mood", seed=1)


def _parts(directory: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    config = json.loads((directory / CONFIG_FILE).read_text())
    return config, load_file(directory / TENSORS_FILE)


def test_a_head_beside_lora(lora: Path, info: BaseInfo) -> None:
    config, tensors = _parts(lora)
    weights = read_weights("lora", config, tensors, info)
    assert weights.classifier is not None
    assert torch.equal(weights.classifier.weight, tensors[_HEAD])
    assert weights.classifier.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (weights.rank, len(weights.linears)) == (2, 2)
    assert weights.size_bytes == sum(tensor.nbytes for tensor in tensors.values())
    names = {"2": "c", "0": "a", "1": "b"}
    named = read_weights("lora", config | {"id2label": names}, tensors, info)
    assert named.classifier is not None
    assert named.classifier.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({}, {_HEAD: None}, f"missing tensor '{_HEAD}'"),
        ({}, {_HEAD: torch.zeros(3, 63)}, "shape [3, 63], the base needs [any, 64]"),
        ({}, {_HEAD: torch.full((1, 64), 1e300, dtype=torch.float64)}, "overflows in float32"),
        ({}, {"base_model.model.score.bias": torch.zeros(3)}, "score.bias"),
        ({}, {"base_model.model.score.lora_A.weight": torch.zeros(2, 64)}, "'score'"),
        ({"task_type": "CAUSAL_LM"}, {}, "no module 'classifier'"),
        ({"task_type": "CAUSAL_LM", "modules_to_save": None}, {}, "unknown tensor"),
        ({"task_type": "TOKEN_CLS"}, {}, "task_type 'TOKEN_CLS' is not served"),
        ({"modules_to_save": ["score", "pooler"]}, {}, "no module 'pooler'"),
        ({"modules_to_save": "score"}, {}, "modules_to_save must be a list"),
        ({"id2label": {"0": "a", "1": "b"}}, {}, "id2label must name each of the 3 labels"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, {}, "from '0' to '2'"),
        ({"id2label": {"0": "a", "1": "b", "2": 3}}, {}, "id2label must name"),
        ({"id2label": ["a", "b", "c"]}, {}, "id2label must name"),
        ({"problem_type": "regression"}, {}, "key 'problem_type' is unknown"),
    ],
    ids=lambda value: re.sub(r"\W+", "_", value) if isinstance(value, str) else "",
)
def test_refusals(
    changes: dict[str, Any],
    tensors: dict[str, torch.Tensor | None],
    message: str,
    lora: Path,
    info: BaseInfo,
) -> None:
    config, own = _parts(lora)
    changed = {name: tensor for name, tensor in (own | tensors).items() if tensor is not None}
    with pytest.raises(AdapterRefusedError) as error:
        read_weights("lora", config | changes, changed, info)
    assert message in str(error.value)


def test_a_base_whose_head_cannot_be_told_apart(lora: Path, info: BaseInfo) -> None:
    with pytest.raises(AdapterRefusedError, match="LlamaForCausalLM has no final hidden states"):
        read_weights("lora", *_parts(lora), replace(info, has_body=False))


def test_labels_of_the_manifest(lora: Path, info: BaseInfo, tmp_path: Path) -> None:
    """Names are part of the version; three of them, for there are three labels."""
    for file_name in (CONFIG_FILE, TENSORS_FILE, MANIFEST_FILE):
        (tmp_path / file_name).write_bytes((lora / file_name).read_bytes())
    unnamed = Manifest.from_json((tmp_path / MANIFEST_FILE).read_text())
    named = seal(tmp_path, replace(unnamed, labels=["bad", "fair", "good"]))
    assert named.content_hash != unnamed.content_hash
    assert content_hash(tmp_path, replace(named, labels=[])) == unnamed.content_hash
    adapter = load_artifact(tmp_path, info, _LIMITS, "mood")
    assert adapter.weights.classifier is not None
    assert adapter.weights.classifier.labels == ("bad", "fair", "good")
    seal(tmp_path, replace(unnamed, labels=["bad", "good"]))
    with pytest.raises(AdapterRefusedError, match="names 2 labels, the tensors have 3"):
        load_artifact(tmp_path, info, _LIMITS, "mood")
    for wrong in ("bad", ["bad", ""], ["bad", 1]):
        text = json.dumps({**json.loads(unnamed.to_json()), "labels": wrong})
        (tmp_path / MANIFEST_FILE).write_text(text)
        with pytest.raises(AdapterRefusedError, match="'labels' must be a list of non-empty"):
            load_artifact(tmp_path, info, _LIMITS, "mood")


def test_labels_without_a_head(base: Path, info: BaseInfo, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    make_adapter(base, tmp_path, config, name="plain", seed=1, labels=("a",))
    with pytest.raises(AdapterRefusedError, match="names 1 labels, the tensors have 0"):
        load_artifact(tmp_path, info, _LIMITS, "plain")
    _, tensors = _parts(tmp_path)
    save_file(tensors | {_HEAD: torch.zeros(3, 64)}, tmp_path / TENSORS_FILE)
    with pytest.raises(AdapterRefusedError):
        load_artifact(tmp_path, info, _LIMITS, "plain")
