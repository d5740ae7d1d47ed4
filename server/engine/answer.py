"""What the engine keeps of a request: its answer as it grows, its times and counts."""

import time
from dataclasses import dataclass
from typing import Protocol

from server.adapters.weights import AdapterWeights, AddedVocabulary
from server.engine.sequence import Sequence
from server.types import Classified, Finished, Request, Scored, Usage


@dataclass(eq=False, slots=True)
class Progress:
    """Times (on time.monotonic) and counts of one request."""

    number: int
    """Arrival number within the engine."""
    started_s: float | None = None
    first_token_s: float | None = None
    max_batch_size: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens whose states came from the prefix cache."""

    def usage(self, request: Request, num_completion_tokens: int) -> Usage:
        """The request's usage as of now."""
        now = time.monotonic()
        return Usage(
            num_prompt_tokens=len(request.prompt_token_ids),
            num_completion_tokens=num_completion_tokens,
            num_cached_tokens=self.num_cached_tokens,
            queue_s=(self.started_s or now) - request.arrival_s,
            first_token_s=(self.first_token_s or now) - request.arrival_s,
            total_s=now - request.arrival_s,
            max_batch_size=self.max_batch_size,
        )


def virtual_tokens(request: Request) -> tuple[int, int]:
    """How many positions of the context the adapter takes, and of how many it brings the states."""
    if request.lease is None:
        return 0, 0
    weights = request.lease.weights
    num_given = weights.num_given if isinstance(weights, AdapterWeights) else 0
    return request.lease.num_virtual_tokens, num_given


def added_vocabulary(request: Request) -> AddedVocabulary | None:
    """The request's vocabulary, where its adapter adds tokens to the base's."""
    weights = request.lease.weights if request.lease is not None else None
    return weights.vocabulary if isinstance(weights, AdapterWeights) else None


class Answer(Protocol):
    """Takes the output of a request's sequences: `Generation`, `Scoring` or `Classification`."""

    request: Request
    progress: Progress
    sequences: list[Sequence]
    """Those that the scheduler holds for it."""

    def terminal(self) -> Finished | Scored | Classified | None:
        """The terminal event, once there is nothing left to compute."""
