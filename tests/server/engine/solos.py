"""What each answer of random traffic must be: the one of its job alone in an engine."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from server.errors import (
    AdapterRefusedError,
    DeadlineError,
    DrainingError,
    RequestCancelledError,
)
from server.models.loader import LoadedBase
from server.types import Failed, Finished, Scored, TokenLogprob
from tests.server.engine.harness import Driver, HeldAdapter
from tests.server.engine.traffic import MAX_TOKENS, OVERFLOWING, Job, Sent, Weights


@dataclass
class Solos:
    """Answers of jobs that run alone, each in a fresh engine."""

    base: LoadedBase
    weights: Weights
    config: dict[str, Any]
    answers: dict[Job, Finished | Scored] = field(default_factory=dict)

    def __getitem__(self, job: Job) -> Finished | Scored:
        """With as many tokens as any request of the job may have."""
        if job not in self.answers:
            driver = Driver(self.base, **self.config)
            lease = None
            if job.adapter is not None:
                name, version = job.adapter
                lease = HeldAdapter(name, self.weights[job.adapter], version)
            limits = {"max_tokens": MAX_TOKENS, "num_logprobs": 2}
            if "continuations" in dict(job.options):
                limits = {}
            inbox = driver.add(job.prompt, lease, **limits, **dict(job.options))
            driver.run()
            terminal = inbox.terminal
            assert isinstance(terminal, Finished | Scored), terminal
            self.answers[job] = terminal
        return self.answers[job]


def check_ended(sent: Sent) -> str:
    """Checks that a request ended once, and as it may; returns its outcome."""
    terminal = sent.inbox.terminal
    assert terminal is not None, f"{sent.request} was never answered"
    if sent.lease is not None:
        assert sent.lease.num_released == 1, sent
    if isinstance(terminal, Scored):
        return "scored"
    overflows = sent.job.adapter == (OVERFLOWING, "v1")
    if isinstance(terminal, Finished):
        assert not overflows
        return sent.inbox.answer.samples[0].reason.value
    error = sent.inbox.error
    if isinstance(error, RequestCancelledError):
        assert sent.cancelled
        return "cancelled"
    if isinstance(error, DeadlineError):
        assert sent.request.deadline_s is not None
        if "the first token takes" in str(error):
            return "hopeless"
        assert sent.request.deadline_s <= sent.inbox.last_s, sent
        return "deadline"
    if isinstance(error, DrainingError):
        return "draining"
    assert isinstance(error, AdapterRefusedError), error
    assert overflows, sent
    return "error"


def check_bits(sent: Sent, solos: Solos) -> None:
    """Checks that an answer, or as much of it as was streamed, has the bits of the solo one."""
    terminal = sent.inbox.terminal
    if isinstance(terminal, Failed):
        for index, deltas in sent.deltas.items():
            expected = _finished(solos[sent.job]).samples[index]
            token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
            assert token_ids == list(expected.token_ids[: len(token_ids)]), sent
            _check_logprobs(sent, [p for d in deltas for p in d.logprobs], expected.logprobs)
            if len(token_ids) < sent.request.stopping.max_tokens:
                # A sample that ended shows half a character, which the solo one completes.
                assert expected.text.startswith("".join(delta.text for delta in deltas)), sent
        return
    solo = solos[sent.job]
    if isinstance(terminal, Scored):
        assert isinstance(solo, Scored)
        assert terminal.scores == solo.scores, sent
        return
    finished, solo = _finished(terminal), _finished(solo)
    assert finished.prompt_logprobs == solo.prompt_logprobs, sent
    for found, expected in zip(finished.samples, solo.samples, strict=True):
        count = min(sent.request.stopping.max_tokens, len(expected.token_ids))
        assert found.token_ids == expected.token_ids[:count], sent
        if sent.request.num_logprobs is not None:
            assert len(found.logprobs) == count
        _check_logprobs(sent, found.logprobs, expected.logprobs)
        if count == len(expected.token_ids):
            assert replace(found, logprobs=()) == replace(expected, logprobs=()), sent


def count_flips(sent: Sent, solos: Solos, tolerance: float) -> int:
    """Checks that a complete answer's log-probabilities are those of the solo one within
    `tolerance` as far as their tokens agree, and that a greedy token differs only where the two
    likeliest were that near. Returns how many samples differ."""
    terminal, solo = sent.inbox.terminal, solos[sent.job]
    if isinstance(terminal, Scored):
        assert isinstance(solo, Scored)
        for score, expected_score in zip(terminal.scores, solo.scores, strict=True):
            _check_near(score.tokens, expected_score.tokens, tolerance)
        return 0
    finished, solo = _finished(terminal), _finished(solo)
    _check_near(finished.prompt_logprobs, solo.prompt_logprobs, tolerance)
    flips = 0
    for found, expected in zip(finished.samples, solo.samples, strict=True):
        pairs = zip(found.token_ids, expected.token_ids, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        _check_near(found.logprobs[:first], expected.logprobs[:first], tolerance)
        if first is None:
            count = min(sent.request.stopping.max_tokens, len(expected.token_ids))
            assert len(found.token_ids) == count, sent
            continue
        flips += 1
        likeliest, second = expected.logprobs[first].top
        if sent.job.is_greedy:
            assert likeliest.logprob - second.logprob <= tolerance, sent
            assert found.token_ids[first] == second.token_id
    return flips


def _finished(event: object) -> Finished:
    assert isinstance(event, Finished)
    return event


def _check_logprobs(
    sent: Sent, found: Iterable[TokenLogprob], expected: tuple[TokenLogprob, ...]
) -> None:
    asked = sent.request.num_logprobs
    cut = [replace(entry, top=entry.top[:asked]) for entry in expected]
    found = list(found)
    assert found == cut[: len(found)], sent
    assert not found or asked is not None


def _check_near(
    found: tuple[TokenLogprob, ...], expected: tuple[TokenLogprob, ...], tolerance: float
) -> None:
    expected = expected[: len(found)]
    assert [entry.token_id for entry in found] == [entry.token_id for entry in expected]
    assert [entry.logprob for entry in found] == pytest.approx(
        [entry.logprob for entry in expected], abs=tolerance
    )
