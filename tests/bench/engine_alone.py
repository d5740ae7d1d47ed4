"""The engine without the server around it, in a child process: what gRPC and all else costs.

It also times single decode steps, which nobody can from outside.
"""

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from server.adapters.artifact import ArtifactLimits
from server.adapters.store import AdapterStore, parse_reference
from server.adapters.tiers import AdapterTiers, TierLimits
from server.app import detect_hardware
from server.config import BaseConfig, EngineConfig, ServerConfig, resolve
from server.engine.engine import Engine
from server.engine.loader import Loader
from server.metrics import Metrics
from server.models.loader import load_base
from server.models.processor import compute_with
from server.types import (
    Event,
    Failed,
    Finished,
    Lease,
    Request,
    SamplingParams,
    StepRecord,
    StoppingParams,
)
from tests.bench.child import Answer, serve
from tests.bench.machine import read_bandwidth
from tests.bench.plan import CACHE_BYTES


class StepTimes(Metrics):
    """The server's own metrics, and when each step ended."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[float, StepRecord]] = []

    def step(self, record: StepRecord) -> None:
        """A step ran."""
        super().step(record)
        self.records.append((time.perf_counter(), record))

    def decode_steps_s(self, num_sequences: int) -> list[float]:
        """From the end of one step to the end of the next, where both decoded `num_sequences`
        and nothing else: all that the engine's thread does for a step, not the pass alone."""
        times = []
        for (before, one), (after, two) in zip(self.records, self.records[1:], strict=False):
            pure = (
                r.num_prefill_tokens == 0 and r.num_sequences == num_sequences for r in (one, two)
            )
            if all(pure):
                times.append(after - before)
        return times


class EngineAlone:
    """One engine, configured as the server configures its own."""

    def __init__(self) -> None:
        self._engine: Engine
        self._tiers: AdapterTiers
        self._metrics = StepTimes()
        self._num_requests = 0

    def load(
        self,
        base: str,
        store: str,
        quantization: Literal["nf4", "int8", "none"] = "none",
        kernels: Literal["auto", "native", "triton", "torch"] = "auto",
        cache_bytes: int = CACHE_BYTES,
        max_batch_size: int | None = None,
    ) -> Answer:
        """Load the base in bf16, and open the store."""
        engine = EngineConfig(cache_bytes=cache_bytes)
        if max_batch_size is not None:
            engine = replace(engine, max_batch_size=max_batch_size)
        wanted = ServerConfig(
            BaseConfig(
                Path(base), quantization=quantization, dtype="bfloat16", kernels=kernels,
                weight_form="nf4_packed" if quantization == "nf4" else "auto",
            ),
            engine,
        )  # fmt: skip
        config = resolve(wanted, detect_hardware())
        # As the server does: no thread but the engine's computes with several, and lives on.
        compute_with(1)
        self._num_threads = config.engine.num_threads or 1
        with self._pool() as pool:
            loaded = pool.submit(
                load_base,
                Path(base),
                quantization=quantization,
                dtype="bfloat16",
                device=config.base.device,
                weight_form=config.base.weight_form,
                kernels=kernels,
            ).result()
        loader = Loader(config.adapters.load_share, lambda: self._engine.stats().num_running > 0)
        self._engine = Engine(loaded, config.engine, self._metrics, loader=loader.ahead)
        limits = ArtifactLimits(
            max_bytes=config.adapters.max_adapter_bytes,
            max_lora_rank=config.engine.max_lora_rank,
            max_host_bytes=config.adapters.max_host_bytes or 0,
        )
        self._tiers = AdapterTiers(
            loaded.info,
            AdapterStore(Path(store)),
            TierLimits(artifact=limits, roots=()),
            self._metrics,
            on_freed=self._engine.evict,
        )
        self._engine.start()
        return {}

    def play(
        self, prompts: list[list[int]], num_tokens: int, adapter_names: Sequence[str]
    ) -> Answer:
        """Run all prompts at once, greedy, to full length."""
        leases = [self._lease(name) for name in adapter_names]
        done = threading.Semaphore(0)
        answers: list[Any] = [None] * len(prompts)
        self._metrics.records.clear()
        begin = time.perf_counter()
        for index, (prompt, lease) in enumerate(zip(prompts, leases, strict=True)):

            def emit(event: Event, index: int = index) -> None:
                if isinstance(event, Finished | Failed):
                    answers[index] = event
                    done.release()

            self._num_requests += 1
            self._engine.submit(
                Request(
                    request_id=str(self._num_requests),
                    prompt_token_ids=tuple(prompt),
                    lease=lease,
                    sampling=SamplingParams(),
                    stopping=StoppingParams(num_tokens, ignore_eos=True),
                    emit=emit,
                    arrival_s=time.monotonic(),
                    stream=False,
                )
            )
        for _ in prompts:
            done.acquire()
        wall_s = time.perf_counter() - begin
        for answer in answers:
            if isinstance(answer, Failed):
                raise answer.error
        steps_s = self._metrics.decode_steps_s(len(prompts))
        return {
            "wall_s": wall_s,
            "decode_step_s": statistics.median(steps_s) if steps_s else None,
            "token_ids": [list(answer.samples[0].token_ids) for answer in answers],
        }

    def bandwidth(self, size: int) -> Answer:
        """Bytes per second at which this process reads memory."""
        with self._pool() as pool:
            return {"bytes_per_s": pool.submit(read_bandwidth, size=size).result()}

    def _pool(self) -> ThreadPoolExecutor:
        """A thread that computes with as many threads as the engine's."""
        return ThreadPoolExecutor(1, initializer=compute_with, initargs=(self._num_threads,))

    def _lease(self, name: str) -> Lease | None:
        if not name:
            return None
        lease = self._tiers.try_acquire(self._tiers.prepare(parse_reference(name)))
        assert lease is not None, "nothing else evicts"
        return lease


if __name__ == "__main__":
    alone = EngineAlone()
    serve({"load": alone.load, "play": alone.play, "bandwidth": alone.bandwidth})
