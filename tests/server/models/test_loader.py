"""Which bases load, in which forms, and which are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

from server.errors import StartupError
from server.kernels import load_native
from server.models import memory
from server.models.loader import LoadedBase, load_base
from server.models.memory import available_bytes, fits_held, host_bytes
from tests.server.engine import oracle
from tests.server.engine.harness import Driver
from tests.tiny import make_model

_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama_bias": transformers.LlamaConfig(**_SMALL, attention_bias=True, mlp_bias=True),
    "llama_yarn": transformers.LlamaConfig(
        **_SMALL,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": transformers.Qwen2Config(**_SMALL),
    "qwen3": transformers.Qwen3Config(**_SMALL, head_dim=32),
    "mistral": transformers.MistralConfig(**_SMALL, sliding_window=7),
    "gemma2": transformers.Gemma2Config(
        **_SMALL,
        head_dim=16,
        sliding_window=7,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=9.0,
        query_pre_attn_scalar=16,
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **_SMALL, head_dim=16, sliding_window=7, query_pre_attn_scalar=16
    ),
    "gpt2": transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=320,
        bos_token_id=0, eos_token_id=0, initializer_range=0.2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_architectures_equal_transformers(name: str, quantization: str, tmp_path: Path) -> None:
    """Prompts beyond the sliding window, in chunks, together: each as transformers alone."""
    directory = make_model(tmp_path / name, ARCHITECTURES[name])
    base = load_base(directory, quantization=quantization)
    driver = Driver(base, max_step_tokens=20, block_size=4)
    prompts = [tuple(range(3, 3 + length)) for length in (1, 5, 30)]
    inboxes = [driver.add(prompt, max_tokens=10, num_logprobs=5) for prompt in prompts]
    driver.run()
    model = oracle.load(directory, quantization, None)
    for prompt, inbox in zip(prompts, inboxes, strict=True):
        solo = oracle.greedy(model, prompt, 10)
        assert inbox.finished.token_ids == solo.token_ids
        expected = solo.logits.log_softmax(-1).max(-1).values.tolist()
        assert [entry.logprob for entry in inbox.finished.logprobs] == pytest.approx(
            expected, rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_info(quantization: str, llama: Path) -> None:
    info = load_base(llama, quantization=quantization, name="tiny").info
    assert (info.name, info.quantization, info.dtype) == ("tiny", quantization, "float32")
    assert info.linear_shapes["model.layers.1.self_attn.k_proj"] == (32, 64)
    assert info.linear_shapes["model.layers.0.mlp.down_proj"] == (64, 128)
    assert (len(info.linear_shapes), info.head) == (15, "lm_head")
    assert info.linear_shapes["lm_head"] == info.embedding.shape == (320, 64)
    assert info.embedding.path == "model.embed_tokens"
    assert {path: (norm.size, norm.has_bias) for path, norm in info.norms.items()} == {
        "model.norm": (64, False),
        **{
            f"model.layers.{i}.{name}_layernorm": (64, False)
            for i in range(2)
            for name in ("input", "post_attention")
        },
    }
    assert not info.tied
    assert info.max_context_tokens == 2048
    assert info.int8_threshold == (6.0 if quantization == "int8" else 0.0)
    model = AutoModelForCausalLM.from_pretrained(llama)
    assert info.num_parameters == sum(p.numel() for p in model.parameters())


def test_deterministic_int8_has_no_threshold(llama: Path) -> None:
    assert load_base(llama, quantization="int8", deterministic=True).info.int8_threshold == 0.0


def test_held_and_packed_give_the_same_numbers(llama: Path) -> None:
    held = load_base(llama, weight_form="nf4_held")
    packed = load_base(llama, weight_form="nf4_packed")
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(held.decoder.groups, packed.decoder.groups, strict=True):
        if ours.in_features == 64:
            torch.testing.assert_close(ours.weight(x), theirs.weight(x), rtol=0, atol=1e-5)
    assert (held.info.weight_form, packed.info.weight_form) == ("nf4_held", "nf4_packed")
    # The output head is not quantized.
    shapes = dict(packed.info.linear_shapes)
    del shapes["lm_head"]
    dense = 2 * sum(out * in_ for out, in_ in shapes.values())
    quantized = [group for group in packed.decoder.groups if group is not packed.decoder.head]
    packed_bytes = sum(group.weight.resident_bytes for group in quantized)
    assert packed_bytes <= 0.35 * dense
    assert held.info.resident_bytes > packed.info.resident_bytes + dense


def test_native_kernels_run_what_they_can(llama: Path) -> None:
    native = load_native()
    if native is None:
        pytest.skip("the native kernels were not compiled, or not for this CPU")
    model = load_base(llama).decoder.model
    names = {type(module).__name__ for module in model.modules()}
    assert {"FastNorm", "FastMlp"} <= names
    assert not names & {"LlamaRMSNorm", "LlamaMLP"}
    assert load_base(llama, kernels="torch").kernels is None
    assert load_base(llama, deterministic=True).kernels is None
    # Packed NF4 is the faster form where it is multiplied natively.
    form = load_base(llama, dtype="bfloat16").info.weight_form
    assert form == ("nf4_packed" if native.runs_linear(torch.bfloat16) else "nf4_held")
    with pytest.raises(StartupError, match="kernels 'native' beside deterministic"):
        load_base(llama, kernels="native", deterministic=True)
    with pytest.raises(StartupError, match="kernels 'native': not compiled, or not for"):
        load_base(llama, dtype="float16", kernels="native")


def test_a_norm_of_another_kind_stays(tmp_path: Path) -> None:
    """Gemma's norm adds one to its weight, its activation is GELU: transformers' forms stay."""
    config = transformers.Gemma2Config(
        vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, query_pre_attn_scalar=16,
    )  # fmt: skip
    base = load_base(make_model(tmp_path, config), quantization="none")
    names = {type(module).__name__ for module in base.decoder.model.modules()}
    assert {"Gemma2RMSNorm", "Gemma2MLP"} <= names


def test_fused_nf4_codes_are_those_of_each_linear(llama: Path) -> None:
    """Fusing q, k and v changes no code: each slice dequantizes to bitsandbytes' own weight."""
    from bitsandbytes.functional import dequantize_4bit

    base = load_base(llama, weight_form="nf4_packed")
    model = oracle.load(llama, "nf4", None)
    for group in base.decoder.groups:
        if group is base.decoder.head:
            continue
        dense = group.weight.dequantized()
        for name, columns in zip(group.names, group.columns, strict=True):
            weight = model.get_submodule(name).weight
            assert torch.equal(dense[columns], dequantize_4bit(weight.data, weight.quant_state))
    assert any(len(group.names) == 3 for group in base.decoder.groups)


def test_weight_form_heeds_the_free_memory() -> None:
    assert fits_held(100, torch.bfloat16, available=400)
    assert not fits_held(101, torch.bfloat16, available=400)
    assert available_bytes(torch.device("cpu")) > 1 << 20


@pytest.mark.parametrize(("limit", "found"), [("4194304\n", 1 << 22), ("max\n", None), ("", None)])
def test_a_container_has_no_more_than_its_limit(
    limit: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_read", lambda path: limit)
    assert host_bytes() == found or (found is None and host_bytes() > 1 << 26)


def test_two_bases_in_one_process(llama: Path) -> None:
    """Engines that take turns step by step do not disturb each other."""
    first, second = Driver(load_base(llama)), Driver(load_base(llama, quantization="none"))
    inboxes = [driver.add((1, 2, 3), max_tokens=12) for driver in (first, second)]
    for _ in range(12):
        first.step()
        second.step()
    for driver, quantization, inbox in zip((first, second), ("nf4", "none"), inboxes, strict=True):
        assert not driver.core.has_work
        solo = oracle.greedy(oracle.load(llama, quantization, None), (1, 2, 3), 12)
        assert inbox.finished.token_ids == solo.token_ids


def test_eos_tokens_outside_the_vocabulary_are_left_out(tmp_path: Path, llama: Path) -> None:
    directory = tmp_path / "eos"
    shutil.copytree(llama, directory)
    path = directory / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [7, 320, 999]}))
    base = load_base(directory, quantization="none")
    assert base.eos_token_ids == {0, 7}
    driver = Driver(base)
    # Banned until then, which must not reach beyond the logits.
    inbox = driver.add((1, 2), max_tokens=9, min_tokens=9, ignore_eos=False)
    driver.run()
    assert len(inbox.finished.token_ids) == 9


def test_loaded_base_decodes_without_special_tokens(llama: Path) -> None:
    base: LoadedBase = load_base(llama)
    eos = next(iter(base.eos_token_ids))
    ids = base.tokenizer("the late train", add_special_tokens=False)["input_ids"]
    assert base.decode([*ids, eos]) == "the late train"
