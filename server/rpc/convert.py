"""Between wire messages and the server's nouns. Pure; refuses what it cannot honour.

Values out of range are InvalidRequestError; options of the wire that this server does not have
yet are UnsupportedError. Neither is ever ignored.
"""

import math
import secrets
from collections.abc import Callable, Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from server.adapters.catalog import AdapterStatus, Tier
from server.config import LimitsConfig
from server.errors import InvalidRequestError, UnsupportedError
from server.types import (
    ContinuationScore,
    Finished,
    FinishReason,
    Lease,
    SamplingParams,
    StoppingParams,
    TokenLogprob,
    Usage,
)
from understudy.v1 import generation_service_pb2, types_pb2

MAX_TEMPERATURE = 100.0
MAX_TOP_LOGPROBS = 20
MAX_TENANT_CHARS = 128
MAX_REQUEST_ID_CHARS = 128

TokenText = Callable[[int], str]

_FINISH_REASONS = {
    FinishReason.EOS: types_pb2.FINISH_REASON_EOS,
    FinishReason.STOP: types_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: types_pb2.FINISH_REASON_LENGTH,
}
_TIERS = {
    Tier.DISK: types_pb2.TIER_DISK,
    Tier.HOST: types_pb2.TIER_HOST,
    Tier.DEVICE: types_pb2.TIER_DEVICE,
}


def sampling_params(message: types_pb2.SamplingParams) -> SamplingParams:
    """How tokens are drawn. A seed is chosen where there is none."""
    _range(message.temperature, 0.0, MAX_TEMPERATURE, "sampling.temperature")
    top_p = message.top_p if message.HasField("top_p") else 1.0
    _range(top_p, 0.0, 1.0, "sampling.top_p", above=True)
    _reject_later_sampling(message)
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=top_p,
        seed=message.seed if message.HasField("seed") else secrets.randbits(63),
    )


def _reject_later_sampling(message: types_pb2.SamplingParams) -> None:
    _range(message.min_p, 0.0, 1.0, "sampling.min_p")
    _unsupported(message.min_p != 0, "sampling.min_p")
    if message.HasField("repetition_penalty"):
        penalty = message.repetition_penalty
        _range(penalty, 0.0, math.inf, "sampling.repetition_penalty", above=True)
        _unsupported(penalty != 1, "sampling.repetition_penalty")
    _range(message.frequency_penalty, -2.0, 2.0, "sampling.frequency_penalty")
    _unsupported(message.frequency_penalty != 0, "sampling.frequency_penalty")
    _range(message.presence_penalty, -2.0, 2.0, "sampling.presence_penalty")
    _unsupported(message.presence_penalty != 0, "sampling.presence_penalty")
    _unsupported(bool(message.logit_bias), "sampling.logit_bias")


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
    _unsupported(message.prompt_logprobs, "output.prompt_logprobs")
    if message.top_logprobs > MAX_TOP_LOGPROBS:
        raise InvalidRequestError(
            "output.top_logprobs", f"is {message.top_logprobs}, at most {MAX_TOP_LOGPROBS}"
        )
    return message.top_logprobs if message.logprobs or message.top_logprobs else None


def reject_later_options(message: generation_service_pb2.GenerateRequest) -> None:
    """Refuses the options of a generation that come later."""
    if message.HasField("num_samples"):
        if message.num_samples < 1:
            raise InvalidRequestError("num_samples", "is 0, must be at least 1")
        _unsupported(message.num_samples > 1, "num_samples above 1")
    _unsupported(bool(message.adapters), "adapters")
    _unsupported(message.HasField("structured_output"), "structured_output")


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


def adapter_ref(lease: Lease | None) -> types_pb2.AdapterRef:
    """The version that answers; empty for the bare base."""
    if lease is None:
        return types_pb2.AdapterRef()
    return types_pb2.AdapterRef(name=lease.name, version=lease.version)


def usage(value: Usage) -> types_pb2.Usage:
    """Counts and times."""
    return types_pb2.Usage(
        num_prompt_tokens=value.num_prompt_tokens,
        num_completion_tokens=value.num_completion_tokens,
        num_cached_tokens=value.num_cached_tokens,
        queue_s=value.queue_s,
        first_token_s=value.first_token_s,
        total_s=value.total_s,
        max_batch_size=value.max_batch_size,
    )


def logprobs(values: Iterable[TokenLogprob], token_text: TokenText) -> list[types_pb2.TokenLogprob]:
    """Log-probabilities, with the tokens' own text."""
    return [
        types_pb2.TokenLogprob(
            token_id=value.token_id,
            token=token_text(value.token_id),
            logprob=value.logprob,
            top=[
                types_pb2.TopLogprob(
                    token_id=top.token_id, token=token_text(top.token_id), logprob=top.logprob
                )
                for top in value.top
            ],
        )
        for value in values
    ]


def generation(
    event: Finished, token_text: TokenText, *, ending_only: bool = False
) -> generation_service_pb2.Generation:
    """A finished generation; `ending_only` leaves out what a stream has sent already."""
    message = generation_service_pb2.Generation(
        finish_reason=_FINISH_REASONS[event.reason], stop=event.stop
    )
    if not ending_only:
        message.text = event.text
        message.token_ids.extend(event.token_ids)
        message.logprobs.extend(logprobs(event.logprobs, token_text))
    return message


def continuation_score(
    value: ContinuationScore, token_text: TokenText, *, token_logprobs: bool
) -> generation_service_pb2.ContinuationScore:
    """One continuation's score, with its tokens where asked for."""
    return generation_service_pb2.ContinuationScore(
        logprob=value.logprob,
        num_tokens=len(value.tokens),
        is_greedy=value.is_greedy,
        tokens=logprobs(value.tokens, token_text) if token_logprobs else [],
    )


def tier_filter(value: int) -> Tier | None:
    """The tier to keep; None keeps all."""
    if value == int(types_pb2.TIER_UNSPECIFIED):
        return None
    for tier, number in _TIERS.items():
        if int(number) == value:
            return tier
    raise InvalidRequestError("tier", f"{value} is not a tier")


def adapter(status: AdapterStatus) -> types_pb2.Adapter:
    """One adapter version."""
    return types_pb2.Adapter(
        name=status.name,
        version=status.version,
        method=status.method,
        aliases=status.aliases,
        tier=_TIERS[status.tier],
        pinned=status.pinned,
        rank=status.rank,
        num_virtual_tokens=status.num_virtual_tokens,
        size_bytes=status.size_bytes,
        num_leases=status.num_leases,
        loaded_at=_timestamp(status.loaded_at),
        last_used_at=_timestamp(status.last_used_at),
        base_fingerprint=status.base_fingerprint,
        trained_quantization=status.trained_quantization,
        warnings=status.warnings,
    )


def _timestamp(seconds: float) -> Timestamp | None:
    if not seconds:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp


def _range(value: float, low: float, high: float, field: str, *, above: bool = False) -> None:
    """Raises InvalidRequestError unless low <= value <= high (`above`: low < value), finite."""
    inside = math.isfinite(value) and (low < value if above else low <= value) and value <= high
    if not inside:
        bounds = f"in {'(' if above else '['}{low:g}, {high:g}]"
        if math.isinf(high):
            bounds = f"finite and above {low:g}"
        raise InvalidRequestError(field, f"is {value:g}, must be {bounds}")


def _unsupported(given: bool, field: str) -> None:
    if given:
        raise UnsupportedError(f"{field}: this server does not support it yet")
