"""A small configuration for every method and every optimiser; whoever adds one adds it here.

Beside `method` stand the run's own keys. Rows have `input`, `completion` and `label`.
"""

from typing import Any

METHOD_CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": {"type": "lora", "rank": 4, "dropout": 0.1},
        "optimiser": {"accumulation": 2},
    },
    **{
        name: {"method": {"type": name, "rank": 4}}
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
    "prompt_tuning": {"method": {"type": "prompt_tuning", "num_virtual_tokens": 4}},
    "head": {"method": {"type": "head"}, "objective": {"type": "classification"}},
}

OPTIMISERS = ("adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd")
