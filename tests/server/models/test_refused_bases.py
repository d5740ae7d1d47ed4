"""Bases that are refused, and what the one line says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from transformers import PretrainedConfig

from server.errors import StartupError
from server.models import decoder
from server.models.loader import load_base
from tests.server.models.test_loader import ARCHITECTURES
from tests.tiny import make_model


def _refusal(directory: Path, **options: Any) -> str:
    with pytest.raises(StartupError) as error:
        load_base(directory, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_parts_are_named(tmp_path: Path, llama: Path) -> None:
    assert "no such directory" in _refusal(tmp_path / "nowhere")
    assert "config.json" in _refusal(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(llama, broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "safetensors" in _refusal(broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors: not a safetensors file" in _refusal(broken)


def _damaged(
    llama: Path, directory: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> Path:
    """A copy of a base with other tensors in it."""
    shutil.copytree(llama, directory)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_wrong_weights_are_named(quantization: str, tmp_path: Path, llama: Path) -> None:
    query, down = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
    narrow = _damaged(
        llama, tmp_path / "narrow", lambda t: t.update({query: t[query][:32].clone()})
    )
    assert _refusal(narrow, quantization=quantization) == (
        f"base 'narrow': model.safetensors: {query} has shape [32, 64], "
        "config.json asks for [64, 64]"
    )
    turned = _damaged(
        llama, tmp_path / "turned", lambda t: t.update({down: t[down].t().contiguous()})
    )
    assert f"{down} has shape [128, 64]" in _refusal(turned, quantization=quantization)
    # transformers would fill them with random numbers.
    lacking = _damaged(
        llama, tmp_path / "lacking", lambda t: [t.pop(key) for key in (query, down)].clear()
    )
    assert _refusal(lacking, quantization=quantization) == (
        f"base 'lacking': no *.safetensors file holds {query} and 1 more"
    )


def test_a_checkpoint_without_its_prefix_loads(tmp_path: Path) -> None:
    """As GPT-2 is published: the decoder's own names, no head."""
    directory = make_model(tmp_path / "gpt2", ARCHITECTURES["gpt2"])
    expected = load_base(directory).info

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    assert load_base(_damaged(directory, tmp_path / "bare", strip)).info.num_parameters == (
        expected.num_parameters
    )

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        strip(tensors)
        tensors["wpe.weight"] = tensors["wpe.weight"][:100].clone()

    short = _damaged(directory, tmp_path / "short", shorten)
    assert "wpe.weight has shape [100, 64]" in _refusal(short)


@pytest.mark.parametrize(
    ("file_name", "text", "message"),
    [
        ("config.json", "{nope", "config.json cannot be read: Expecting property name"),
        ("generation_config.json", "{nope", "generation_config.json cannot be read: Expecting"),
        ("tokenizer.json", "{nope", "tokenizer.json cannot be read: Expecting property name"),
        ("tokenizer.json", "{}", "its tokenizer (tokenizer.json) cannot be loaded: KeyError"),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": 3}', "tokenizer.json"),
        ("config.json", '{"model_type": "llama", "hidden_size": 63}', "multiple of the number"),
    ],
)
def test_broken_files_are_named(
    file_name: str, text: str, message: str, tmp_path: Path, llama: Path
) -> None:
    directory = tmp_path / "broken"
    shutil.copytree(llama, directory)
    (directory / file_name).write_text(text)
    refusal = _refusal(directory)
    assert refusal.startswith("base 'broken': ")
    assert message in refusal


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int4"}, "quantization 'int4' is not one of nf4, int8, none"),
        ({"dtype": "float8"}, "dtype 'float8'"),
        ({"weight_form": "held"}, "weight_form 'held'"),
        ({"device": "tpu0"}, "device 'tpu0'"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str, llama: Path) -> None:
    assert message in _refusal(llama, **options)


def test_deterministic_is_for_a_cpu(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _refusal(llama, device="cuda", deterministic=True).startswith(
        "engine.deterministic: the base is on cuda; "
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_no_cuda(llama: Path) -> None:
    assert "no CUDA" in _refusal(llama, device="cuda")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "mamba"}, "linear_attention"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"num_kv_shared_layers": 1}, "share keys and values"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "already quantized"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "dynamic RoPE",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_that_would_run_wrong(
    changes: dict[str, Any], message: str, tmp_path: Path, llama: Path
) -> None:
    directory = tmp_path / "changed"
    shutil.copytree(llama, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    assert message in _refusal(directory)


@pytest.mark.parametrize(
    "config",
    [
        # Attention of its own, with a bias that grows with the distance (ALiBi).
        transformers.FalconConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=320, alibi=True
        ),
        transformers.GPTNeoConfig(
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            vocab_size=320,
            max_position_embeddings=128,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_attention_that_paging_does_not_reach(config: PretrainedConfig, tmp_path: Path) -> None:
    assert "AttentionInterface" in _refusal(make_model(tmp_path / "own", config))


def test_logits_that_differ_are_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decoder.paged_attention

    def without_scaling(*args: Any) -> torch.Tensor:
        return real(*args[:5], 1.0, *args[6:])

    monkeypatch.setattr(decoder, "paged_attention", without_scaling)
    assert "logits differ" in _refusal(llama, quantization="none")
