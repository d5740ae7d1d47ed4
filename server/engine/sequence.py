"""A sequence: tokens at positions, with their states in cache blocks.

A request runs as one sequence (a generation) or several (a score: the shared context, then one
per continuation). What becomes of its logits is the answer's business: `generation.py`,
`scoring.py` and `classification.py`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.engine.answer import Answer
    from server.engine.fairness import Share
    from server.engine.placing import PlacedAdapter


@dataclass(eq=False, slots=True)
class Sequence:
    """Positions 0 .. num_positions - 1: virtual tokens first, then `token_ids`.

    The states of the first `num_given` positions come with the adapter and are never computed.
    """

    answer: "Answer"
    """The request's answer, which takes the logits."""
    order: tuple[int, int, int]
    """(-priority, arrival number, index within the request)."""
    token_ids: list[int]
    num_virtual: int
    logits_from: int
    """Rows from this position on need logits, or their final hidden states."""
    num_given: int = 0
    wants_state: bool = False
    """Hidden states instead of logits."""
    index: int = 0
    """Which continuation of a score; 0 otherwise."""
    num_computed: int = 0
    """Positions whose keys and values are in the cache."""
    num_lost: int = 0
    """Most positions that a preemption took."""
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    """The chain of `PrefixCache`: keys of the first 0, 1, ... blocks, as far as was needed."""
    placed: "PlacedAdapter | None" = None
    share: "Share | None" = None
    """Whom its rows are counted for."""
    queued_s: float = 0.0
    """When its request joined the queue, on the engine's clock."""
    claim: int = 0
    """Number of its first admission, or of the sequence's that it is forked from; 0: none yet."""
    decode_from: int = 0
    """Positions it was admitted with: from there on are tokens generated since. 0: not admitted."""

    @property
    def num_positions(self) -> int:
        """Positions that are known."""
        return self.num_virtual + len(self.token_ids)

    @property
    def num_remaining(self) -> int:
        """Positions known but not computed: 1 while decoding."""
        known = max(self.num_computed, self.num_given)
        return self.num_virtual + len(self.token_ids) - known


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one sequence in one step: positions `start` .. `start + count`."""

    sequence: Sequence
    start: int
    count: int

    @property
    def is_decode(self) -> bool:
        """Whether its rows are of generated tokens, and not of a prompt or computed again."""
        return self.start >= self.sequence.decode_from

    @property
    def num_logit_rows(self) -> int:
        """How many of the last rows need logits."""
        return 0 if self.sequence.wants_state else self._num_wanted

    @property
    def num_state_rows(self) -> int:
        """How many of the last rows need their final hidden states."""
        return self._num_wanted if self.sequence.wants_state else 0

    @property
    def _num_wanted(self) -> int:
        end = self.start + self.count
        return max(0, end - max(self.start, self.sequence.logits_from))
