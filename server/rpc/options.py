"""A request's options, from wire messages to the server's nouns. Pure; refuses what it cannot
honour.

Values out of range are InvalidRequestError, never ignored.
"""

import math
import secrets

from server.config import LimitsConfig
from server.errors import InvalidRequestError
from server.rpc.admission import Work
from server.rpc.leases import AdapterChoice
from server.types import SamplingParams, StoppingParams
from understudy.artifact import BASE_NAME
from understudy.v1 import generation_service_pb2, types_pb2

MAX_TEMPERATURE = 100.0
MAX_TOP_LOGPROBS = 20
# Of one adapter in a sum; more is a mistake of units.
MAX_WEIGHT = 100.0
MAX_TENANT_CHARS = 128
MAX_REQUEST_ID_CHARS = 128


def sampling_params(message: types_pb2.SamplingParams) -> SamplingParams:
    """How tokens are drawn. A seed is chosen where there is none."""
    _range(message.temperature, 0.0, MAX_TEMPERATURE, "sampling.temperature")
    top_p = message.top_p if message.HasField("top_p") else 1.0
    _range(top_p, 0.0, 1.0, "sampling.top_p", above=True)
    _range(message.min_p, 0.0, 1.0, "sampling.min_p")
    repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    _range(repetition, 0.0, math.inf, "sampling.repetition_penalty", above=True)
    _range(message.frequency_penalty, -2.0, 2.0, "sampling.frequency_penalty")
    _range(message.presence_penalty, -2.0, 2.0, "sampling.presence_penalty")
    for token_id, bias in message.logit_bias.items():
        if not math.isfinite(bias):
            raise InvalidRequestError(
                f"sampling.logit_bias[{token_id}]", f"is {bias:g}, must be finite"
            )
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=top_p,
        min_p=message.min_p,
        seed=message.seed if message.HasField("seed") else secrets.randbits(63),
        repetition_penalty=repetition,
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        logit_bias=tuple(message.logit_bias.items()),
    )


def stopping_params(message: types_pb2.StoppingParams, limits: LimitsConfig) -> StoppingParams:
    """When a generation ends."""
    max_tokens = limits.default_max_tokens
    if message.HasField("max_tokens"):
        max_tokens = message.max_tokens
        if max_tokens < 1:
            raise InvalidRequestError("stopping.max_tokens", "is 0, must be at least 1")
    elif message.min_tokens > max_tokens:
        max_tokens = message.min_tokens
    if message.min_tokens > max_tokens:
        raise InvalidRequestError(
            "stopping.min_tokens", f"is {message.min_tokens}, above max_tokens {max_tokens}"
        )
    if len(message.stop) > limits.max_stop_strings:
        raise InvalidRequestError(
            "stopping.stop",
            f"holds {len(message.stop)} strings, at most {limits.max_stop_strings} are allowed",
        )
    for index, stop in enumerate(message.stop):
        if not 1 <= len(stop) <= limits.max_stop_chars:
            raise InvalidRequestError(
                f"stopping.stop[{index}]",
                f"has {len(stop)} characters, must have 1 to {limits.max_stop_chars}",
            )
    return StoppingParams(
        max_tokens=max_tokens,
        min_tokens=message.min_tokens,
        stop=tuple(message.stop),
        ignore_eos=message.ignore_eos,
    )


def num_logprobs(message: types_pb2.OutputOptions) -> int | None:
    """None: no log-probabilities; n: the chosen token's, and those of the n most likely."""
    if message.top_logprobs > MAX_TOP_LOGPROBS:
        raise InvalidRequestError(
            "output.top_logprobs", f"is {message.top_logprobs}, at most {MAX_TOP_LOGPROBS}"
        )
    return message.top_logprobs if message.logprobs or message.top_logprobs else None


def num_prompt_logprobs(message: types_pb2.OutputOptions, *, stream: bool) -> int | None:
    """As `num_logprobs`, for the tokens of the prompt. A stream has no place for them."""
    if message.prompt_logprobs and stream:
        raise InvalidRequestError(
            "output.prompt_logprobs", "a stream does not carry them; use Generate or BatchGenerate"
        )
    return message.top_logprobs if message.prompt_logprobs else None


def num_samples(message: generation_service_pb2.GenerateRequest, limits: LimitsConfig) -> int:
    """How many generations of the one prompt."""
    count = message.num_samples if message.HasField("num_samples") else 1
    if not 1 <= count <= limits.max_samples:
        raise InvalidRequestError(
            "num_samples", f"is {count}, must be in [1, {limits.max_samples}]"
        )
    return count


def check_num_logprobs(work: Work, max_context: int, limits: LimitsConfig) -> None:
    """Raises InvalidRequestError if the answer could hold more log-probabilities than allowed."""
    num_prompt = len(work.prompt_token_ids)
    num_tokens = min(work.stopping.max_tokens, max_context - num_prompt + 1) * work.num_samples
    count = 0
    if work.num_logprobs is not None:
        count += num_tokens * (1 + work.num_logprobs)
    if work.num_prompt_logprobs is not None:
        count += num_prompt * (1 + work.num_prompt_logprobs)
    if count > limits.max_logprobs:
        raise InvalidRequestError(
            "output",
            f"asks for up to {count} log-probabilities, at most {limits.max_logprobs} are allowed;"
            " lower top_logprobs, max_tokens or num_samples",
        )


def adapter_choice(
    message: generation_service_pb2.GenerateRequest, limits: LimitsConfig
) -> AdapterChoice:
    """The adapter a generation runs with, or several with their weights."""
    if not message.adapters:
        return message.adapter
    if message.adapter:
        raise InvalidRequestError("adapters", "is set beside adapter; set one of them")
    count, most = len(message.adapters), limits.max_summed_adapters
    if count > most:
        raise InvalidRequestError("adapters", f"holds {count}, must hold at most {most}")
    terms: list[tuple[str, float]] = []
    for i, term in enumerate(message.adapters):
        if term.adapter in ("", BASE_NAME):
            raise InvalidRequestError(
                f"adapters[{i}].adapter", "names no adapter; the base is part of every sum"
            )
        weight = term.weight if term.HasField("weight") else 1.0
        _range(weight, -MAX_WEIGHT, MAX_WEIGHT, f"adapters[{i}].weight")
        if any(term.adapter == other for other, _ in terms):
            raise InvalidRequestError(
                f"adapters[{i}].adapter", f"{term.adapter[:80]!r} is there twice; add its weights"
            )
        terms.append((term.adapter, weight))
    return tuple(terms)


def request_id(text: str) -> str:
    """The id to echo: the client's, checked, or a fresh one."""
    if not text:
        return secrets.token_hex(16)
    if len(text) > MAX_REQUEST_ID_CHARS or not (text.isascii() and text.isprintable()):
        raise InvalidRequestError(
            "request_id", f"must be printable ASCII of at most {MAX_REQUEST_ID_CHARS} characters"
        )
    return text


def tenant(text: str) -> str:
    """Whose share a request counts against, checked."""
    if len(text) > MAX_TENANT_CHARS or not text.isprintable():
        raise InvalidRequestError(
            "tenant", f"must be printable text of at most {MAX_TENANT_CHARS} characters"
        )
    return text


def _range(value: float, low: float, high: float, field: str, *, above: bool = False) -> None:
    """Raises InvalidRequestError unless low <= value <= high (`above`: low < value), finite."""
    inside = math.isfinite(value) and (low < value if above else low <= value) and value <= high
    if not inside:
        bounds = f"in {'(' if above else '['}{low:g}, {high:g}]"
        if math.isinf(high):
            bounds = f"finite and above {low:g}"
        raise InvalidRequestError(field, f"is {value:g}, must be {bounds}")
