"""What the engine tells of its work, to metrics and tests."""

from dataclasses import dataclass, field
from typing import Protocol

from server.types.events import Usage


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one engine step did."""

    duration_s: float
    num_prefill_tokens: int
    num_decode_tokens: int
    num_sequences: int
    num_waiting: int
    num_used_blocks: int
    num_total_blocks: int
    num_prefix_queries: int
    """Positions that sequences brought which joined the batch, virtual tokens included whose states
    are computed."""
    num_prefix_hits: int
    """Positions that were found in the prefix cache and need no computing."""


class EngineMetrics(Protocol):
    """What the engine reports. Called from the engine's thread; must not block or raise.

    `adapter` is the adapter's name, or `base` for requests without one.
    """

    def step(self, record: StepRecord) -> None:
        """A step ran."""

    def request_accepted(self, adapter: str) -> None:
        """`submit` took a request. The only call made from the submitting thread."""

    def request_left_queue(self, adapter: str, outcome: str, queue_s: float) -> None:
        """A request waits no longer, `queue_s` after its arrival. `outcome`: `started`, or that of
        `request_ended` where it ended before its first step."""

    def first_token(self, adapter: str, seconds: float) -> None:
        """A generation drew its first token, `seconds` after its arrival."""

    def request_ended(self, adapter: str, outcome: str, usage: Usage | None) -> None:
        """The terminal event. `outcome`: `eos`, `stop` or `length` (of the first sample),
        `scored`, `classified`, `cancelled`, `deadline`, `draining` or `error`; `usage` where the
        request finished."""

    def preempted(self) -> None:
        """A sequence lost its blocks and will be recomputed."""

    def adapter_placed(self, adapter: str, seconds: float) -> None:
        """An adapter's weights were copied to a device slot."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine is doing now, for metrics and tests."""

    num_running: int
    num_waiting: int
    num_used_blocks: int
    num_cached_blocks: int
    """Blocks that no sequence holds, kept for the prefixes in them until they are needed."""
    num_total_blocks: int
    num_steps: int
    num_generated_tokens: int
    num_prompt_tokens: int
    slots: tuple[str, ...] = field(default=())
    """`name@version` of the adapters in device slots."""
