"""What becomes of a score's logits: the log-likelihood of continuations of one context."""

import torch

from server.engine.answer import Progress, virtual_tokens
from server.engine.logprobs import target_logprobs
from server.engine.sequence import Sequence
from server.types import ContinuationScore, Request, Scored, TokenLogprob

# No row of a shared context needs logits.
_NEVER = 1 << 62


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
        self._num_virtual, self._num_given = virtual_tokens(request)
        num_shared = self._num_virtual - self._num_given + len(request.prompt_token_ids) - 1
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

    def accept(self, sequence: Sequence, logits: torch.Tensor) -> bool:
        """Takes the next rows of logits [n, V] of a continuation; False if not finite."""
        tokens = self._tokens[sequence.index]
        targets = self.request.continuations[sequence.index]
        rows = targets[len(tokens) : len(tokens) + len(logits)]
        highest, best = logits.max(dim=-1)
        if not bool(highest.isfinite().all()):
            return False
        tokens.extend(target_logprobs(logits, rows, self.request.num_logprobs or 0))
        if best.tolist() != list(rows):
            self._is_greedy[sequence.index] = False
        # A sequence that loses its blocks needs no logits again for what is scored already.
        sequence.logits_from += len(logits)
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
            num_given=self._num_given,
            logits_from=logits_from,
            index=index,
        )
