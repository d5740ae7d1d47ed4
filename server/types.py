"""Shared nouns of the server: what the wire asks, what the engine answers.

Plain frozen data without torch or grpc. A request comes in as `Request`; the engine answers it
through `Request.emit` with any number of `Delta` events, then exactly one terminal event:
`Finished`, `Scored`, `Classified` or `Failed`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class FinishReason(Enum):
    """Why a generation ended."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


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
class NormInfo:
    """A normalization of the base: its channels, and whether it adds a bias."""

    size: int
    has_bias: bool


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """The base's input embeddings: module path, and the shape [tokens, size] of their weight."""

    path: str
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """The base model as loaded: what adapters are checked against and GetModelInfo reports."""

    name: str
    fingerprint: str
    architecture: str
    quantization: str
    """`nf4`, `int8` or `none`."""
    weight_form: str
    """How quantized weights are held: `nf4_held`, `nf4_packed`, `int8`, `dense`."""
    dtype: str
    device: str
    max_context_tokens: int
    vocab_size: int
    hidden_size: int
    num_parameters: int
    resident_bytes: int
    int8_threshold: float
    deterministic: bool
    linear_shapes: Mapping[str, tuple[int, int]]
    """(out_features, in_features) of each linear an adapter may target, by its full module path
    as in the checkpoint, such as `model.layers.0.self_attn.q_proj`."""
    norms: Mapping[str, NormInfo] = field(default_factory=dict)
    """Each norm an adapter may change, by its module path."""
    embedding: EmbeddingInfo | None = None
    """The input embeddings, if an adapter may change them."""
    head: str = ""
    """Module path of the output head, one of `linear_shapes`; empty where no adapter may change
    it."""
    tied: bool = False
    """Whether input embeddings and output head are one weight."""
    is_own_weight: Callable[[str, object], bool] = lambda path, weight: False
    """Whether a tensor is the base's own weight of its embeddings or head, by module path, as far
    as that has rows."""
    biased_linears: frozenset[str] = frozenset()
    """Those of them that have a bias."""
    transposed_linears: frozenset[str] = frozenset()
    """Those whose checkpoints hold their weight as [in, out] (transformers' `Conv1D`)."""
    has_body: bool = True
    """Whether the model has final hidden states apart from its output head, for classifiers."""
    tokenizer: object = None
    """transformers' tokenizer of the base, for adapters that add tokens."""
    cache_shape: tuple[int, int, int] = (0, 0, 0)
    """(layers, heads of keys and values, head size): what a position's states are."""


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

    def request_ended(self, adapter: str, outcome: str, usage: "Usage | None") -> None:
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


class Tier(Enum):
    """Where a version's tensors are: the fastest of the places that hold them."""

    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


class AdapterChange(Enum):
    """What happened to an adapter version."""

    LOADED = "loaded"
    """It was read into host memory."""
    UNLOADED = "unloaded"
    """It was taken out of service by request. Requests that hold it run on."""
    TIER = "tier"
    """It went to another tier: placed in a device slot, evicted from it, or gone from memory."""
    ALIAS = "alias"
    """A name points to it from now on."""
    PINNED = "pinned"
    """It was pinned, or let go."""


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """One change of one adapter version. Events of one version come in order."""

    kind: AdapterChange
    name: str
    version: str
    """Empty where an alias was removed."""
    tier: Tier
    """Where it is after the change."""
    at: float
    """Seconds since the epoch."""
    alias: str = ""
    """Of ALIAS: which alias; empty for the bare name."""
    pinned: bool = False
    """Of PINNED: whether it is pinned now."""


class AdapterObserver(Protocol):
    """Is told of changes, by whichever thread makes them, some under a lock.

    Must not block, raise, or call back into whoever tells it.
    """

    def __call__(self, event: AdapterEvent) -> None:
        """A change happened."""


def unobserved(event: AdapterEvent) -> None:
    """The observer where nobody listens."""


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """A version in host memory, for metrics."""

    name: str
    rank: int
    """0 without low-rank updates."""
    size_bytes: int
    on_device: bool
    """In a device slot, too."""
    pinned: bool
    last_used_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """What adapters hold of host memory now."""

    num_host: int
    """Versions in host memory."""
    host_bytes: int
    num_leases: int


@dataclass(frozen=True, slots=True)
class Residency:
    """Which adapters are where now, for metrics."""

    residents: tuple[ResidentAdapter, ...] = ()
    num_leases: int = 0
    num_slots: int = 0
    """Adapters that fit on the device."""
    num_disk: int = 0
    """Versions in the store."""
    disk_bytes: int = 0
    """Of their tensor files."""
