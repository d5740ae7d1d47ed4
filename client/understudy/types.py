"""What the client takes and returns: frozen dataclasses that mirror the wire, field by field.

Times are in seconds, sizes in bytes, log-probabilities natural logarithms. A field that is None
is not sent, and the server applies its own default, named in `proto/understudy/v1`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from understudy.errors import UnderstudyError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """The whole prompt, verbatim: no template is applied."""

    prompt: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Token ids of the base's vocabulary, verbatim: neither template nor tokenizer is applied."""

    ids: Sequence[int]


Input = str | Mapping[str, str] | Sequence[Message] | RawPrompt | TokenIds
"""What a request puts in front of the model.

A string is bound to the template's variable `input` (an adapter without a template, and the bare
base, take it verbatim); a mapping gives several template variables; messages are for templates
that use `messages`.
"""

Continuation = str | TokenIds
"""A continuation to score: text, tokenized jointly with a textual context, or token ids."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. The default is greedy.

    Applied in the order of transformers: `logit_bias`, `repetition_penalty`, `frequency_penalty`
    and `presence_penalty`, also where decoding is greedy; then `temperature`, `top_k`, `top_p` and
    `min_p`, where it is not.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    """Keep tokens at least this many times as likely as the likeliest."""
    seed: int | None = None
    """The result depends on it and never on the other requests of the batch. Each of several
    samples has a seed derived from it; the first one's is the seed itself."""
    repetition_penalty: float | None = None
    """Divides positive logits, multiplies negative ones: of tokens in the prompt and of generated
    ones, as in transformers."""
    frequency_penalty: float | None = None
    """Subtracted from a token's logit for each time it was generated, as at OpenAI: the prompt
    does not count."""
    presence_penalty: float | None = None
    """Subtracted once from the logit of each token that was generated; as above."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of the given token ids."""


@dataclass(frozen=True, slots=True)
class StoppingParams:
    """When a generation ends."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: Sequence[str] = ()
    """The generation ends before the first of these strings."""
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What to return beside the text. Log-probabilities are those of the model's own distribution:
    before penalties, bias, temperature and filters."""

    logprobs: bool = False
    top_logprobs: int = 0
    """That many likeliest tokens beside each log-probability."""
    prompt_logprobs: bool = False
    """Each prompt token's, given those before it. Not for streams."""


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A constraint on the text. Exactly one field is set.

    A finished text is whole: its finish_reason is EOS. Where max_tokens cut it, that is LENGTH.
    Not to be combined with stop strings, `min_tokens` or `ignore_eos`.
    """

    json_schema: str | None = None
    """JSON text of a schema. What the server does not enforce it refuses by name."""
    regex: str | None = None
    """A regular expression that the whole text matches: Rust's syntax, without look-around."""
    choice: Sequence[str] | None = None
    """The text is one of these strings."""
    grammar: str | None = None
    """EBNF in llguidance's dialect of Lark; the text is what its rule `start` derives."""


@dataclass(frozen=True, slots=True)
class WeightedAdapter:
    """One adapter's share of a weighted sum of adapters."""

    adapter: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation. `adapter` is `name`, `name@version` or `name@alias`; empty: the bare base."""

    input: Input
    adapter: str = ""
    sampling: SamplingParams = SamplingParams()
    stopping: StoppingParams = StoppingParams()
    output: OutputOptions = OutputOptions()
    structured_output: StructuredOutput | None = None
    num_samples: int | None = None
    """Generations of the one input, which is computed once."""
    adapters: Sequence[WeightedAdapter] = ()
    """Several adapters summed with weights, instead of `adapter`."""
    priority: int | None = None
    tenant: str = ""
    request_id: str = ""


class GenerateOptions(TypedDict, total=False):
    """The fields of GenerateRequest beside `input`, as keyword arguments."""

    adapter: str
    sampling: SamplingParams
    stopping: StoppingParams
    output: OutputOptions
    structured_output: StructuredOutput | None
    num_samples: int | None
    adapters: Sequence[WeightedAdapter]
    priority: int | None
    tenant: str
    request_id: str


class FinishReason(StrEnum):
    """Why a generation ended."""

    UNSPECIFIED = "unspecified"
    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


class Tier(StrEnum):
    """Where an adapter version's tensors are."""

    UNSPECIFIED = "unspecified"
    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


class AdapterChange(StrEnum):
    """What happened to an adapter."""

    UNSPECIFIED = "unspecified"
    LOADED = "loaded"
    UNLOADED = "unloaded"
    TIER = "tier"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """The adapter version that answered. An empty name is the bare base."""

    name: str
    version: str


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
    logit: float


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """Label probabilities, most likely first."""

    request_id: str
    adapter: AdapterRef
    labels: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class TokenizeResult:
    """The tokens that a request with this input would run."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prompt: str
    """The prompt after the template, before tokenizing."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a server holds: base, quantization, limits."""

    base_model: str
    base_fingerprint: str
    architecture: str
    quantization: str
    dtype: str
    device: str
    max_context_tokens: int
    vocab_size: int
    num_parameters: int
    resident_bytes: int
    int8_threshold: float
    deterministic: bool
    max_batch_size: int
    max_queue_size: int
    num_adapter_slots: int
    max_lora_rank: int
    server_version: str
    adapter_methods: tuple[str, ...]
    weight_form: str


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One version of one adapter, as the server knows it."""

    name: str
    version: str
    method: str
    aliases: tuple[str, ...]
    tier: Tier
    pinned: bool
    rank: int
    num_virtual_tokens: int
    size_bytes: int
    num_leases: int
    loaded_at: datetime | None
    last_used_at: datetime | None
    base_fingerprint: str
    trained_quantization: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterDetails:
    """An adapter with its manifest (None for a plain PEFT directory) and evaluation results."""

    adapter: AdapterInfo
    manifest: dict[str, Any] | None
    evals: dict[str, Any]
    """Parsed results by file name."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The loaded version and the seconds it took."""

    adapter: AdapterInfo
    load_s: float


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """One change of an adapter's residency or aliases."""

    change: AdapterChange
    adapter: AdapterInfo
    at: datetime | None
