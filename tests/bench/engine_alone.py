"""The engine without the server around it, in a child process: what gRPC and all else costs.

It also times single decode steps, which nobody can from outside.
"""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from server.adapters.artifact import ArtifactLimits
from server.adapters.store import AdapterStore, parse_reference
from server.adapters.tiers import AdapterTiers, TierLimits
from server.app import detect_hardware
from server.config import AdaptersConfig, BaseConfig, EngineConfig, ServerConfig, resolve
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
        self.placed_s: list[float] = []
        """Seconds that each adapter took to the device."""
        self.placed = defaultdict[str, threading.Event](threading.Event)
        """Set when an adapter, by name, has been brought there."""

    def step(self, record: StepRecord) -> None:
        """A step ran."""
        super().step(record)
        self.records.append((time.perf_counter(), record))

    def adapter_placed(self, adapter: str, seconds: float) -> None:
        """An adapter is in a slot."""
        super().adapter_placed(adapter, seconds)
        self.placed_s.append(seconds)
        self.placed[adapter].set()

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
        self.metrics = StepTimes()
        self._num_requests = 0
        self._counting = threading.Lock()

    def load(
        self,
        base: str,
        store: str,
        quantization: Literal["nf4", "int8", "none"] = "none",
        kernels: Literal["auto", "native", "triton", "torch"] = "auto",
        cache_bytes: int = CACHE_BYTES,
        max_batch_size: int | None = None,
        num_adapter_slots: int = 32,
        cuda_graphs: bool = False,
        max_host_bytes: int | None = None,
        adapter_slot_bytes: int | None = None,
        **base_options: Any,
    ) -> Answer:
        """Load the base in bf16, and open the store; `base_options` are further ones of
        `load_base`. Raises StartupError."""
        engine = EngineConfig(
            cache_bytes=cache_bytes,
            num_adapter_slots=num_adapter_slots,
            adapter_slot_bytes=adapter_slot_bytes,
            cuda_graphs=cuda_graphs,
        )
        if max_batch_size is not None:
            engine = replace(engine, max_batch_size=max_batch_size)
        wanted = ServerConfig(
            BaseConfig(
                Path(base), quantization=quantization, dtype="bfloat16", kernels=kernels,
                weight_form="nf4_packed" if quantization == "nf4" else "auto",
            ),
            engine,
            AdaptersConfig(max_host_bytes=max_host_bytes),
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
                **base_options,
            ).result()
        loader = Loader(config.adapters.load_share, lambda: self._engine.stats().num_running > 0)
        self._engine = Engine(loaded, config.engine, self.metrics, loader=loader.ahead)
        limits = ArtifactLimits(
            max_bytes=config.adapters.max_adapter_bytes,
            max_lora_rank=config.engine.max_lora_rank,
            max_host_bytes=config.adapters.max_host_bytes or 0,
        )
        self._tiers = AdapterTiers(
            loaded.info,
            AdapterStore(Path(store)),
            TierLimits(artifact=limits, roots=()),
            self.metrics,
            on_freed=self._engine.evict,
        )
        self._engine.start()
        return {}

    def play(
        self, prompts: list[list[int]], num_tokens: int, adapter_names: Sequence[str]
    ) -> Answer:
        """Run all prompts at once, greedy, to full length."""
        leases = [self._lease(name) for name in adapter_names]
        self.metrics.records.clear()
        begin = time.perf_counter()
        waits = [
            self._submit(prompt, lease, num_tokens)
            for prompt, lease in zip(prompts, leases, strict=True)
        ]
        answers = [wait() for wait in waits]
        wall_s = time.perf_counter() - begin
        steps_s = self.metrics.decode_steps_s(len(prompts))
        return {
            "wall_s": wall_s,
            "decode_step_s": statistics.median(steps_s) if steps_s else None,
            "token_ids": [list(answer.samples[0].token_ids) for answer in answers],
        }

    def stream(
        self,
        prompts: list[list[int]],
        num_tokens: int,
        adapter_names: Sequence[str],
        concurrency: int,
    ) -> Answer:
        """Run prompts in order, `concurrency` at a time; an adapter that is not in memory is read
        when its request's turn has come."""

        def run(prompt: list[int], name: str) -> int:
            return len(self._submit(prompt, self._lease(name), num_tokens)().samples[0].token_ids)

        begin = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            num_generated = sum(pool.map(run, prompts, adapter_names))
        return {"wall_s": time.perf_counter() - begin, "num_tokens": num_generated}

    def place(self, adapter_name: str) -> None:
        """Bring an adapter to the device; while the batch is full none of its rows runs, as its
        request is withdrawn before its turn."""
        placed = self.metrics.placed[adapter_name]
        placed.clear()
        lease = self._lease(adapter_name)
        request_id, ended = self._queue([1, 2, 3], lease, 1, [])
        while not (placed.wait(0.01) or ended.is_set()):
            pass
        self._engine.cancel(request_id)
        ended.wait()

    def _submit(
        self, prompt: list[int], lease: Lease | None, num_tokens: int
    ) -> Callable[[], Finished]:
        """Queues a greedy request; returns what waits for its end."""
        events: list[Event] = []
        _, ended = self._queue(prompt, lease, num_tokens, events)

        def wait() -> Finished:
            ended.wait()
            (event,) = events
            if isinstance(event, Failed):
                raise event.error
            assert isinstance(event, Finished)
            return event

        return wait

    def _queue(
        self, prompt: list[int], lease: Lease | None, num_tokens: int, events: list[Event]
    ) -> tuple[str, threading.Event]:
        """Queues a greedy request, whose terminal event goes to `events`; returns its id, and what
        is set at its end."""
        ended = threading.Event()

        def emit(event: Event) -> None:
            if isinstance(event, Finished | Failed):
                events.append(event)
                ended.set()

        with self._counting:
            self._num_requests += 1
            request_id = str(self._num_requests)
        self._engine.submit(
            Request(
                request_id=request_id,
                prompt_token_ids=tuple(prompt),
                lease=lease,
                sampling=SamplingParams(),
                stopping=StoppingParams(num_tokens, ignore_eos=True),
                emit=emit,
                arrival_s=time.monotonic(),
                stream=False,
            )
        )
        return request_id, ended

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
        while True:
            # It may be evicted in between, where memory for adapters is short.
            lease = self._tiers.try_acquire(self._tiers.prepare(parse_reference(name)))
            if lease is not None:
                return lease


if __name__ == "__main__":
    alone = EngineAlone()
    serve(
        {
            "load": alone.load,
            "play": alone.play,
            "stream": alone.stream,
            "bandwidth": alone.bandwidth,
        }
    )
