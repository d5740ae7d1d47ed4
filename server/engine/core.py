"""The engine without its thread: requests in, one step at a time, events out."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor

import torch

from server.config import EngineConfig
from server.engine.answer import Answer, Progress, added_vocabulary
from server.engine.batch import Batch, Layout, pack
from server.engine.book import RequestBook
from server.engine.capture import Capture
from server.engine.classification import Classification
from server.engine.deadlines import HopelessDeadlines
from server.engine.decode_graphs import DecodeGraphs
from server.engine.generation import Generation, Sample, draw_next
from server.engine.kv_cache import BlockPool, KVCache
from server.engine.limits import request_label
from server.engine.placing import Placer
from server.engine.prefetch import InlineExecutor, Prefetcher
from server.engine.prefix_cache import PrefixCache
from server.engine.runner import Runner
from server.engine.scheduler import Scheduler
from server.engine.scoring import Scoring
from server.engine.sequence import Sequence
from server.engine.side_stream import SideStream, side_stream
from server.engine.slots import AdapterSlots
from server.errors import (
    AdapterRefusedError,
    ServerError,
)
from server.models.loader import LoadedBase
from server.types import (
    AdapterObserver,
    EngineMetrics,
    EngineStats,
    Request,
    StepRecord,
    unobserved,
)

logger = logging.getLogger(__name__)


class EngineCore:
    """Holds every accepted request until its terminal event. Not thread-safe.

    `on_ended` is called with a request's id just before its terminal event, `on_change` when an
    adapter goes to a device slot or out of it. `clock` counts seconds; deadlines are on it.

    Adapters are placed by `loader`, which calls `on_placed` for each; by default within the step.
    `stream` is where they are made; by default the device's. With `capture`, steps that only decode
    are recorded and replayed.
    """

    def __init__(
        self,
        base: LoadedBase,
        config: EngineConfig,
        metrics: EngineMetrics,
        on_ended: Callable[[str], None] = lambda _: None,
        on_change: AdapterObserver = unobserved,
        clock: Callable[[], float] = time.monotonic,
        loader: Executor | None = None,
        on_placed: Callable[[], None] = lambda: None,
        capture: Capture | None = None,
        stream: SideStream | None = None,
    ) -> None:
        self._base = base
        self._config = config
        self._metrics = metrics
        self._clock = clock
        position_bytes = base.cache_shape.position_bytes(base.dtype)
        num_blocks = config.num_cache_blocks(position_bytes * config.block_size)
        self.max_context = min(base.info.max_context_tokens, num_blocks * config.block_size)
        """Most positions of one request: the model's context, or the whole cache."""
        self._pool = BlockPool(num_blocks)
        cache = KVCache(base.cache_shape, num_blocks, config.block_size, base.dtype, base.device)
        self._prefixes = PrefixCache(
            base.info.fingerprint,
            config.block_size,
            self._pool,
            cache,
            enabled=config.prefix_cache,
        )
        self._slots = AdapterSlots(
            config.num_adapter_slots,
            config.adapter_slot_bytes,
            lambda placed: self._runner.forget(placed),
            on_change,
        )
        self._adapters = Prefetcher(
            self._slots,
            Placer(
                base.decoder,
                base.dtype,
                base.device,
                fuses_affine=not config.deterministic
                and base.kernels is not None
                and base.kernels.fuses_affine,
            ),
            loader or InlineExecutor(),
            stream or side_stream(base.device),
            on_placed,
            metrics.adapter_placed,
            self._prefixes.forget,
        )
        self._hopeless = HopelessDeadlines(config, self._prefixes, clock)
        self._scheduler = Scheduler(
            config,
            self._pool,
            cache,
            self._prefixes,
            self._adapters,
            on_preempted=lambda _: metrics.preempted(),
            on_failed=self._not_admitted,
            refuse=self._hopeless.check,
            clock=clock,
        )
        self._layout = (
            Layout.deterministic(config.block_size)
            if config.deterministic
            else Layout(config.block_size)
        )
        self.graphs: DecodeGraphs | None = None
        """What runs the steps that only decode, where `capture` records them."""
        if capture is not None:
            self.graphs = DecodeGraphs(
                base,
                cache,
                capture,
                num_slots=config.num_adapter_slots,
                max_rows=config.max_batch_size,
                max_blocks=-(-self.max_context // config.block_size),
            )
        self._runner = Runner(base, cache, self._layout, self.graphs)
        self._book = RequestBook(metrics, self._scheduler.remove, on_ended)
        self._num_arrivals = 0
        self._num_steps = 0
        self._num_generated = 0
        self._num_prompt = 0

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._book.answers)

    @property
    def next_deadline_s(self) -> float | None:
        """The earliest deadline of an open request, or one that has ended meanwhile."""
        return self._book.next_deadline_s

    @property
    def num_unstarted(self) -> int:
        """Requests that no step has run yet."""
        return self._book.num_unstarted

    def add(self, request: Request) -> None:
        """Takes a request that `check_request` let through; one that fails here ends alone."""
        answer = None
        try:
            answer = self._answer(request)
            self._book.enter(answer)
            for sequence in answer.sequences:
                self._scheduler.add(sequence)
            late = next(filter(None, map(self._hopeless.check, answer.sequences)), None)
            if late is not None:
                self._book.fail(answer, late)
            else:
                self._book.end_if_done(answer)
        except Exception as error:
            logger.exception("request %s cannot be taken", request.request_id)
            if answer is None:
                self._book.reject(request, error)
            elif self._book.is_open(answer):
                self._book.fail(answer, error)

    def cancel(self, request_id: str) -> None:
        """Ends a request with RequestCancelledError. Unknown ids are ignored."""
        self._book.cancel(request_id, self._clock())

    def expire(self, now: float) -> None:
        """Ends the requests whose deadline lies before `now`."""
        self._book.expire(now)

    def fail_all(self, error: Exception) -> None:
        """Ends every request with `error`. Never raises: each gets its terminal event."""
        for answer in self._book.answers:
            try:
                self._book.fail(answer, error)
            except Exception:
                logger.exception("request %s left something behind", answer.request.request_id)

    def evict(self, name: str, version: str) -> None:
        """Empties an adapter's slot and forgets its prefixes, now or when its last sequence ends,
        waiting or running."""
        self._adapters.evict((name, version))

    def pin(self, name: str, version: str, pinned: bool) -> None:
        """Keeps an adapter in its slot, once it is there, as long as others can make room."""
        self._slots.pin((name, version), pinned)

    @torch.inference_mode()
    def step(self) -> bool:
        """Runs one step: schedule, run, postprocess. A failure ends the requests in it.

        False if there was nothing to run: no request is open, or all wait for adapters that are
        being placed.
        """
        chunks = self._scheduler.schedule()
        if not chunks:
            return False
        started = time.perf_counter()
        answers = dict.fromkeys(chunk.sequence.answer for chunk in chunks)
        self._num_prompt += self._book.start(answers, len(chunks))
        try:
            batch = pack(chunks, self._layout)
            self._postprocess(batch, *self._runner.run(batch))
        except Exception as error:
            logger.exception("a step of %d sequences failed", len(chunks))
            for answer in filter(self._book.is_open, answers):
                self._book.fail(answer, error)
        self._num_steps += 1
        num_queries, num_hits = self._prefixes.take_counts()
        num_decode = sum(chunk.count for chunk in chunks if chunk.is_decode)
        num_rows = sum(chunk.count for chunk in chunks)
        duration_s = time.perf_counter() - started
        self._hopeless.observe(num_rows, duration_s)
        self._metrics.step(
            StepRecord(
                duration_s=duration_s,
                num_prefill_tokens=num_rows - num_decode,
                num_decode_tokens=num_decode,
                num_sequences=len(chunks),
                num_waiting=self.num_unstarted,
                num_used_blocks=self._pool.num_used,
                num_total_blocks=self._pool.num_blocks,
                num_prefix_queries=num_queries,
                num_prefix_hits=num_hits,
            )
        )
        return True

    def is_placed(self, name: str, version: str) -> bool:
        """Whether an adapter is in a device slot. Safe from any thread."""
        return (name, version) in self._slots.keys

    def stats(self) -> EngineStats:
        """What the engine is doing now."""
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self.num_unstarted,
            num_used_blocks=self._pool.num_used,
            num_cached_blocks=self._pool.num_cached,
            num_total_blocks=self._pool.num_blocks,
            num_steps=self._num_steps,
            num_generated_tokens=self._num_generated,
            num_prompt_tokens=self._num_prompt,
            slots=tuple(f"{name}@{version}" for name, version in self._slots.keys),
        )

    def check_integrity(self) -> None:
        """Raises AssertionError unless sequences, blocks and slots agree."""
        self._scheduler.check_integrity()
        held = {s for answer in self._book.answers for s in answer.sequences}
        assert held == set(self._scheduler.sequences), "a sequence without a request"
        if not self.has_work:
            assert self._pool.num_used == 0

    def _answer(self, request: Request) -> Answer:
        self._num_arrivals += 1
        progress = Progress(self._num_arrivals)
        if request.classify:
            return Classification(request, progress)
        if request.continuations:
            return Scoring(request, progress)
        own, eos_token_ids = added_vocabulary(request), self._base.eos_token_ids
        return Generation(
            request,
            progress,
            max_context=self.max_context,
            eos_token_ids=eos_token_ids if own is None else eos_token_ids | own.eos_token_ids,
            decode=self._base.decode if own is None else own.decode,
        )

    def _postprocess(self, batch: Batch, logits: torch.Tensor, states: torch.Tensor) -> None:
        # By the size of the vocabulary: where adapters add tokens, rows differ in it.
        drawn: dict[int, list[tuple[int, Sample]]] = {}
        forks: list[tuple[Sequence, Generation]] = []
        row = num_states = 0
        for chunk in batch.chunks:
            count = chunk.num_logit_rows
            first, row = row, row + count
            num_states += chunk.num_state_rows
            sequence, answer = chunk.sequence, chunk.sequence.answer
            own = added_vocabulary(answer.request)
            size = self._base.info.vocab_size if own is None else own.num_tokens
            if not self._book.is_open(answer):
                # A score that failed at another of its continuations in this very step.
                continue
            sequence.num_computed += chunk.count
            self._prefixes.keep(chunk)
            if isinstance(answer, Scoring):
                if count:
                    self._score(answer, sequence, _columns(logits[first:row], size))
                elif answer.is_context(sequence) and sequence.num_remaining == 0:
                    self._scheduler.fork(sequence, answer.continuations())
            elif isinstance(answer, Classification):
                if chunk.num_state_rows:
                    self._classify(answer, sequence, states[num_states - 1 : num_states])
            elif isinstance(answer, Generation) and count:
                is_end = sequence.num_remaining == 0
                prompt = _columns(logits[first : row - is_end], size)
                if len(prompt) and not answer.accept_prompt(sequence, prompt):
                    self._book.fail(answer, _not_finite(answer.request))
                elif is_end:
                    samples = answer.samples_of(sequence)
                    drawn.setdefault(size, []).extend((row - 1, sample) for sample in samples)
                    if len(samples) > 1:
                        forks.append((sequence, answer))
        for size, entries in drawn.items():
            rows = [row for row, _ in entries]
            own_rows = logits if rows == list(range(len(logits))) else logits[rows]
            self._generate([sample for _, sample in entries], _columns(own_rows, size))
        for sequence, answer in forks:
            if self._book.is_open(answer):
                self._scheduler.fork(sequence, answer.fork())

    def _generate(self, samples: list[Sample], logits: torch.Tensor) -> None:
        """Draws the next token of each sample from its row of logits."""
        kernels = self._base.kernels
        drawn = draw_next(samples, logits, None if kernels is None else kernels.sampler)
        now = time.monotonic()
        for sample, (token_id, logprob) in zip(samples, drawn, strict=True):
            answer, request = sample.generation, sample.generation.request
            if not self._book.is_open(answer):
                # Another of its samples failed in this very step.
                continue
            if token_id is None or sample.error is not None:
                self._book.fail(answer, sample.error or _not_finite(request))
                continue
            progress = answer.progress
            if progress.first_token_s is None:
                progress.first_token_s = now
                self._metrics.first_token(request_label(request), now - request.arrival_s)
            self._num_generated += 1
            delta = sample.accept(token_id, logprob)
            if sample.error is not None:
                self._book.fail(answer, sample.error)
                continue
            if delta is not None:
                self._book.emit(request, delta)
            if sample.reason is not None:
                if sample.sequence is not None:
                    answer.sequences.remove(sample.sequence)
                    self._scheduler.remove(sample.sequence)
                self._book.end_if_done(answer)

    def _score(self, answer: Scoring, sequence: Sequence, logits: torch.Tensor) -> None:
        if not answer.accept(sequence, logits):
            self._book.fail(answer, _not_finite(answer.request))
            return
        if answer.progress.first_token_s is None:
            answer.progress.first_token_s = time.monotonic()
        if sequence.num_remaining == 0:
            self._scheduler.remove(sequence)
        self._book.end_if_done(answer)

    def _classify(self, answer: Classification, sequence: Sequence, state: torch.Tensor) -> None:
        if not answer.accept(sequence, state):
            self._book.fail(answer, _not_finite(answer.request))
            return
        answer.progress.first_token_s = time.monotonic()
        self._scheduler.remove(sequence)
        self._book.end_if_done(answer)

    def _not_admitted(self, sequence: Sequence, error: Exception) -> None:
        # Another sequence of the same request may have failed just before.
        if self._book.is_open(sequence.answer):
            self._book.fail(sequence.answer, error)


def _columns(logits: torch.Tensor, size: int) -> torch.Tensor:
    """The first columns, laid out as if there were no others."""
    return logits if logits.shape[1] == size else logits[:, :size].contiguous()


def _not_finite(request: Request) -> ServerError:
    if request.lease is not None:
        return AdapterRefusedError(
            f"adapter {request.lease.name!r}: its weights overflow; the logits are not finite"
        )
    return ServerError("the logits are not finite")
