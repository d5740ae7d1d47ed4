"""What users run, on a CUDA device unchanged: each a command, which must end with exit code 0."""

import json
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 600


class CommandError(RuntimeError):
    """A command failed; the message has its exit code and last words."""


def demo(folder: Path) -> Mapping[str, Any]:
    """The demo: trains, serves and scores on the device that `auto` finds."""
    out = folder / "demo"
    shutil.rmtree(out, ignore_errors=True)
    return _run("-m", "demo", "--out", str(out))


def tests(*, quick: bool) -> Any:
    """The tests that need CUDA, and those of Triton's kernels, compiled."""
    if quick:
        return [_pytest("-m", "cuda", "tests/server/models/test_timing.py")]
    triton = (
        "tests/server/kernels", "tests/server/engine/test_linear_kinds.py",
        "tests/server/engine/test_triton_draws.py",
    )  # fmt: skip
    return [_pytest("-m", "cuda", "tests"), _pytest("-k", "triton", *triton)]


def train(folder: Path, *, quick: bool) -> Mapping[str, Any]:
    """Some steps of a LoRA on the benchmark's base in NF4."""
    work = folder / "train"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    draw = random.Random(0)
    rows = [
        {"input": "".join(draw.choices("abcdefgh", k=40)), "completion": draw.choice("abc") * 8}
        for _ in range(40)
    ]
    data, config = work / "train.jsonl", work / "train.yaml"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    settings = {
        "name": "bench", "base": str(folder / "base"), "quantization": "nf4",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "method": {"type": "lora", "rank": 16},
        "data": {"train": str(data), "validation": 0.2},
        "optimiser": {"batch_size": 4, "max_steps": 2 if quick else 20},
        "output": {"dir": str(work / "run")},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return _run("-m", "trainer", "train", str(config), "--quiet")


def _pytest(*arguments: str) -> Mapping[str, Any]:
    return _run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def _run(*arguments: str) -> Mapping[str, Any]:
    """Raises CommandError."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    command = shlex.join(["python", *arguments])
    print(done.stdout)
    if done.returncode:
        words = " ".join(done.stdout[-_TAIL:].split())
        raise CommandError(f"{command}: exit code {done.returncode}: {words}")
    seconds = round(time.perf_counter() - begin, 1)
    last = next(iter(reversed(done.stdout.strip().splitlines())), "")[-_TAIL:]
    return {"command": command, "exit_code": 0, "seconds": seconds, "last_line": last}
