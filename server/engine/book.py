"""The book of open requests: each is entered once and ends with exactly one terminal event."""

import heapq
import logging
import time
from collections.abc import Callable, Iterable

from server.engine.answer import Answer
from server.engine.limits import request_label
from server.engine.sequence import Sequence
from server.errors import DeadlineError, DrainingError, RequestCancelledError
from server.types import Classified, EngineMetrics, Event, Failed, Finished, Request, Scored

logger = logging.getLogger(__name__)

# Deadlines of ended requests that are kept before it pays to drop them: each holds its request.
_SPARE_DEADLINES = 64

_OUTCOMES: dict[type[Exception], str] = {
    RequestCancelledError: "cancelled",
    DeadlineError: "deadline",
    DrainingError: "draining",
}


class RequestBook:
    """Holds the answers of open requests. Not thread-safe.

    `remove` drops a sequence from the scheduler. `on_ended` is called with a request's id just
    before its terminal event.
    """

    def __init__(
        self,
        metrics: EngineMetrics,
        remove: Callable[[Sequence], None],
        on_ended: Callable[[str], None],
    ) -> None:
        self._metrics = metrics
        self._remove = remove
        self._on_ended = on_ended
        self._answers: dict[str, Answer] = {}
        self._deadlines: list[tuple[float, int, Answer]] = []
        self.num_unstarted = 0
        """Requests that no step has run yet."""

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Those of the open requests."""
        return tuple(self._answers.values())

    @property
    def next_deadline_s(self) -> float | None:
        """The earliest deadline, maybe of a request that has ended; None without any."""
        return self._deadlines[0][0] if self._deadlines else None

    def is_open(self, answer: Answer) -> bool:
        """Whether its terminal event is still to come."""
        return self._answers.get(answer.request.request_id) is answer

    def enter(self, answer: Answer) -> None:
        """Opens a request."""
        request = answer.request
        self._answers[request.request_id] = answer
        self.num_unstarted += 1
        if request.deadline_s is not None:
            heapq.heappush(self._deadlines, (request.deadline_s, answer.progress.number, answer))
            self._forget_deadlines()

    def start(self, answers: Iterable[Answer], num_sequences: int) -> int:
        """Notes that a step of `num_sequences` runs these; returns the prompt tokens of those
        that never ran before."""
        now = time.monotonic()
        num_prompt_tokens = 0
        for answer in answers:
            progress, request = answer.progress, answer.request
            progress.max_batch_size = max(progress.max_batch_size, num_sequences)
            if progress.started_s is None:
                progress.started_s = now
                self.num_unstarted -= 1
                num_prompt_tokens += len(request.prompt_token_ids)
                self._left_queue(request, "started")
        return num_prompt_tokens

    def cancel(self, request_id: str, now: float) -> None:
        """Ends a request with RequestCancelledError. Unknown ids are ignored.

        With DeadlineError if its deadline lies before `now`: then that is why the client left.
        """
        answer = self._answers.get(request_id)
        if answer is None:
            return
        deadline_s = answer.request.deadline_s
        if deadline_s is not None and deadline_s <= now:
            self.fail(answer, _passed(answer, now))
        else:
            self.fail(answer, RequestCancelledError("the request was cancelled"))

    def expire(self, now: float) -> None:
        """Ends the requests whose deadline lies before `now`."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, answer = heapq.heappop(self._deadlines)
            if self.is_open(answer):
                self.fail(answer, _passed(answer, now))

    def end_if_done(self, answer: Answer) -> None:
        """Ends a request whose answer is complete."""
        event = answer.terminal()
        if isinstance(event, Finished):
            self._end(answer, event, event.samples[0].reason.value)
        elif isinstance(event, Classified):
            self._end(answer, event, "classified")
        elif event is not None:
            self._end(answer, event, "scored")

    def fail(self, answer: Answer, error: Exception) -> None:
        """Ends an open request with an error."""
        self._end(answer, Failed(error), _OUTCOMES.get(type(error), "error"))

    def reject(self, request: Request, error: Exception) -> None:
        """Ends a request that was accepted but could not be entered."""
        self._left_queue(request, "error")
        self._close(request, Failed(error), "error")

    def emit(self, request: Request, event: Event) -> None:
        """Hands an event to the request's receiver."""
        try:
            request.emit(event)
        except Exception:
            # The receiver's fault must not end the others' requests.
            logger.exception("request %s: its receiver failed", request.request_id)

    def _end(
        self, answer: Answer, event: Finished | Scored | Classified | Failed, outcome: str
    ) -> None:
        request, started_s = answer.request, answer.progress.started_s
        del self._answers[request.request_id]
        if started_s is None:
            self.num_unstarted -= 1
            self._left_queue(request, outcome)
        try:
            for sequence in tuple(answer.sequences):
                self._remove(sequence)
        finally:
            self._close(request, event, outcome)

    def _close(
        self, request: Request, event: Finished | Scored | Classified | Failed, outcome: str
    ) -> None:
        if request.lease is not None:
            try:
                request.lease.release()
            except Exception:
                logger.exception("request %s: its lease failed", request.request_id)
        usage = None if isinstance(event, Failed) else event.usage
        self._metrics.request_ended(request_label(request), outcome, usage)
        self._on_ended(request.request_id)
        self.emit(request, event)

    def _left_queue(self, request: Request, outcome: str) -> None:
        waited_s = time.monotonic() - request.arrival_s
        self._metrics.request_left_queue(request_label(request), outcome, waited_s)

    def _forget_deadlines(self) -> None:
        """Drops the deadlines of requests that have ended, once those are the most."""
        if len(self._deadlines) > 2 * len(self._answers) + _SPARE_DEADLINES:
            alive = set(self._answers.values())
            self._deadlines = [entry for entry in self._deadlines if entry[2] in alive]
            heapq.heapify(self._deadlines)


def _passed(answer: Answer, now: float) -> DeadlineError:
    waited_s = now - answer.request.arrival_s
    return DeadlineError(f"the deadline passed after {waited_s:.2f} s")
