"""Throughput and latency of a real server process on this machine, driven by the real client.

    python -m tests.bench
    python -m tests.bench --base path/to/model --quantization nf4 --concurrency 1,8,32 --json

Each round keeps `concurrency` requests in flight until `requests` of them have finished. Taking
the bare base and the adapters in turn gives mixed batches; the same rounds on the base alone stand
beside them. Prompts are random tokens, adapters have random weights, outputs a fixed length.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import peft
import transformers
from rich import box
from rich.console import Console
from rich.table import Table

from tests.process import ServerProcess, start
from tests.tiny import make_adapter, prompt_config
from understudy import AsyncClient, StoppingParams, StreamDelta, TokenIds
from understudy.store import publish


@dataclass(frozen=True)
class Load:
    """What one round sends."""

    concurrency: int
    num_requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass
class Samples:
    """Times seen by the client, in seconds."""

    first_token_s: list[float] = field(default_factory=list)
    inter_token_s: list[float] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(frozen=True)
class Round:
    """The result of one round."""

    adapters: str
    concurrency: int
    requests_per_s: float
    tokens_per_s: float
    first_token_p50_ms: float
    first_token_p95_ms: float
    inter_token_p50_ms: float
    inter_token_p95_ms: float
    mean_batch_size: float


async def one(client: AsyncClient, adapter: str, prompt: TokenIds, n: int, into: Samples) -> None:
    """Stream one request and note when its tokens came."""
    stopping = StoppingParams(max_tokens=n, ignore_eos=True)
    last = begin = time.perf_counter()
    async with client.stream(prompt, adapter=adapter, stopping=stopping, timeout=600) as stream:
        async for event in stream:
            if not isinstance(event, StreamDelta) or not event.token_ids:
                continue
            now = time.perf_counter()
            if last == begin:
                into.first_token_s.append(now - begin)
            else:
                into.inter_token_s.append((now - last) / len(event.token_ids))
            last = now
            into.num_tokens += len(event.token_ids)


async def play(
    client: AsyncClient, adapters: Sequence[str], load: Load, vocab_size: int
) -> tuple[Samples, float]:
    """Keep `load.concurrency` requests in flight; return the samples and the wall time."""
    samples = Samples()
    rng = random.Random(load.concurrency)
    pending = itertools.islice(itertools.cycle(adapters), load.num_requests)

    async def worker() -> None:
        for adapter in pending:
            prompt = TokenIds([rng.randrange(5, vocab_size) for _ in range(load.prompt_tokens)])
            await one(client, adapter, prompt, load.output_tokens, samples)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(load.concurrency):
            group.create_task(worker())
    return samples, time.perf_counter() - begin


async def measure(
    server: ServerProcess, mix: dict[str, list[str]], loads: list[Load]
) -> list[Round]:
    """Warm up, then play every load on every mix."""
    rounds = []
    async with AsyncClient(server.address) as client:
        info = await client.model_info()
        for name, adapters in mix.items():
            await play(client, adapters, Load(len(adapters), len(adapters), 8, 4), info.vocab_size)
            for load in loads:
                steps = server.sample("understudy_step_sequences_count")
                sequences = server.sample("understudy_step_sequences_sum")
                samples, wall_s = await play(client, adapters, load, info.vocab_size)
                steps = server.sample("understudy_step_sequences_count") - steps
                sequences = server.sample("understudy_step_sequences_sum") - sequences
                first = np.percentile(samples.first_token_s, [50, 95]) * 1000
                inter = np.percentile(samples.inter_token_s, [50, 95]) * 1000
                rounds.append(
                    Round(
                        adapters=name,
                        concurrency=load.concurrency,
                        requests_per_s=load.num_requests / wall_s,
                        tokens_per_s=samples.num_tokens / wall_s,
                        first_token_p50_ms=float(first[0]),
                        first_token_p95_ms=float(first[1]),
                        inter_token_p50_ms=float(inter[0]),
                        inter_token_p95_ms=float(inter[1]),
                        mean_batch_size=sequences / steps,
                    )
                )
    return rounds


def make_store(base: Path, folder: Path, num_lora: int, rank: int) -> list[str]:
    """Publish random adapters for `base` below `folder`/store; return their names."""
    configs: dict[str, peft.PeftConfig] = {
        f"lora-{i}": peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        for i in range(num_lora)
    }
    configs["soft-prompt"] = prompt_config()
    for seed, (name, config) in enumerate(configs.items()):
        artifact = make_adapter(base, folder / name, config, name=name, seed=seed)
        publish(artifact, folder / "store", name)
    return list(configs)


EMBEDDED_BASE = Path(__file__).resolve().parent.parent.parent / "demo" / "base"
COLUMNS = {
    "adapters": "adapters",
    "concurrency": "in\nflight",
    "requests_per_s": "requests\nper s",
    "tokens_per_s": "tokens\nper s",
    "first_token_p50_ms": "first ms\np50",
    "first_token_p95_ms": "\np95",
    "inter_token_p50_ms": "next ms\np50",
    "inter_token_p95_ms": "\np95",
    "mean_batch_size": "batch\nsize",
}


def show(rounds: list[Round], facts: dict[str, object]) -> None:
    """Print a table: what ran, then throughput, latencies and sequences per step."""
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    table = Table(box=box.SIMPLE)
    for name, heading in COLUMNS.items():
        table.add_column(heading, justify="left" if name == "adapters" else "right", no_wrap=True)
    for row in rounds:
        values = (getattr(row, name) for name in COLUMNS)
        table.add_row(*(f"{v:.1f}" if isinstance(v, float) else str(v) for v in values))
    Console(width=max(Console().width, 100)).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--base", type=Path, default=EMBEDDED_BASE, help="model directory (default: the demo's)"
    )
    parser.add_argument("--quantization", default="nf4", choices=["nf4", "int8", "none"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--concurrency", default="1,4,16", help="comma-separated")
    parser.add_argument("--requests", type=int, default=48, help="requests per round")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument(
        "--num-lora", type=int, default=4, help="LoRA adapters beside a soft prompt"
    )
    parser.add_argument("--rank", type=int, default=8, help="their rank")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the server")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(argv)

    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    loads = [
        Load(int(n), args.requests, args.prompt_tokens, args.output_tokens)
        for n in args.concurrency.split(",")
    ]
    with tempfile.TemporaryDirectory() as folder:
        names = make_store(args.base, Path(folder), args.num_lora, args.rank)
        begin = time.perf_counter()
        arguments = ["--base", args.base, "--store", Path(folder, "store"), "--device", args.device]
        arguments += ["--quantization", args.quantization]
        server = start(Path(folder), arguments, args.threads)
        start_s = time.perf_counter() - begin
        try:
            mix = {"base": [""], f"base + {len(names)}": ["", *names]}
            rounds = asyncio.run(measure(server, mix, loads))
            peak_kib = peak_memory_kib(server.process.pid)
        finally:
            server.terminate()
    facts = {
        "base": args.base.name,
        "quantization": args.quantization,
        "device": args.device,
        "threads": args.threads,
        "prompt_tokens": args.prompt_tokens,
        "output_tokens": args.output_tokens,
        "start_s": round(start_s, 2),
        "peak_memory_mib": peak_kib // 1024,
    }
    if args.json:
        print(json.dumps({**facts, "rounds": [asdict(row) for row in rounds]}))
    else:
        show(rounds, facts)
    return 0


def peak_memory_kib(pid: int) -> int:
    """Return the most resident memory a process has used."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
