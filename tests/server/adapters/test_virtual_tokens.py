"""PEFT's formats of virtual tokens are either reproduced or refused, key by key."""

import re
from typing import Any

import peft
import pytest
import torch

from server.adapters.prefix import read_prefix
from server.adapters.soft_prompt import read_multitask_prompt, read_p_tuning, read_soft_prompt
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_BASE = BaseInfo(
    name="tiny", fingerprint="f", architecture="LlamaForCausalLM", quantization="none",
    weight_form="dense", dtype="float32", device="cpu", max_context_tokens=64, vocab_size=100,
    hidden_size=6, num_parameters=0, resident_bytes=0, int8_threshold=0.0, deterministic=False,
    linear_shapes={}, cache_shape=(2, 1, 4),
)  # fmt: skip


def _refusal(config: dict[str, Any], tensors: dict[str, Any], reader: Any) -> str:
    with pytest.raises(AdapterRefusedError) as error:
        reader(config, tensors, _BASE)
    return str(error.value)


def _prompt_config(**changes: Any) -> dict[str, Any]:
    return (
        peft.PromptTuningConfig(
            num_virtual_tokens=3,
            token_dim=6,
            num_transformer_submodules=1,
            num_attention_heads=2,
            num_layers=2,
            task_type="CAUSAL_LM",
        ).to_dict()
        | changes
    )


def test_soft_prompt() -> None:
    embeddings = torch.randn(3, 6)
    prompt = read_soft_prompt(_prompt_config(), {"prompt_embeddings": embeddings}, _BASE)
    assert (prompt.num_virtual_tokens, prompt.size_bytes) == (3, 72)
    assert torch.equal(prompt.prompt, embeddings)


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({}, {"prompt_embeddings": torch.zeros(4, 6)}, "shape [4, 6], the base needs [3, 6]"),
        ({}, {"prompt_embeddings": torch.zeros(3, 8)}, "shape [3, 8]"),
        ({}, {}, "missing tensor 'prompt_embeddings'"),
        ({}, {"prompt_embeddings": torch.zeros(3, 6), "x": torch.zeros(1)}, "unknown tensor 'x'"),
        ({"num_virtual_tokens": 0}, {}, "num_virtual_tokens 0"),
        ({"num_virtual_tokens": 64}, {}, "leaves no room in the context of 64"),
        ({"num_transformer_submodules": 2}, {}, "num_transformer_submodules 2"),
        ({"token_dim": 8}, {}, "token_dim 8, the base has 6"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save"),
        ({"encoder_hidden_size": 6}, {}, "'encoder_hidden_size' is unknown"),
        ({"task_type": "SEQ_2_SEQ_LM"}, {}, "task_type"),
    ],
    ids=lambda value: re.sub(r"\W+", "_", value) if isinstance(value, str) else "",
)
def test_soft_prompt_refusals(changes: Any, tensors: Any, message: str) -> None:
    assert message in _refusal(_prompt_config(**changes), tensors, read_soft_prompt)


def _given(kind: Any, **changes: Any) -> dict[str, Any]:
    """The configuration of a method of three virtual tokens as PEFT saves it."""
    sizes = {"token_dim": 6, "num_transformer_submodules": 1, "num_attention_heads": 2}
    config = kind(num_virtual_tokens=3, num_layers=2, task_type="CAUSAL_LM", **sizes)
    return config.to_dict() | changes


def test_p_tuning() -> None:
    """The encoder has run; what it was is of no account."""
    embeddings = torch.randn(3, 6)
    config = _given(peft.PromptEncoderConfig, encoder_reparameterization_type="LSTM")
    weights = read_p_tuning(config, {"prompt_embeddings": embeddings}, _BASE)
    assert torch.equal(weights.prompt, embeddings)
    tensors = {"prompt_embeddings": embeddings, "encoder.mlp_head.0.weight": torch.zeros(6, 6)}
    assert "unknown tensor 'encoder.mlp" in _refusal(config, tensors, read_p_tuning)
    prompt = {"prompt_tuning_init": "RANDOM"}
    assert "'prompt_tuning_init'" in _refusal(config | prompt, {}, read_p_tuning)


def _multitask(num_tasks: int = 1, num_ranks: int = 2) -> dict[str, Any]:
    return {
        "prompt_embeddings": torch.randn(3, 6),
        "prefix_task_cols": torch.randn(num_tasks, 3, num_ranks),
        "prefix_task_rows": torch.randn(num_tasks, num_ranks, 6),
    }


def test_multitask_prompt() -> None:
    tensors = _multitask()
    config = _given(peft.MultitaskPromptTuningConfig, num_ranks=2)
    weights = read_multitask_prompt(config, tensors, _BASE)
    product = tensors["prefix_task_cols"][0] @ tensors["prefix_task_rows"][0]
    assert torch.equal(weights.prompt, tensors["prompt_embeddings"] * product)


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({"num_tasks": 2}, _multitask(2), "num_tasks 2: a request cannot say which"),
        ({}, _multitask(2), "'prefix_task_rows' has shape [2, 2, 6], the base needs [1, 2, 6]"),
        ({"num_ranks": 3}, _multitask(), "'prefix_task_rows' has shape [1, 2, 6]"),
        ({"num_ranks": None}, _multitask(), "num_ranks None"),
        ({}, {"prompt_embeddings": torch.zeros(3, 6)}, "missing tensor 'prefix_task_rows'"),
        ({}, _multitask() | {"x": torch.zeros(1)}, "unknown tensor 'x'"),
        (
            {},
            _multitask() | {"prefix_task_cols": torch.full((1, 3, 2), 3e38)},
            "'prompt_embeddings * (prefix_task_cols @ prefix_task_rows)' holds NaN or infinity",
        ),
    ],
    ids=lambda value: re.sub(r"\W+", "_", value) if isinstance(value, str) else "",
)
def test_multitask_prompt_refusals(changes: Any, tensors: Any, message: str) -> None:
    config = _given(peft.MultitaskPromptTuningConfig, **{"num_ranks": 2, **changes})
    assert message in _refusal(config, tensors, read_multitask_prompt)


def _prefix_config(**changes: Any) -> dict[str, Any]:
    # Of one head of four for keys and values, whatever the queries have.
    return _given(peft.PrefixTuningConfig, num_attention_heads=1, token_dim=4) | changes


def test_prefix() -> None:
    states = torch.randn(3, 2 * 2 * 4)
    for projection in (True, False):
        config = _prefix_config(prefix_projection=projection, encoder_hidden_size=7)
        weights = read_prefix(config, {"prompt_embeddings": states}, _BASE)
        assert (weights.num_virtual_tokens, weights.num_given, weights.rank) == (3, 3, 0)
        assert weights.size_bytes == states.nbytes
        # Of the second layer's values, the third token's.
        assert torch.equal(weights.prefix[1, 2, 1, 0], states[2, 12:])


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({}, {"prompt_embeddings": torch.zeros(3, 8)}, "shape [3, 8], the base needs [3, 16]"),
        ({}, {}, "missing tensor 'prompt_embeddings'"),
        ({"num_layers": 3}, {}, "num_layers 3, the base's keys and values have 2"),
        ({"num_attention_heads": 2}, {}, "num_attention_heads 2, the base's keys and values"),
        ({"token_dim": 6}, {}, "token_dim 6, the base's keys and values have 4"),
        ({"num_virtual_tokens": 64}, {}, "leaves no room in the context of 64"),
        ({"num_transformer_submodules": 2}, {}, "num_transformer_submodules 2"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save"),
        ({"prompt_tuning_init": "RANDOM"}, {}, "'prompt_tuning_init' is unknown"),
        ({"task_type": "SEQ_2_SEQ_LM"}, {}, "task_type"),
    ],
    ids=lambda value: re.sub(r"\W+", "_", value) if isinstance(value, str) else "",
)
def test_prefix_refusals(changes: Any, tensors: Any, message: str) -> None:
    assert message in _refusal(_prefix_config(**changes), tensors, read_prefix)
