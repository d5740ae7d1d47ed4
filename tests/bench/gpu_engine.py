"""The engine on a CUDA device: decode steps against the bytes that they have to move, the kernels
that a step launches, and prompts with adapters against prompts without."""

import random
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tests.bench.engine_alone import EngineAlone
from tests.bench.gpu_ceiling import measure_ceiling
from tests.bench.gpu_disk import ATTENTION_NAME, LORA_NAME, RANK, fingerprint_of
from tests.bench.shape import ATTENTION, LINEARS, Shape

_PROMPT, _NEW = 64, 32
_ROUNDS = 2
# Of a tiny model, a request may end before the last of its batch has come.
_MOST_ROUNDS = 20
_LINEARS = {LORA_NAME: LINEARS, ATTENTION_NAME: ATTENTION}
_LONG = 1024
"""Tokens of a prompt whose reading is timed."""

Kind = tuple[str, int]
"""Name of adapters, without the number, and how many are in the batch."""


def decode(
    folder: Path, shape: Shape, kernels: str, options: Mapping[str, Any], *, quick: bool
) -> Any:
    """Seconds of a decode step by batch size, without adapters and with 1, 8 and 32 of all linears;
    at 32 rows also with as many of attention alone. Kinds take turns. `options` are further ones of
    `EngineAlone.load`.

    `limit_s` is the time that the bytes of a step take at the measured bandwidth, `extra` how much
    longer than the same batch without adapters a step takes, over the time that reading the
    distinct adapters once takes.
    """
    batches, counts = ((2,), (1, 2)) if quick else ((1, 8, 32, 128), (1, 8, 32))
    widest = 2 if quick else 32
    num_new = 4 if quick else _NEW
    ceiling = measure_ceiling(1 if quick else 20)
    alone = open_engine(folder, kernels, quick=quick, max_batch_size=max(batches), **options)
    rng, found = random.Random(0), []
    for size in batches:
        kinds: list[Kind] = [("", 0), *((LORA_NAME, n) for n in counts if n <= size)]
        if size == widest:
            kinds += [(ATTENTION_NAME, n) for n in counts]
        steps_s: dict[Kind, list[float]] = {kind: [] for kind in kinds}
        walls_s: dict[Kind, list[float]] = {kind: [] for kind in kinds}
        for number in range(_MOST_ROUNDS):
            if number > (1 if quick else _ROUNDS) and all(steps_s.values()):
                break
            for kind in kinds:
                given = prompts(rng, shape, size, 4 if quick else _PROMPT)
                answer = alone.play(given, num_new, names_of(kind, size))
                # The first round compiles, captures, and places adapters.
                if number:
                    steps_s[kind] += alone.metrics.decode_steps_s(size)
                    walls_s[kind].append(answer["wall_s"])
        base_s = median(steps_s[kinds[0]])
        positions = (4 if quick else _PROMPT) + num_new / 2
        for kind in kinds:
            prefix, distinct = kind
            own_bytes = distinct * shape.lora_bytes(RANK, _LINEARS[prefix]) if prefix else 0
            step_s, num_bytes = median(steps_s[kind]), shape.step_bytes(size, positions) + own_bytes
            limit_s = ceiling.limit_s(num_bytes)
            row = {
                "batch": size, "adapters": distinct, "linears": prefix, "step_s": step_s,
                "tokens_per_s": size * num_new / median(walls_s[kind]),
                "bytes": num_bytes, "limit_s": limit_s, "share": limit_s / step_s,
            }  # fmt: skip
            if prefix:
                row["extra"] = (step_s - base_s) / ceiling.limit_s(own_bytes)
            found.append(row)
    launches = [
        {"batch": size, "adapters": kind[1], **_launches(alone, rng, shape, size, kind)}
        for size in sorted({min(batches), widest})
        for kind in (("", 0), (LORA_NAME, min(size, max(counts))))
    ]
    return {"steps": found, "launches": launches, "load_s": alone.load_s}


def prefill(folder: Path, shape: Shape, kernels: str, *, quick: bool) -> Any:
    """Tokens of prompts that are read a second, with as many adapters as told of all linears, and
    `ratio` to the same without. Kinds take turns; a prompt is read in steps of 512 rows."""
    count, length, rounds = (2, 8, 1) if quick else (8, _LONG, 5)
    alone = open_engine(folder, kernels, quick=quick, max_batch_size=count)
    kinds: list[Kind] = [("", 0), (LORA_NAME, 1), (LORA_NAME, count)]
    rng = random.Random(0)
    walls_s: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    for number in range(1 + rounds):
        for kind in kinds:
            given = prompts(rng, shape, count, length)
            answer = alone.play(given, 1, names_of(kind, count))
            if number:
                walls_s[kind].append(answer["wall_s"])
    speeds = {kind: count * length / median(walls_s[kind]) for kind in kinds}
    return [
        {"adapters": kind[1], "tokens_per_s": speed, "ratio": speed / speeds[kinds[0]]}
        for kind, speed in speeds.items()
    ]


class TimedEngine(EngineAlone):
    """With the seconds that loading took."""

    load_s = 0.0


def open_engine(folder: Path, kernels: str, *, quick: bool, **options: Any) -> TimedEngine:
    """An engine on the base and the adapters in `folder`. Raises StartupError."""
    alone = TimedEngine()
    begin = time.perf_counter()
    alone.load(
        str(folder / "base"), str(folder / "store"), "nf4", kernels,  # type: ignore[arg-type]
        **{
            "cache_bytes": 1 << (24 if quick else 34), "num_adapter_slots": 64,
            "fingerprint": fingerprint_of(folder), **options,
        },
    )  # fmt: skip
    alone.load_s = time.perf_counter() - begin
    return alone


def prompts(rng: random.Random, shape: Shape, count: int, length: int) -> list[list[int]]:
    """Random ones, of which no two begin alike."""
    return [[rng.randrange(1, shape.vocab) for _ in range(length)] for _ in range(count)]


def names_of(kind: Kind, size: int) -> list[str]:
    """The adapter of each request, those of one adapter side by side."""
    prefix, distinct = kind
    return sorted(f"{prefix}-{i % distinct}" if distinct else "" for i in range(size))


def _launches(
    alone: EngineAlone, rng: random.Random, shape: Shape, size: int, kind: Kind
) -> Mapping[str, float | None]:
    """Kernels of a decode step, and copies and fills beside them, as the driver tells them: of some
    steps more against some fewer, so that prompts do not count. None off CUDA."""
    has_cuda = torch.cuda.is_available()
    counts = []
    for num_new in (4, 8) if has_cuda else (2, 3):
        given = prompts(rng, shape, size, 4)
        activity = ProfilerActivity.CUDA if has_cuda else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            alone.play(given, num_new, names_of(kind, size))
        names = [
            event.name for event in profiler.events() or () if event.device_type.name == "CUDA"
        ]
        copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
        counts.append((len(alone.metrics.records), len(names) - copies, copies))
    steps, kernels, copies = (more - fewer for fewer, more in zip(*counts, strict=True))
    if not has_cuda:
        return {"kernels": None, "copies": None}
    return {"kernels": kernels / steps, "copies": copies / steps}
