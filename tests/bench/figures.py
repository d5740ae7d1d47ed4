"""From rounds to the figures that are reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from tests.bench.plan import NUM_LORA, Disk
from tests.bench.rounds import Results

PERCENTILES = (50, 95, 99)


@dataclass
class Facts:
    """What was found beside the rounds."""

    resident_bytes: Mapping[str, int]
    peft_settings: Mapping[str, str]
    """The attention that was faster in transformers, by variant, and how its threads wait."""
    versions: Mapping[str, str]
    """Of the peers' packages."""
    read_bytes_per_s: list[float] = field(default_factory=list)
    matmul_tokens_per_s: list[float] = field(default_factory=list)
    """Tokens per second if a step were only its plain bf16 products."""
    lora1000_loads: int = 0
    """Adapters that its rounds read from disk."""
    sweep: dict[str, dict[str, float]] = field(default_factory=dict)
    """Tokens per second by engine and number of distinct adapters."""


def figures(results: Results, facts: Facts, disk: Disk) -> dict[str, Any]:
    """Everything that is reported, as JSON. Each ratio is one of medians."""
    speed = {name: results.speed(name) for name in results.rounds}
    found: dict[str, Any] = {}
    for name, value in speed.items():
        group, _, variant = name.partition(".")
        found.setdefault(group, {})[variant] = round(value, 1)
    bandwidth = median(facts.read_bytes_per_s)
    lora_bytes = disk.lora_bytes(disk.lora[:NUM_LORA])
    unquantized = facts.resident_bytes["bf16"] - disk.plan.shape.linear_bytes
    numbers = {
        "lora8_overhead": 1 - speed["ours.lora8"] / speed["ours.base"],
        "lora8_extra_ms": 1e3
        * (_step_s(results, "engine.lora8") - _step_s(results, "engine.base")),
        "lora8_bytes_ms": 1e3 * lora_bytes / bandwidth,
        "ratio_lora8_vs_peft": speed["ours.lora8"] / speed["peft.lora8"],
        "ratio_base_vs_peft": speed["ours.base"] / speed["peft.base"],
        "nf4_held_vs_bf16": speed["ours.nf4_held"] / speed["ours.base"],
        "lora1000_vs_resident": speed["ours.lora1000"] / speed["ours.lora1000_resident"],
        "grpc_cost": 1 - speed["ours.base"] / speed["engine.base"],
        "grpc_cost_lora8": 1 - speed["ours.lora8"] / speed["engine.lora8"],
        "grpc_cost_stream": 1 - speed["stream.base"] / speed["engine.base"],
        **latency_ms(results, "stream.lora8"),
    }
    if "bitsandbytes.nf4_packed" in speed:
        packed = speed["ours.nf4_packed"] / speed["bitsandbytes.nf4_packed"]
        numbers["nf4_packed_vs_bitsandbytes"] = packed
    if "vllm.lora8" in speed:
        numbers["ratio_lora8_vs_vllm"] = speed["ours.lora8"] / speed["vllm.lora8"]
        numbers["ratio_base_vs_vllm"] = speed["ours.base"] / speed["vllm.base"]
    return found | {
        **{name: round(value, 4) for name, value in numbers.items()},
        "resident_bytes": dict(facts.resident_bytes),
        "linear_bytes": {n: value - unquantized for n, value in facts.resident_bytes.items()},
        "spread": {n: [round(f(results.speeds(n)), 1) for f in (min, max)] for n in speed},
        "latency_ms": {
            name: {key: round(value, 2) for key, value in latency_ms(results, name).items()}
            for name in ("stream.base", "stream.lora8")
        },
        "step_ms": {
            n: round(1e3 * _step_s(results, n), 2) for n in ("engine.base", "engine.lora8")
        },
        "lora8_bytes": lora_bytes,
        "read_gb_per_s": round(bandwidth / 1e9, 2),
        "matmul_tokens_per_s": round(median(facts.matmul_tokens_per_s), 1),
        "peft_settings": dict(facts.peft_settings),
        "lora1000_loads": facts.lora1000_loads,
        "agreement": {
            kind: round(_agreement(results, f"ours.{kind}", f"peft.{kind}"), 3)
            for kind in ("base", "lora8")
        },
        "foreign_cores": round(median(results.foreign_cores), 2),
        "foreign_cores_max": round(max(results.foreign_cores), 2),
        "idle_cores": round(max(results.idle_cores), 2),
        "sweep": facts.sweep,
    }


def latency_ms(results: Results, name: str) -> dict[str, float]:
    """Percentiles of the times to the first token and between tokens, over all rounds."""
    rounds = results.rounds[name]
    samples: dict[str, Sequence[float]] = {
        "ttft": [seconds for done in rounds for seconds in done.first_token_s],
        "itl": [seconds for done in rounds for seconds in done.inter_token_s],
    }
    return {
        f"{kind}_ms_p{percentile}": float(np.percentile(seconds, percentile)) * 1e3
        for kind, seconds in samples.items()
        for percentile in PERCENTILES
    }


def _step_s(results: Results, name: str) -> float:
    return median(d.decode_step_s for d in results.rounds[name] if d.decode_step_s is not None)


def _agreement(results: Results, one: str, other: str) -> float:
    """Share of requests whose first tokens are equal: near 1 if both run the same model."""
    pairs = [
        (ours[0], theirs[0])
        for left, right in zip(results.rounds[one], results.rounds[other], strict=True)
        for ours, theirs in zip(left.token_ids, right.token_ids, strict=True)
    ]
    return sum(ours == theirs for ours, theirs in pairs) / len(pairs)
