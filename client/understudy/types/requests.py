"""What a request says: input, sampling, stopping, output, constraint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict


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

A string is bound to the template's only variable (an adapter without a template, and the bare
base, take it verbatim); a mapping gives several template variables by name; messages are for
templates that use `messages`.
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
    """Several adapters whose updates are summed with weights, instead of `adapter`. Only low-rank
    updates can be; the first one's prompt template applies."""
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
