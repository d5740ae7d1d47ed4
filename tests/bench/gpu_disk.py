"""What the sections that load a base find on the disk."""

import shutil
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tests.bench.shape import ATTENTION, AdapterWriter, Shape, make_base
from understudy.artifact import base_fingerprint

RANK = 16
LORA_NAME, ATTENTION_NAME = "lora", "attention"
"""Names of the adapters, without the number: of all linears, and of attention's alone."""


def write(folder: Path, shape: Shape, *, quick: bool) -> Mapping[str, Any]:
    """The base, drawn on the device, and its adapters; and what of it took how long. What a former
    run left is written anew."""
    base, store = folder / "base", folder / "store"
    for directory in (base, store):
        shutil.rmtree(directory, ignore_errors=True)
    times = [time.perf_counter()]
    make_base(base, shape, "cuda" if torch.cuda.is_available() else "cpu")
    times.append(time.perf_counter())
    fingerprint = base_fingerprint(base)
    (folder / "fingerprint").write_text(fingerprint, encoding="ascii")
    times.append(time.perf_counter())
    writer = AdapterWriter(base, store, shape, fingerprint)
    count = num_adapters(quick=quick)
    for i in range(count):
        writer.lora(f"{LORA_NAME}-{i}", RANK, i)
        writer.lora(f"{ATTENTION_NAME}-{i}", RANK, count + i, ATTENTION)
    times.append(time.perf_counter())
    base_s, hash_s, adapters_s = (b - a for a, b in pairwise(times))
    return {
        "base_s": base_s, "hash_s": hash_s, "adapters_s": adapters_s,
        "adapters": count, "lora_bytes": shape.lora_bytes(RANK),
        "attention_bytes": shape.lora_bytes(RANK, ATTENTION),
    }  # fmt: skip


def num_adapters(*, quick: bool) -> int:
    """Of each name."""
    return 2 if quick else 32


def fingerprint_of(folder: Path) -> str | None:
    """The base's, which a section need not hash again; None where there is no base."""
    file = folder / "fingerprint"
    return file.read_text(encoding="ascii") if file.is_file() else None
