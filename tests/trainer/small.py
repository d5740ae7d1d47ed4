"""A small configuration for every method and every optimiser; whoever adds one adds it here."""

from typing import Any

# By the method's name; keys beside `method` are the run's.
METHOD_CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": {"type": "lora", "rank": 4, "dropout": 0.1},
        "optimiser": {"accumulation": 2},
    },
    "prompt_tuning": {"method": {"type": "prompt_tuning", "num_virtual_tokens": 4}},
}

OPTIMISERS = ("adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd")
