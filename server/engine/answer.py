"""What becomes of a request's logits: a generation's text, or the scores of continuations."""

import time
from dataclasses import dataclass

import torch

from server.engine.sampler import Draw, log_probabilities, token_logprobs
from server.engine.sequence import Sequence
from server.engine.text import Decode, TextStream
from server.types import (
    ContinuationScore,
    Delta,
    Finished,
    FinishReason,
    Request,
    Scored,
    TokenLogprob,
    Usage,
)

# No row of a shared context needs logits.
_NEVER = 1 << 62


@dataclass(eq=False, slots=True)
class Progress:
    """Times (on time.monotonic) and counts of one request."""

    number: int
    """Arrival number within the engine."""
    started_s: float | None = None
    first_token_s: float | None = None
    max_batch_size: int = 0

    def usage(self, request: Request, num_completion_tokens: int) -> Usage:
        """The request's usage as of now."""
        now = time.monotonic()
        return Usage(
            num_prompt_tokens=len(request.prompt_token_ids),
            num_completion_tokens=num_completion_tokens,
            num_cached_tokens=0,
            queue_s=(self.started_s or now) - request.arrival_s,
            first_token_s=(self.first_token_s or now) - request.arrival_s,
            total_s=now - request.arrival_s,
            max_batch_size=self.max_batch_size,
        )


class Generation:
    """Grows one sequence token by token."""

    def __init__(
        self,
        request: Request,
        progress: Progress,
        *,
        max_context: int,
        eos_token_ids: frozenset[int],
        decode: Decode,
    ) -> None:
        self.request = request
        self.progress = progress
        num_virtual = request.lease.num_virtual_tokens if request.lease else 0
        num_positions = num_virtual + len(request.prompt_token_ids)
        # The last token's own position is never computed.
        self._max_tokens = min(request.stopping.max_tokens, max_context - num_positions + 1)
        self._eos = eos_token_ids
        self._banned = () if request.stopping.ignore_eos else tuple(sorted(eos_token_ids))
        self._text = TextStream(decode, request.stopping.stop)
        self._generated: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._reason: FinishReason | None = None
        self.sequences = [
            Sequence(
                answer=self,
                order=(-request.priority, progress.number, 0),
                token_ids=list(request.prompt_token_ids),
                num_virtual=num_virtual,
                logits_from=num_positions - 1,
            )
        ]

    def draw(self) -> Draw:
        """How the next token is drawn."""
        position = len(self._generated)
        banned = self._banned if position < self.request.stopping.min_tokens else ()
        return Draw(self.request.sampling, position, banned)

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> Delta | None:
        """Takes the next token; returns what a stream shows of it."""
        stopping = self.request.stopping
        generated = self._generated
        generated.append(token_id)
        sequence = self.sequences[0]
        sequence.token_ids.append(token_id)
        sequence.logits_from = sequence.num_positions - 1
        if logprob is not None:
            self._logprobs.append(logprob)
        may_stop = len(generated) >= stopping.min_tokens
        is_eos = token_id in self._eos and not stopping.ignore_eos
        if is_eos:
            self._reason = FinishReason.EOS
        elif self._text.push(token_id, may_stop=may_stop):
            self._reason = FinishReason.STOP
        elif len(generated) >= self._max_tokens:
            self._reason = FinishReason.LENGTH
        if self._reason in (FinishReason.EOS, FinishReason.LENGTH) and self._text.flush(
            may_stop=may_stop
        ):
            self._reason = FinishReason.STOP
        if not self.request.stream:
            return None
        text = self._text.take(final=self._reason is not None)
        return Delta(text, (token_id,), () if logprob is None else (logprob,))

    def terminal(self) -> Finished | None:
        """The terminal event, once the generation has ended."""
        return self._finished() if self._reason else None

    def _finished(self) -> Finished:
        assert self._reason is not None
        return Finished(
            text=self._text.text,
            token_ids=tuple(self._generated),
            reason=self._reason,
            stop=self._text.matched,
            logprobs=tuple(self._logprobs),
            usage=self.progress.usage(self.request, len(self._generated)),
        )


class Scoring:
    """Log-likelihood of continuations of one context.

    The context up to its last token runs once, in a sequence of its own; each continuation's
    sequence begins with that sequence's blocks and computes from the last context token on.
    """

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        self._tokens: list[list[TokenLogprob]] = [[] for _ in request.continuations]
        self._is_greedy = [True] * len(request.continuations)
        self._open = {i for i, tokens in enumerate(request.continuations) if tokens}
        self._num_virtual = request.lease.num_virtual_tokens if request.lease else 0
        num_shared = self._num_virtual + len(request.prompt_token_ids) - 1
        if len(self._open) > 1 and num_shared > 0:
            context = request.prompt_token_ids[:-1]
            self.sequences = [self._sequence(0, list(context), _NEVER)]
        else:
            self.sequences = self.continuations()

    def continuations(self) -> list[Sequence]:
        """A sequence per continuation, nothing computed yet."""
        prompt = self.request.prompt_token_ids
        self.sequences = [
            self._sequence(
                i,
                [*prompt, *self.request.continuations[i][:-1]],
                self._num_virtual + len(prompt) - 1,
            )
            for i in sorted(self._open)
        ]
        return self.sequences

    def is_context(self, sequence: Sequence) -> bool:
        """Whether this is the shared context's sequence."""
        return sequence.logits_from == _NEVER

    def restart(self, sequence: Sequence) -> None:
        """Forgets a continuation's scores: its sequence lost its states and runs again."""
        self._tokens[sequence.index].clear()
        self._is_greedy[sequence.index] = True

    def accept(self, sequence: Sequence, logits: torch.Tensor) -> bool:
        """Takes the next rows of logits [n, V] of a continuation; False if not finite."""
        tokens = self._tokens[sequence.index]
        targets = self.request.continuations[sequence.index]
        rows = targets[len(tokens) : len(tokens) + len(logits)]
        logprobs = log_probabilities(logits)
        highest, best = logits.max(dim=-1)
        if not bool(highest.isfinite().all()):
            return False
        tokens.extend(token_logprobs(logprobs, rows, self.request.num_logprobs or 0))
        if best.tolist() != list(rows):
            self._is_greedy[sequence.index] = False
        if len(tokens) == len(targets):
            self._open.discard(sequence.index)
            self.sequences.remove(sequence)
        return True

    def terminal(self) -> Scored | None:
        """The terminal event, once every continuation is scored."""
        if self._open:
            return None
        scores = tuple(
            ContinuationScore(sum(t.logprob for t in tokens), greedy, tuple(tokens))
            for tokens, greedy in zip(self._tokens, self._is_greedy, strict=True)
        )
        count = sum(map(len, self._tokens))
        return Scored(scores, self.progress.usage(self.request, count))

    def _sequence(self, index: int, token_ids: list[int], logits_from: int) -> Sequence:
        return Sequence(
            answer=self,
            order=(-self.request.priority, self.progress.number, index),
            token_ids=token_ids,
            num_virtual=self._num_virtual,
            logits_from=logits_from,
            index=index,
        )


Answer = Generation | Scoring
