"""What the server answers: generations, whole or streamed, scores, labels, tokens."""

from dataclasses import dataclass
from enum import StrEnum

from understudy.errors import UnderstudyError
from understudy.types.server import AdapterRef


class FinishReason(StrEnum):
    """Why a generation ended."""

    UNSPECIFIED = "unspecified"
    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the most likely tokens at a position."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability."""

    token_id: int
    token: str
    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and times of one request. Times count from acceptance."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int
    queue_s: float
    first_token_s: float
    total_s: float
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One sample. In StreamFinished `text`, `token_ids` and `logprobs` are empty."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop: str
    """The stop string met, where finish_reason is STOP."""
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """A finished generation."""

    request_id: str
    adapter: AdapterRef
    generations: tuple[Generation, ...]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprob, ...]
    """Where asked for. The first prompt token has one only behind the virtual tokens of a soft
    prompt: nothing else stands before it."""

    @property
    def text(self) -> str:
        """Text of the first sample."""
        return self.generations[0].text


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The request was accepted and its adapter version is held."""

    request_id: str
    adapter: AdapterRef
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class StreamDelta:
    """New text of one sample. May be empty while UTF-8 or a stop string is undecided."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The end of the stream."""

    generations: tuple[Generation, ...]
    usage: Usage


StreamEvent = StreamStarted | StreamDelta | StreamFinished
"""One event of a stream: started, then deltas, then finished."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answer to one request of a batch: exactly one of `result` and `error` is set."""

    key: str
    result: GenerateResult | None
    error: UnderstudyError | None


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """The log-likelihood of one continuation."""

    logprob: float
    """Sum over the continuation's tokens."""
    num_tokens: int
    is_greedy: bool
    """Whether greedy decoding would produce it."""
    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """Scores, in the order of the continuations asked for."""

    request_id: str
    adapter: AdapterRef
    scores: tuple[ContinuationScore, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of a classification."""

    label: str
    probability: float
    """Softmax over the labels; of a single label, the logistic function of its logit."""
    logit: float


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """Label probabilities, most likely first."""

    request_id: str
    adapter: AdapterRef
    labels: tuple[LabelScore, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class TokenizeResult:
    """The tokens that a request with this input would run."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prompt: str
    """The prompt after the template, before tokenizing."""
