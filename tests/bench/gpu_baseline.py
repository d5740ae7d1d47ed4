"""The engine beside transformers with PEFT and bitsandbytes, on the same device in turn."""

import random
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.bench.child import Child
from tests.bench.gpu_disk import LORA_NAME, fingerprint_of, num_adapters
from tests.bench.gpu_engine import names_of, prompts
from tests.bench.shape import Shape


def against_peft(folder: Path, shape: Shape, *, quick: bool) -> Any:
    """Tokens a second of 32 requests with 32 adapters of all linears, and of the bare base, prompts
    included: ours by Triton's kernels, theirs as one batch with `adapter_names`, each at the faster
    of two attentions. `ratio` is ours to theirs."""
    count = num_adapters(quick=quick)
    num_new, rounds, length = (3, 1, 4) if quick else (32, 3, 64)
    cases = {"base": [""] * count, "lora": names_of((LORA_NAME, count), count)}
    rng = random.Random(0)
    speeds: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        ours, theirs = (_start(folder, stack, name) for name in ("engine_alone", "peft_baseline"))
        ours.send(
            "load", base=str(folder / "base"), store=str(folder / "store"), quantization="nf4",
            kernels="triton", cache_bytes=1 << (24 if quick else 33), max_batch_size=count,
            fingerprint=fingerprint_of(folder),
        )  # fmt: skip
        loaded = theirs.ask(
            "load", base=str(folder / "base"), nf4=True, trial=prompts(rng, shape, count, length),
            adapters={name: str(_version(folder, name)) for name in cases["lora"]},
            device="cuda" if torch.cuda.is_available() else "cpu",
        )  # fmt: skip
        ours.receive()
        for number in range(1 + rounds):
            for case, names in cases.items():
                for who, child in (("ours", ours), ("peft", theirs)):
                    answer = child.ask(
                        "play", prompts=prompts(rng, shape, count, length), num_tokens=num_new,
                        adapter_names=names,
                    )  # fmt: skip
                    if number:
                        speed = count * num_new / answer["wall_s"]
                        speeds.setdefault((case, who), []).append(speed)
    return [
        {
            "case": case, "requests": count, "ours_tokens_per_s": median(speeds[case, "ours"]),
            "peft_tokens_per_s": median(speeds[case, "peft"]),
            "ratio": median(speeds[case, "ours"]) / median(speeds[case, "peft"]),
            "peft_attention": loaded["attention"][case],
        }
        for case in cases
    ]  # fmt: skip


def _version(folder: Path, name: str) -> Path:
    (found,) = (path for path in (folder / "store" / name).iterdir() if path.is_dir())
    return found


def _start(folder: Path, stack: ExitStack, module: str) -> Child:
    child = Child([sys.executable, "-m", f"tests.bench.{module}"], folder / f"{module}.log")
    stack.callback(child.close)
    return child
