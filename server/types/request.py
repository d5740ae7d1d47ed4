"""What the wire asks: a request, and what it holds while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from server.types.events import Event


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. `temperature` 0 is greedy: bias and penalties count, filters do not."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    """Keep tokens at least this many times as likely as the likeliest."""
    seed: int = 0
    repetition_penalty: float = 1.0
    """Tokens of prompt and generation: logits above 0 are divided by it, others multiplied."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it was generated."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that was generated."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit); an id is there once."""


@dataclass(frozen=True, slots=True)
class StoppingParams:
    """When a generation ends."""

    max_tokens: int
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


class Lease(Protocol):
    """A hold on one adapter version, so that it stays in memory while a request runs.

    Made by `server.adapters`; the engine releases it with the request's terminal event.
    """

    @property
    def name(self) -> str:
        """Adapter name."""

    @property
    def version(self) -> str:
        """Adapter version."""

    @property
    def num_virtual_tokens(self) -> int:
        """Positions of the context that the adapter itself takes. 0 for LoRA."""

    @property
    def weights(self) -> object:
        """`server.adapters.weights.AdapterWeights`."""

    def release(self) -> None:
        """Ends the hold. Safe to call from any thread, and more than once."""


class TokenMatcher(Protocol):
    """Where one generation is in the grammar its text must follow. Used by the engine's thread."""

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing can follow it. Raises as `allowed`."""

    def allowed(self) -> bytes:
        """Which tokens may be next: bit i of byte j is token 8 j + i, for every row of logits.
        Tokens of text, at least one unless `complete`, and where the text may end here, the ends
        of sequence. Raises InvalidRequestError where the grammar cannot be followed further."""

    def accept(self, token_id: int) -> None:
        """Takes the next token of text. Raises as `allowed`."""


class Constraint(Protocol):
    """A grammar that the text of a generation must follow, compiled.

    Made by `server.constraints`. Requests may share one.
    """

    def matcher(self) -> TokenMatcher:
        """The state of a new generation."""

    def decode(self, token_ids: list[int]) -> str:
        """The text that the grammar sees in tokens of text."""


@dataclass(frozen=True, slots=True)
class Request:
    """One accepted request.

    `emit` is called from the engine's thread and must not block; after a terminal event it is
    never called again. `deadline_s` and `arrival_s` are on the clock of `time.monotonic`.
    `continuations` is non-empty for Score and empty for generations; `classify` asks for neither.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    lease: Lease | None
    sampling: SamplingParams
    stopping: StoppingParams
    emit: Callable[[Event], None]
    arrival_s: float
    deadline_s: float | None = None
    num_logprobs: int | None = None
    """None: no log-probabilities. 0: the chosen token's. n: also the n most likely ones."""
    num_prompt_logprobs: int | None = None
    """The same, for the tokens of the prompt."""
    num_samples: int = 1
    """Generations of the one prompt."""
    continuations: tuple[tuple[int, ...], ...] = ()
    classify: bool = False
    constraint: Constraint | None = None
    """Not with stop strings, min_tokens or ignore_eos: the grammar alone ends the text."""
    priority: int = 0
    """Higher runs earlier."""
    tenant: str = ""
    stream: bool = True
    """False: no `Delta` events, only the terminal one; spares the caller a wake-up per token."""
