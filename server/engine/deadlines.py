"""Which deadlines cannot be met any more, so that no work is wasted on them."""

from collections.abc import Callable

from server.config import EngineConfig
from server.engine.prefix_cache import PrefixCache
from server.engine.sequence import Sequence
from server.errors import DeadlineError

# Of the fastest full step seen: a later one may be faster, but not by that much.
_MARGIN = 0.5


class HopelessDeadlines:
    """Tells of a sequence that never ran whether its first token certainly comes too late.

    What the prefix cache lacks now has to be computed by somebody, in steps of at most
    `max_step_tokens` rows, and a full step takes at least half as long as the fastest one seen. How
    long a request will wait is not guessed at: nobody is refused who might have been served.
    """

    def __init__(
        self, config: EngineConfig, prefixes: PrefixCache, clock: Callable[[], float]
    ) -> None:
        """`clock` is the one that deadlines are on, in seconds."""
        self._config = config
        self._prefixes = prefixes
        self._clock = clock
        self._fastest_s = 0.0

    def observe(self, num_rows: int, duration_s: float) -> None:
        """A step ran."""
        if num_rows >= self._config.max_step_tokens:
            self._fastest_s = min(self._fastest_s or duration_s, duration_s)

    def check(self, sequence: Sequence) -> DeadlineError | None:
        """The error to end the sequence's request with, if there is no hope."""
        deadline_s = sequence.answer.request.deadline_s
        if deadline_s is None or sequence.claim:
            return None
        left_s = deadline_s - self._clock()
        if left_s >= self._least_s(sequence.num_remaining):
            return None
        # One more block may be found in part.
        num_found = (len(self._prefixes.find(sequence)) + 1) * self._config.block_size
        least_s = self._least_s(sequence.num_remaining - num_found)
        if left_s >= least_s:
            return None
        return DeadlineError(
            f"the first token takes at least {least_s:.2f} s, the deadline is in {left_s:.2f} s"
        )

    def _least_s(self, num_rows: int) -> float:
        """Until `num_rows` are computed. Zero until a full step was seen, and for short prompts."""
        num_full_steps = max(0, num_rows) // self._config.max_step_tokens
        return _MARGIN * self._fastest_s * num_full_steps
