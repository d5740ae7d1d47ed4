"""Adapters that come to a CUDA device while it works, and a thousand of which few fit."""

import random
import shutil
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.child import Child
from tests.bench.engine_alone import EngineAlone
from tests.bench.gpu_disk import LORA_NAME, RANK, fingerprint_of, num_adapters
from tests.bench.gpu_engine import open_engine, prompts
from tests.bench.load import zipf
from tests.bench.registry import link
from tests.bench.shape import Shape
from understudy.store import LATEST

_STREAMS = 8
_ROUNDS = 3
_SLOTS = 32


def transfers(folder: Path, shape: Shape, *, quick: bool) -> Any:
    """The time between tokens of eight streams alone, and while one adapter after the other comes
    to the device, of which nothing runs; and what that takes for each. All are in host memory, and
    no slot has one when its turn has come. Both cases take turns, after one that warms up."""
    streams, num_new, rounds = (2, 6, 1) if quick else (_STREAMS, 512, _ROUNDS)
    alone = open_engine(
        folder, "triton", quick=quick, num_adapter_slots=1 if quick else 4, max_batch_size=streams
    )
    rng = random.Random(0)
    names = [f"{LORA_NAME}-{i}" for i in range(num_adapters(quick=quick))]
    for name in names:
        # From now on all are in host memory.
        alone.place(name)
    gaps_s: dict[str, list[float]] = {"alone": [], "beside": []}
    placed_s: list[float] = []
    for number in range(1 + rounds):
        for case, gaps in gaps_s.items():
            alone.metrics.placed_s.clear()
            given = prompts(rng, shape, streams, 4 if quick else 64)
            _play(alone, given, num_new, names if case == "beside" else [])
            if number:
                gaps += alone.metrics.decode_steps_s(streams)
                placed_s += alone.metrics.placed_s
    found: dict[str, Any] = {
        case: {"gap_s": _quantile(gaps, 0.5), "gap_p99_s": _quantile(gaps, 0.99)}
        for case, gaps in gaps_s.items()
    }
    for key in ("gap_s", "gap_p99_s"):
        found[f"{key}_ratio"] = found["beside"][key] / found["alone"][key]
    return found | {
        "placed": len(placed_s), "place_s": _quantile(placed_s, 0.5),
        "place_p99_s": _quantile(placed_s, 0.99), "adapter_bytes": shape.lora_bytes(RANK),
    }  # fmt: skip


def registered(folder: Path, shape: Shape, *, quick: bool) -> Any:
    """Requests of one of 1000 registered adapters, drawn with Zipf's law (s = 1), with 32 device
    slots and host memory for 100; against the same requests of the same adapters in an engine that
    holds all of these in slots. The engines take turns. Most registered ones share their files, so
    what is read comes from the page cache."""
    count, num_requests, rounds, num_new = (8, 6, 1, 2) if quick else (1000, 256, 3, 64)
    batch = 2 if quick else 32
    names = _register(folder, count)
    given = [zipf(names, num_requests, str(number)) for number in range(rounds)]
    asked = sorted({name for asked in given for name in asked})
    # With what else an adapter holds.
    adapter_bytes = int(1.05 * shape.lora_bytes(RANK))
    num_slots = 2 if quick else _SLOTS
    options: dict[str, dict[str, int]] = {
        "registered": {
            "num_adapter_slots": num_slots, "adapter_slot_bytes": num_slots * adapter_bytes,
            "max_host_bytes": (6 if quick else 100) * adapter_bytes,
        },
        "resident": {
            "num_adapter_slots": len(asked), "adapter_slot_bytes": len(asked) * adapter_bytes,
            "max_host_bytes": (6 + len(asked)) * adapter_bytes,
        },
    }  # fmt: skip
    rng, walls_s = random.Random(0), dict[str, list[float]]()
    with ExitStack() as stack:
        engines = {name: _start(folder, stack, name) for name in options}
        for name, engine in engines.items():
            engine.send(
                "load", base=str(folder / "base"), store=str(folder / "store"),
                quantization="nf4", kernels="triton", cache_bytes=1 << (24 if quick else 33),
                max_batch_size=batch, fingerprint=fingerprint_of(folder), **options[name],
            )  # fmt: skip
        for engine in engines.values():
            engine.receive()
        warm = [asked, zipf(names, num_requests, "before")]
        for number, wanted in enumerate([*warm, *given]):
            for name, engine in engines.items():
                if number == 1 and name == "resident":
                    # It would be asked for what it has no slots for.
                    continue
                answer = engine.ask(
                    "stream", prompts=prompts(rng, shape, len(wanted), 4 if quick else 64),
                    num_tokens=num_new, adapter_names=wanted, concurrency=2 * batch,
                )  # fmt: skip
                if number >= len(warm):
                    walls_s.setdefault(name, []).append(answer["wall_s"])
    speeds = {name: num_requests * num_new / median(walls) for name, walls in walls_s.items()}
    return {
        "registered": count, "distinct": [len(set(wanted)) for wanted in given],
        "tokens_per_s": speeds, "ratio": speeds["registered"] / speeds["resident"],
    }  # fmt: skip


def _register(folder: Path, count: int) -> list[str]:
    """Names of so many adapters in the store, most of them links to those of all linears."""
    store, names = folder / "store", [f"linked-{i:04}" for i in range(count)]
    patterns = sorted(
        path for path in store.glob(f"{LORA_NAME}-*/*") if path.is_dir() and not path.is_symlink()
    )
    for i, name in enumerate(names):
        # The last that is written.
        if not (store / name / LATEST).exists():
            shutil.rmtree(store / name, ignore_errors=True)
            link(patterns[i % len(patterns)], store, name)
    return names


def _start(folder: Path, stack: ExitStack, name: str) -> Child:
    command = [sys.executable, "-m", "tests.bench.engine_alone"]
    child = Child(command, folder / f"engine-{name}.log")
    stack.callback(child.close)
    return child


def _play(alone: EngineAlone, given: list[list[int]], num_new: int, names: list[str]) -> None:
    """Streams of the bare base; meanwhile brings `names` to the device again and again."""
    is_over = threading.Event()

    def place() -> None:
        while not is_over.is_set():
            for name in names:
                if not is_over.is_set():
                    alone.place(name)

    placing = threading.Thread(target=place) if names else None
    if placing is not None:
        placing.start()
    alone.play(given, num_new, [""] * len(given))
    is_over.set()
    if placing is not None:
        placing.join()


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]
