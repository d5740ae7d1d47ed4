"""Jobs of every method other than LoRA's family, over tiny bases of three layouts."""

import json
from pathlib import Path
from typing import Any

from transformers import GPT2Config, LlamaConfig, Qwen2Config

from tests.tiny import make_model
from tests.trainer.conftest import make_rows
from trainer import preflight
from trainer.build import load_base, make_job
from trainer.config import TrainConfig
from trainer.config_file import parse_config
from trainer.job import Job
from trainer.preflight import Prepared
from trainer.resolve import Hardware, resolve

_SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "bos_token_id": None,
    "eos_token_id": 0,
    "initializer_range": 0.2,
}
_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    **_SMALL,
}
# Qwen 2 has biases on q, k and v; this one ties its head to the embeddings, as GPT-2 does.
CONFIGS = {
    "llama": LlamaConfig(**_LLAMA_LIKE),
    "qwen": Qwen2Config(tie_word_embeddings=True, **_LLAMA_LIKE),
    "gpt2": GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=512, **_SMALL),
}

METHODS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"type": "prompt_tuning", "num_virtual_tokens": 3, "init": "random"},
    "p_tuning": {"type": "p_tuning", "num_virtual_tokens": 4},
    "p_tuning_lstm": {
        "type": "p_tuning",
        "num_virtual_tokens": 4,
        "encoder": "lstm",
        "hidden_size": 16,
        "dropout": 0.1,
    },
    "prefix": {"type": "prefix_tuning", "num_virtual_tokens": 5},
    "prefix_projection": {
        "type": "prefix_tuning",
        "num_virtual_tokens": 5,
        "projection": True,
        "hidden_size": 24,
    },
    "ia3": {"type": "ia3"},
    "tokens": {"type": "trainable_tokens", "tokens": [" no", 9]},
    "ln": {"type": "ln_tuning"},
    "norms_and_head": {"type": "layers", "modules": ["input_layernorm", "norm", "lm_head"]},
    "last_layer": {"type": "layers", "layers": [-1]},
    "bitfit": {"type": "bitfit"},
    "full": {"type": "full"},
}
# Those of a quantized base, Llama-like and with biases.
QUANTIZED = sorted(METHODS.keys() - {"last_layer", "full"})
GPT2 = ("prefix", "ia3", "tokens", "ln", "last_layer", "bitfit", "full")


def make_bases(root: Path) -> dict[str, Path]:
    """A base of each layout."""
    return {name: make_model(root / name, config) for name, config in CONFIGS.items()}


def method_config(base: Path, method: dict[str, Any], **changes: Any) -> TrainConfig:
    """A resolved configuration of four steps; its data lies beside the base."""
    data = base.parent / "rows.jsonl"
    if not data.exists():
        data.write_text("".join(json.dumps(row) + "\n" for row in make_rows(16)))
    settings = {
        "name": "mine",
        "base": str(base),
        "data": {"train": str(data), "validation": 0, "template_name": "summarize"},
        "method": method,
        "optimiser": {"learning_rate": 2e-2, "batch_size": 4, "max_steps": 4},
        "output": {"dir": str(base.parent / "run")},
        "device": "cpu",
        "quantization": "none",
        **changes,
    }
    hardware = Hardware(has_cuda=False, has_cuda_bfloat16=False)
    return resolve(parse_config(settings, "test"), hardware)


def job_of(config: TrainConfig) -> tuple[Job, Prepared]:
    """A fresh job."""
    prepared = preflight.prepare(config)
    return make_job(config, prepared, load_base(config, "CAUSAL_LM"), alone=True), prepared
