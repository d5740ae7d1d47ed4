"""What the engine answers: deltas, then one terminal event."""

from dataclasses import dataclass
from enum import Enum


class FinishReason(Enum):
    """Why a generation ended."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the most likely tokens at a position."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm)."""

    token_id: int
    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and times of one request. Times in seconds since acceptance."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int
    queue_s: float
    first_token_s: float
    total_s: float
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of one sample and the text they decided. `text` may lag behind `token_ids`."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    """Which sample."""


@dataclass(frozen=True, slots=True)
class FinishedSample:
    """One sample of a generation, whole."""

    text: str
    token_ids: tuple[int, ...]
    reason: FinishReason
    stop: str
    """The stop string met, if any; `text` ends before it."""
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """Terminal: every sample of a generation ended. `usage` counts the tokens of them all."""

    samples: tuple[FinishedSample, ...]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Each prompt token's, given all before it; the first has one only behind virtual tokens."""


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """The log-likelihood of one continuation."""

    logprob: float
    is_greedy: bool
    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Terminal: every continuation was scored, in order."""

    scores: tuple[ContinuationScore, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of a classification."""

    label: str
    probability: float
    logit: float


@dataclass(frozen=True, slots=True)
class Classified:
    """Terminal: the prompt was classified. Labels are the most likely first."""

    labels: tuple[LabelScore, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """Terminal: cancelled, past its deadline, or an error. `error` is a ServerError if expected."""

    error: Exception


Event = Delta | Finished | Scored | Classified | Failed
