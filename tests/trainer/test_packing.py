"""Packed rows give the losses and gradients of rows of one example, or are not used."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.tiny import WORDS
from tests.trainer.conftest import WriteConfig, WriteRows
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.objectives.supervised import summed_loss
from trainer.packing import collate_packed, keeps_apart, pack
from trainer.tokens import Encoded, collate

LLAMA: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
GPT2 = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
IDS = {"bos_token_id": None, "eos_token_id": 0}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

APART: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**LLAMA),
    "qwen2": Qwen2Config(**LLAMA),
    "qwen3": Qwen3Config(**LLAMA, head_dim=16),
    "gpt2": GPT2Config(**GPT2, **IDS, **NO_DROPOUT, initializer_range=0.2),
    "gemma": GemmaConfig(**LLAMA, head_dim=16),
    "gemma2": Gemma2Config(**LLAMA, head_dim=16, sliding_window=8),
    "gemma3": Gemma3TextConfig(**LLAMA, head_dim=16, sliding_window=8),
    "mistral": MistralConfig(**LLAMA, sliding_window=8),
    "gpt_neox": GPTNeoXConfig(**{k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}),
}
SMALL = {"vocab_size": 320, "hidden_size": 64, **IDS}
# A state that runs on; positions that are counted by the model; biases made from a mask.
TOGETHER: dict[str, PreTrainedConfig] = {
    "mamba": MambaConfig(**SMALL, num_hidden_layers=2),
    "opt": OPTConfig(
        **SMALL, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, word_embed_proj_dim=64, init_std=0.2, pad_token_id=0,
    ),
    "bloom": BloomConfig(**SMALL, n_layer=2, n_head=4, initializer_range=0.2),
    "falcon": FalconConfig(
        **SMALL, num_hidden_layers=2, num_attention_heads=4, alibi=True, initializer_range=0.2
    ),
}  # fmt: skip


def make(config: PreTrainedConfig, attention: str | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model.config.use_cache = False
    return model.train()  # type: ignore[no-any-return]


def make_examples(num: int = 9) -> list[Encoded]:
    random = np.random.default_rng(0)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(random.integers(1, 320, random.integers(1, most)).tolist())

    return [Encoded(ids(20), ids(12), f"f:{i}") for i in range(num)]


def loss_and_gradients(model: PreTrainedModel, batch: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = summed_loss(model, batch)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), grads


@pytest.mark.parametrize(
    ("family", "attention"), [*((name, None) for name in sorted(APART)), ("llama", "eager")]
)
def test_packed_examples_give_the_loss_and_gradients_of_each_alone(
    family: str, attention: str | None
) -> None:
    model = make(APART[family], attention)
    assert keeps_apart(model)
    examples = make_examples()
    # So wide that attention costs nothing beside the weights: as few rows as there can be.
    packed = collate_packed(examples, "cpu", width=100_000)
    assert len(packed.input_ids) < 3
    padded = collate(examples)
    assert (packed.num_terms, packed.num_tokens) == (padded.num_terms, padded.num_tokens)
    assert packed.where == padded.where
    loss, gradients = loss_and_gradients(model, packed)
    expected_loss, expected = loss_and_gradients(model, padded)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        assert (gradients[name] - value).abs().max() <= 1e-5 * value.abs().max(), name


@pytest.mark.parametrize("family", sorted(TOGETHER))
def test_bases_that_cannot_are_found_out(family: str) -> None:
    model = make(TOGETHER[family])
    assert not keeps_apart(model)
    assert model.training


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_quantization_is_not_taken_for_a_leak(base: Path, quantization: str) -> None:
    from trainer.model import load_base

    for dtype in (torch.float32, torch.bfloat16):
        model = load_base(base, quantization=quantization, dtype=dtype, device="cpu")
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
        assert keeps_apart(peft.get_peft_model(model, lora))


def test_rows_hold_every_example_once_and_little_padding() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        lengths = random.integers(2, 200, random.integers(1, 40)).tolist()
        rows = pack(lengths, width=256)
        assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
        longest = max(sum(lengths[i] for i in row) for row in rows)
        assert len(rows) * longest <= len(lengths) * max(lengths)


def test_equal_lengths_are_not_packed() -> None:
    examples = [Encoded((5, 6), (7, 0), f"f:{i}") for i in range(4)]
    batch = collate_packed(examples, "cpu", width=256)
    assert batch.position_ids is None
    assert torch.equal(batch.input_ids, collate(examples).input_ids)


def test_a_packed_run_ends_where_a_padded_one_does(
    write_config: WriteConfig, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    words = WORDS.split()
    rows = [
        {"input": f"{i} {' '.join(words[: i * i % 31])}", "completion": words[i % 30]}
        for i in range(40)
    ]
    write_rows("train.jsonl", rows)
    budget = {"max_tokens_per_batch": 600, "accumulation": 2}
    config = write_config(optimiser={"learning_rate": 5e-3, "epochs": 3, **budget})
    packed, padded = (
        train(config, capsys, "--overwrite", "--set", f"optimiser.packing={packing}")
        for packing in ("true", "false")
    )
    assert packed["steps"] == padded["steps"] > 2
    assert packed["validation_loss"] == pytest.approx(padded["validation_loss"], rel=1e-4)
    assert packed["content_hash"] != padded["content_hash"], "nothing was packed"


def test_soft_prompts_are_not_packed(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(method={"type": "prompt_tuning", "num_virtual_tokens": 4})
    assert main(["train", str(config), "--json"]) == 0
    assert "no packing: prompt_tuning puts virtual tokens before each" in capsys.readouterr().err
    refused = ["train", str(config), "--overwrite", "--set", "optimiser.packing=true"]
    assert main(refused) == 2
    assert "key 'optimiser.packing': true, but prompt_tuning" in capsys.readouterr().err
