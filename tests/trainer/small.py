"""A small configuration for every method and every optimiser; whoever adds one adds it here.

Beside `method` stand the run's own keys; `base` is one of `make_bases`. Rows have `input`,
`completion` and `label`.
"""

from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from tests.tiny import make_base, make_model

METHOD_CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": {"type": "lora", "rank": 4, "dropout": 0.1},
        "optimiser": {"accumulation": 2},
    },
    **{
        name: {"method": {"type": name, "rank": 4, "init_examples": 4}}
        for name in (
            "rslora",
            "dora",
            "lora_plus",
            "lora_fa",
            "pissa",
            "olora",
            "corda",
            "lora_ga",
            "eva",
            "loftq",
            "mica",
        )
    },
    **{
        name: {"method": {"type": name, "num_virtual_tokens": 4}}
        for name in ("prompt_tuning", "p_tuning", "prefix_tuning")
    },
    "ia3": {"method": {"type": "ia3"}},
    "trainable_tokens": {"method": {"type": "trainable_tokens", "tokens": [3, 40, 41]}},
    "ln_tuning": {"method": {"type": "ln_tuning"}},
    "layers": {"method": {"type": "layers", "layers": [-1]}, "quantization": "none"},
    "bitfit": {"method": {"type": "bitfit"}, "base": "biased"},
    "full": {"method": {"type": "full"}, "quantization": "none"},
    "head": {"method": {"type": "head"}, "objective": {"type": "classification"}},
}

OPTIMISERS = ("adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd")


def make_bases(folder: Path) -> dict[str, Path]:
    """Tiny bases by name: the usual one, and one whose linears have biases."""
    biased = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=0,
        attention_bias=True,
        mlp_bias=True,
        initializer_range=0.2,
    )
    return {"tiny": make_base(folder / "tiny"), "biased": make_model(folder / "biased", biased)}
