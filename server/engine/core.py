"""The engine without its thread: requests in, one step at a time, events out."""

import heapq
import logging
import time
from collections.abc import Callable

import torch

from server.config import EngineConfig
from server.engine.answer import Answer, Generation, Progress, Scoring
from server.engine.batch import Batch, Layout, pack
from server.engine.kv_cache import BlockPool, KVCache
from server.engine.limits import request_label
from server.engine.runner import Runner
from server.engine.sampler import draw, log_probabilities, token_logprobs
from server.engine.scheduler import Scheduler
from server.engine.sequence import Chunk, Sequence
from server.engine.slots import AdapterSlots
from server.errors import (
    AdapterRefusedError,
    DeadlineError,
    DrainingError,
    RequestCancelledError,
    ServerError,
)
from server.models.loader import LoadedBase
from server.types import (
    EngineMetrics,
    EngineStats,
    Event,
    Failed,
    Finished,
    Request,
    Scored,
    StepRecord,
    TokenLogprob,
)

logger = logging.getLogger(__name__)

# Deadlines of ended requests that are kept before it pays to drop them: each holds its request.
_SPARE_DEADLINES = 64

_OUTCOMES: dict[type[Exception], str] = {
    RequestCancelledError: "cancelled",
    DeadlineError: "deadline",
    DrainingError: "draining",
}


class EngineCore:
    """Holds every accepted request until its terminal event. Not thread-safe.

    `on_ended` is called with a request's id just before its terminal event.
    """

    def __init__(
        self,
        base: LoadedBase,
        config: EngineConfig,
        metrics: EngineMetrics,
        on_ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._base = base
        self._config = config
        self._metrics = metrics
        self._on_ended = on_ended
        position_bytes = base.cache_shape.position_bytes(base.dtype)
        num_blocks = config.num_cache_blocks(position_bytes * config.block_size)
        self.max_context = min(base.info.max_context_tokens, num_blocks * config.block_size)
        """Most positions of one request: the model's context, or the whole cache."""
        self._pool = BlockPool(num_blocks)
        cache = KVCache(base.cache_shape, num_blocks, config.block_size, base.dtype, base.device)
        self._slots = AdapterSlots(
            base.decoder.groups,
            config.num_adapter_slots,
            base.dtype,
            base.device,
            metrics.adapter_placed,
        )
        self._scheduler = Scheduler(
            config,
            self._pool,
            cache,
            self._slots,
            on_preempted=self._preempted,
            on_failed=self._not_placed,
        )
        self._layout = (
            Layout.deterministic(config.block_size)
            if config.deterministic
            else Layout(config.block_size)
        )
        self._runner = Runner(base, cache, self._layout)
        self._answers: dict[str, Answer] = {}
        self._deadlines: list[tuple[float, int, Answer]] = []
        self._num_arrivals = 0
        self._num_steps = 0
        self._num_generated = 0
        self._num_prompt = 0
        self.num_unstarted = 0
        """Requests that no step has run yet."""

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._answers)

    def add(self, request: Request) -> None:
        """Takes a request that `check_request` let through."""
        self._num_arrivals += 1
        progress = Progress(self._num_arrivals)
        answer: Answer
        if request.continuations:
            answer = Scoring(request, progress)
        else:
            answer = Generation(
                request,
                progress,
                max_context=self.max_context,
                eos_token_ids=self._base.eos_token_ids,
                decode=self._base.decode,
            )
        self._answers[request.request_id] = answer
        self.num_unstarted += 1
        if request.deadline_s is not None:
            heapq.heappush(self._deadlines, (request.deadline_s, progress.number, answer))
            self._forget_deadlines()
        for sequence in answer.sequences:
            self._scheduler.add(sequence)
        self._end_if_done(answer)

    def cancel(self, request_id: str) -> None:
        """Ends a request with RequestCancelledError. Unknown ids are ignored."""
        answer = self._answers.get(request_id)
        if answer is not None:
            self._fail(answer, RequestCancelledError("the request was cancelled"))

    def expire(self, now: float) -> None:
        """Ends the requests whose deadline lies before `now` (on time.monotonic)."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, answer = heapq.heappop(self._deadlines)
            if self._answers.get(answer.request.request_id) is answer:
                waited = now - answer.request.arrival_s
                self._fail(answer, DeadlineError(f"the deadline passed after {waited:.2f} s"))

    def fail_all(self, error: Exception) -> None:
        """Ends every request with `error`."""
        for answer in list(self._answers.values()):
            self._fail(answer, error)

    def evict(self, name: str, version: str) -> None:
        """Empties an adapter's slot, now or when its last sequence leaves."""
        self._slots.evict((name, version))

    @torch.inference_mode()
    def step(self) -> None:
        """Runs one step: schedule, run, postprocess. A failure ends the requests in it."""
        chunks = self._scheduler.schedule()
        if not chunks:
            return
        started = time.perf_counter()
        self._begin(chunks)
        try:
            batch = pack(chunks, self._layout, self._base.device)
            self._postprocess(batch, self._runner.run(batch))
        except Exception as error:
            logger.exception("a step of %d sequences failed", len(chunks))
            for chunk in chunks:
                answer = chunk.sequence.answer
                if self._answers.get(answer.request.request_id) is answer:
                    self._fail(answer, error)
        self._num_steps += 1
        num_decode = sum(chunk.count == 1 for chunk in chunks)
        num_rows = sum(chunk.count for chunk in chunks)
        self._metrics.step(
            StepRecord(
                duration_s=time.perf_counter() - started,
                num_prefill_tokens=num_rows - num_decode,
                num_decode_tokens=num_decode,
                num_sequences=len(chunks),
                num_waiting=self.num_unstarted,
                num_used_blocks=self._pool.num_used,
                num_total_blocks=self._pool.num_blocks,
            )
        )

    def stats(self) -> EngineStats:
        """What the engine is doing now."""
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self.num_unstarted,
            num_used_blocks=self._pool.num_used,
            num_total_blocks=self._pool.num_blocks,
            num_steps=self._num_steps,
            num_generated_tokens=self._num_generated,
            num_prompt_tokens=self._num_prompt,
            slots=tuple(f"{name}@{version}" for name, version in self._slots.keys),
        )

    def check_integrity(self) -> None:
        """Raises AssertionError unless sequences, blocks and slots agree."""
        self._scheduler.check_integrity()
        held = {s for answer in self._answers.values() for s in answer.sequences}
        assert held == set(self._scheduler.sequences), "a sequence without a request"
        if not self._answers:
            assert self._pool.num_used == 0

    def _forget_deadlines(self) -> None:
        """Drops the deadlines of requests that have ended, once those are the most."""
        if len(self._deadlines) > 2 * len(self._answers) + _SPARE_DEADLINES:
            alive = set(self._answers.values())
            self._deadlines = [entry for entry in self._deadlines if entry[2] in alive]
            heapq.heapify(self._deadlines)

    def _begin(self, chunks: list[Chunk]) -> None:
        now = time.monotonic()
        for chunk in chunks:
            answer = chunk.sequence.answer
            progress, request = answer.progress, answer.request
            progress.max_batch_size = max(progress.max_batch_size, len(chunks))
            if progress.started_s is None:
                progress.started_s = now
                self.num_unstarted -= 1
                self._num_prompt += len(request.prompt_token_ids)
                self._metrics.request_started(request_label(request), now - request.arrival_s)

    def _postprocess(self, batch: Batch, logits: torch.Tensor) -> None:
        generations: list[tuple[int, Generation]] = []
        row = 0
        for chunk in batch.chunks:
            count = chunk.num_logit_rows
            sequence, answer = chunk.sequence, chunk.sequence.answer
            sequence.num_computed += chunk.count
            if isinstance(answer, Generation):
                if count:
                    generations.append((row, answer))
            elif count:
                self._score(answer, sequence, logits[row : row + count])
            elif answer.is_context(sequence) and sequence.num_remaining == 0:
                self._scheduler.fork(sequence, answer.continuations())
            row += count
        if generations:
            rows = [row for row, _ in generations]
            self._generate(
                [answer for _, answer in generations],
                logits if len(rows) == len(logits) else logits[rows],
            )

    def _generate(self, answers: list[Generation], logits: torch.Tensor) -> None:
        """Draws the next token of each answer from its row of logits."""
        asked = [i for i, answer in enumerate(answers) if answer.request.num_logprobs is not None]
        logprobs = log_probabilities(logits[asked]) if asked else None
        token_ids = draw(logits, [answer.draw() for answer in answers])
        found: dict[int, TokenLogprob] = {}
        if logprobs is not None:
            num_top = max(answers[i].request.num_logprobs or 0 for i in asked)
            entries = token_logprobs(logprobs, [token_ids[i] or 0 for i in asked], num_top)
            for i, entry in zip(asked, entries, strict=True):
                # Each gets as many as it asked for, whatever its neighbours asked for.
                top = entry.top[: answers[i].request.num_logprobs]
                found[i] = TokenLogprob(entry.token_id, entry.logprob, top)
        now = time.monotonic()
        for i, (answer, token_id) in enumerate(zip(answers, token_ids, strict=True)):
            if token_id is None:
                self._fail(answer, _not_finite(answer.request))
                continue
            progress, request = answer.progress, answer.request
            if progress.first_token_s is None:
                progress.first_token_s = now
                self._metrics.first_token(request_label(request), now - request.arrival_s)
            self._num_generated += 1
            delta = answer.accept(token_id, found.get(i))
            if delta is not None:
                self._emit(request, delta)
            self._end_if_done(answer)

    def _score(self, answer: Scoring, sequence: Sequence, logits: torch.Tensor) -> None:
        if not answer.accept(sequence, logits):
            self._fail(answer, _not_finite(answer.request))
            return
        if answer.progress.first_token_s is None:
            answer.progress.first_token_s = time.monotonic()
        if sequence.num_remaining == 0:
            self._scheduler.remove(sequence)
        self._end_if_done(answer)

    def _not_placed(self, sequence: Sequence, error: Exception) -> None:
        logger.error("%s cannot be placed", request_label(sequence.answer.request), exc_info=error)
        self._fail(sequence.answer, error)

    def _preempted(self, sequence: Sequence) -> None:
        self._metrics.preempted()
        if isinstance(sequence.answer, Scoring):
            sequence.answer.restart(sequence)

    def _end_if_done(self, answer: Answer) -> None:
        event = answer.terminal()
        if isinstance(event, Finished):
            self._end(answer, event, event.reason.value)
        elif event is not None:
            self._end(answer, event, "scored")

    def _fail(self, answer: Answer, error: Exception) -> None:
        self._end(answer, Failed(error), _OUTCOMES.get(type(error), "error"))

    def _end(self, answer: Answer, event: Finished | Scored | Failed, outcome: str) -> None:
        request = answer.request
        del self._answers[request.request_id]
        for sequence in answer.sequences:
            self._scheduler.remove(sequence)
        if answer.progress.started_s is None:
            self.num_unstarted -= 1
        if request.lease is not None:
            request.lease.release()
        usage = None if isinstance(event, Failed) else event.usage
        self._metrics.request_ended(request_label(request), outcome, usage)
        self._on_ended(request.request_id)
        self._emit(request, event)

    def _emit(self, request: Request, event: Event) -> None:
        try:
            request.emit(event)
        except Exception:
            # The receiver's fault must not end the others' requests.
            logger.exception("request %s: its receiver failed", request.request_id)


def _not_finite(request: Request) -> ServerError:
    if request.lease is not None:
        return AdapterRefusedError(
            f"adapter {request.lease.name!r}: its weights overflow; the logits are not finite"
        )
    return ServerError("the logits are not finite")
