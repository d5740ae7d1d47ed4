"""The engine on a CUDA device: decode steps, and adapters that come meanwhile."""

import random
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.engine_alone import EngineAlone
from tests.bench.gpu_disk import fingerprint_of
from tests.bench.shape import Shape

_BATCHES = (1, 8, 32, 128)
_PROMPT, _NEW = 64, 64
_STREAMS = 8


def decode(
    work: Path, shape: Shape, kernels: str, options: Mapping[str, Any], *, quick: bool
) -> Any:
    """Seconds of a decode step by batch size, without adapters and with 1, 8 and 32. `options` are
    further ones of `EngineAlone.load`."""
    batches = (2,) if quick else _BATCHES
    alone = EngineAlone()
    alone.load(
        str(work / "base"), str(work / "store"), "nf4", kernels,  # type: ignore[arg-type]
        cache_bytes=1 << (24 if quick else 34), max_batch_size=max(batches),
        fingerprint=fingerprint_of(work), **options,
    )  # fmt: skip
    rng, found = random.Random(0), []
    for size in batches:
        for distinct in (0, 1, 2) if quick else (0, 1, 8, 32):
            if distinct > size:
                continue
            names = [f"lora-{i % distinct}" if distinct else "" for i in range(size)]
            num_new = 4 if quick else _NEW
            for _ in range(2):  # The first one compiles, captures, and places adapters.
                prompts = _prompts(rng, shape, size, quick=quick)
                answer = alone.play(prompts, num_new, sorted(names))
            found.append(
                {
                    "batch": size, "adapters": distinct, "step_s": answer["decode_step_s"],
                    "tokens_per_s": size * num_new / answer["wall_s"],
                }
            )  # fmt: skip
    return found


def transfers(work: Path, shape: Shape, *, quick: bool) -> Any:
    """What placing an adapter takes, and the time between tokens of eight streams while one after
    the other is placed, against the same streams alone. Medians and 99th percentiles."""
    alone = EngineAlone()
    alone.load(
        str(work / "base"), str(work / "store"), "nf4", "triton",
        cache_bytes=1 << (24 if quick else 32), num_adapter_slots=1 if quick else 4,
        fingerprint=fingerprint_of(work),
    )  # fmt: skip
    names = [f"lora-{i}" for i in range(2 if quick else 32)]
    streams, num_new = (2, 5) if quick else (_STREAMS, 512)
    rng = random.Random(0)
    for name in names:  # From now on all are in host memory.
        alone.use(name)
    found: dict[str, Any] = {}
    for case in ("alone", "beside"):
        stop = threading.Event()

        def place(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                for name in names:
                    alone.use(name)

        thread = threading.Thread(target=place) if case == "beside" else None
        alone.metrics.placed_s.clear()
        if thread is not None:
            thread.start()
        alone.play(_prompts(rng, shape, streams, quick=quick), num_new, [""] * streams)
        stop.set()
        if thread is not None:
            thread.join()
        gaps = sorted(alone.metrics.gaps_s(streams))
        found[case] = {"gap_s": _quantile(gaps, 0.5), "gap_p99_s": _quantile(gaps, 0.99)}
    placed = sorted(alone.metrics.placed_s)
    found["placed"] = len(placed)
    found["place_s"], found["place_p99_s"] = _quantile(placed, 0.5), _quantile(placed, 0.99)
    found["adapter_bytes"] = shape.lora_bytes(16)
    return found


def _prompts(rng: random.Random, shape: Shape, count: int, *, quick: bool) -> list[list[int]]:
    length = 4 if quick else _PROMPT
    return [[rng.randrange(1, shape.vocab) for _ in range(length)] for _ in range(count)]


def _quantile(ascending: list[float], share: float) -> float | None:
    return ascending[int(share * (len(ascending) - 1))] if ascending else None
