"""From the server's nouns to wire messages, and what of the adapters' messages comes in. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from server.adapters.catalog import AdapterStatus
from server.adapters.sums import SumLease
from server.errors import InvalidRequestError
from server.types import (
    AdapterChange,
    AdapterEvent,
    ContinuationScore,
    Finished,
    FinishReason,
    LabelScore,
    Lease,
    Tier,
    TokenLogprob,
    Usage,
)
from understudy.v1 import adapter_service_pb2, generation_service_pb2, types_pb2

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
_CHANGES = {
    AdapterChange.LOADED: adapter_service_pb2.ADAPTER_CHANGE_LOADED,
    AdapterChange.UNLOADED: adapter_service_pb2.ADAPTER_CHANGE_UNLOADED,
    AdapterChange.TIER: adapter_service_pb2.ADAPTER_CHANGE_TIER,
    AdapterChange.ALIAS: adapter_service_pb2.ADAPTER_CHANGE_ALIAS,
    AdapterChange.PINNED: adapter_service_pb2.ADAPTER_CHANGE_PINNED,
}


def adapter_ref(lease: Lease | None) -> types_pb2.AdapterRef:
    """The version that answers; empty for the bare base."""
    if lease is None:
        return types_pb2.AdapterRef()
    members = [
        types_pb2.WeightedAdapter(adapter=f"{member.name}@{member.version}", weight=weight)
        for member, weight in (lease.members if isinstance(lease, SumLease) else ())
    ]
    return types_pb2.AdapterRef(name=lease.name, version=lease.version, members=members)


def label_score(score: LabelScore) -> generation_service_pb2.LabelScore:
    """One label of a classification."""
    return generation_service_pb2.LabelScore(
        label=score.label, probability=score.probability, logit=score.logit
    )


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


def num_logprobs(event: Finished) -> int:
    """How many log-probabilities `event` holds, alternatives included."""
    parts = (event.prompt_logprobs, *(sample.logprobs for sample in event.samples))
    return sum(len(part) * (1 + len(part[0].top)) for part in parts if part)


def generations(
    event: Finished, token_text: TokenText, *, ending_only: bool = False
) -> list[generation_service_pb2.Generation]:
    """The samples, in order; `ending_only` leaves out what a stream has sent already."""
    messages = []
    for index, sample in enumerate(event.samples):
        message = generation_service_pb2.Generation(
            index=index, finish_reason=_FINISH_REASONS[sample.reason], stop=sample.stop
        )
        if not ending_only:
            message.text = sample.text
            message.token_ids.extend(sample.token_ids)
            message.logprobs.extend(logprobs(sample.logprobs, token_text))
        messages.append(message)
    return messages


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
        current=status.current,
        pinned=status.pinned,
        rank=status.rank,
        num_virtual_tokens=status.num_virtual_tokens,
        size_bytes=status.size_bytes,
        num_leases=status.num_leases,
        loaded_at=timestamp(status.loaded_at),
        last_used_at=timestamp(status.last_used_at),
        base_fingerprint=status.base_fingerprint,
        trained_quantization=status.trained_quantization,
        warnings=status.warnings,
    )


def adapter_event(
    event: AdapterEvent, status: AdapterStatus
) -> adapter_service_pb2.WatchAdaptersResponse:
    """A change of the version whose `status` is known, perhaps as of later than the change."""
    return adapter_service_pb2.WatchAdaptersResponse(
        change=_CHANGES[event.kind],
        adapter=adapter(replace(status, tier=event.tier, pinned=event.pinned)),
        at=timestamp(event.at),
        alias=event.alias,
    )


def timestamp(seconds: float) -> Timestamp | None:
    """A time since the epoch; None for 0."""
    if not seconds:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp
