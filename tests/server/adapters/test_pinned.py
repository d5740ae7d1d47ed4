"""Adapters for a CUDA device are read into pinned memory, from where copies need no detour."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from server.adapters import artifact
from server.adapters.artifact import ArtifactLimits, load_artifact
from server.adapters.tensor_file import TensorFile, read_tensor_file
from server.adapters.weights import tensors_of
from server.models.loader import load_base
from tests.server.engine.kinds import check_against_peft
from tests.tiny import lora_config, make_adapter, make_base

_LIMITS = ArtifactLimits(max_bytes=1 << 20, max_lora_rank=64, max_host_bytes=1 << 20)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("pinned") / "base")


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_asked_for_on_cuda_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    asked = []

    def read(*args: Any, pin_memory: bool, **options: Any) -> TensorFile:
        asked.append(pin_memory)
        # Pinning itself needs a device.
        return read_tensor_file(*args, pin_memory=False, **options)

    monkeypatch.setattr(artifact, "read_tensor_file", read)
    path = make_adapter(base, tmp_path / "a", lora_config(), name="a", seed=0)
    info = replace(load_base(base, quantization="none").info, device=device)
    load_artifact(path, info, _LIMITS, "a")
    assert asked == [pinned]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_runs_from_pinned_memory(base: Path, tmp_path: Path) -> None:
    """The second one's tensors are copies: PEFT saved the base's embeddings beside them."""
    words = peft.LoraConfig(r=3, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    configs = {"lora": lora_config(), "words": words}
    paths = {
        name: make_adapter(base, tmp_path / name, config, name=name, seed=seed)
        for seed, (name, config) in enumerate(configs.items())
    }
    loaded = load_base(base, quantization="none", device="cuda", dtype="float32")
    for name, path in paths.items():
        weights = load_artifact(path, loaded.info, _LIMITS, name).weights
        assert all(tensor.is_pinned() for tensor in tensors_of(weights))
    check_against_peft(loaded, base, paths)
