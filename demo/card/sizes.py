"""What the base is and how it was trained, from its files and from the runs' own records."""

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from demo.card.held import CardError, read_counts, read_tokenizer

WEIGHTS = "model.safetensors"
MAX_CHECKS = 8


def facts(base: Path) -> dict[str, Any]:
    """Shape, parameters, vocabulary and size of the weights. Raises CardError."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shapes = _shapes(base / WEIGHTS)
    tokenizer = read_tokenizer(base)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    control = [token for token, _ in ordered if token.startswith("<|") and token.endswith("|>")]
    return {
        "architecture": config["architectures"][0],
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "is_tied": config["tie_word_embeddings"],
        "context": config["max_position_embeddings"],
        "vocab_size": config["vocab_size"],
        "control_tokens": control,
        "parameters": sum(prod(shape) for shape in shapes.values()),
        "embedding_parameters": prod(shapes["model.embed_tokens.weight"]),
        "weight_bytes": (base / WEIGHTS).stat().st_size,
        "dtype": config["dtype"],
    }


def _shapes(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor, from the header of a safetensors file."""
    if not path.is_file():
        raise CardError(f"{path}: no such file")
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def stage(work: Path) -> dict[str, Any]:
    """A run of pretraining: tokens, steps, hours, and its held-out bits per byte as it went on.

    Raises CardError.
    """
    path = work / "metrics.jsonl"
    if not path.is_file():
        raise CardError(f"{path}: no such file; has the run of {work} begun?")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise CardError(f"{path}: no step is recorded")
    last, end = steps[-1], lines[-1]
    per_step = last["tokens"] / last["step"]
    counts = read_counts(work)
    num_bytes = {entry["source"]: entry["num_validation_bytes"] for entry in counts}
    checks = {
        line["step"]: {
            "tokens": round(line["step"] * per_step),
            "bits_per_byte": _mean_bits(line["validation"], num_bytes),
        }
        for line in lines
        if line.get("validation")
    }
    return {
        # Not every step is recorded, but the one that the clock ended on is, by its validation.
        "tokens": round(end["step"] * per_step),
        "steps": end["step"],
        "hours": end["elapsed_s"] / 3600,
        "peak_learning_rate": max(line["learning_rate"] for line in steps),
        "last_loss": last["loss"],
        "checks": _spread(list(checks.values())),
        "sources": counts,
    }


def _mean_bits(validation: dict[str, dict[str, float]], num_bytes: dict[str, int]) -> float:
    """Over all held-out bytes."""
    total = sum(num_bytes[name] for name in validation)
    return sum(v["bits_per_byte"] * num_bytes[name] for name, v in validation.items()) / total


def _spread(checks: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """At most MAX_CHECKS, evenly, with the last one."""
    step = max(1, -(-len(checks) // MAX_CHECKS))
    return list(checks[::-1][::step][::-1])
