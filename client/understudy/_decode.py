"""From the wire's messages to the client's dataclasses."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

from understudy import types as t
from understudy.errors import InternalError, from_code_number
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb

E = TypeVar("E", bound=StrEnum)


def _enum(kind: type[E], wire: Any, value: int) -> E:
    """The member of `kind` for a wire enum's value: UNSPECIFIED for one of a newer server."""
    number = wire.DESCRIPTOR.values_by_number
    if value not in number:
        return kind["UNSPECIFIED"]
    prefix = number[0].name.removesuffix("UNSPECIFIED")
    return kind[number[value].name.removeprefix(prefix)]


def _time(message: ProtoMessage, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    timestamp: Timestamp = getattr(message, field)
    return timestamp.ToDatetime(UTC)


def _adapter_ref(m: types_pb.AdapterRef) -> t.AdapterRef:
    members = tuple(t.WeightedAdapter(member.adapter, member.weight) for member in m.members)
    return t.AdapterRef(m.name, m.version, members)


def _token_logprobs(messages: Iterable[types_pb.TokenLogprob]) -> tuple[t.TokenLogprob, ...]:
    return tuple(
        t.TokenLogprob(
            m.token_id,
            m.token,
            m.logprob,
            tuple(t.TopLogprob(top.token_id, top.token, top.logprob) for top in m.top),
        )
        for m in messages
    )


def _usage(m: types_pb.Usage) -> t.Usage:
    return t.Usage(
        num_prompt_tokens=m.num_prompt_tokens,
        num_completion_tokens=m.num_completion_tokens,
        num_cached_tokens=m.num_cached_tokens,
        queue_s=m.queue_s,
        first_token_s=m.first_token_s,
        total_s=m.total_s,
        max_batch_size=m.max_batch_size,
    )


def _generations(messages: Iterable[generation_pb.Generation]) -> tuple[t.Generation, ...]:
    return tuple(
        t.Generation(
            index=m.index,
            text=m.text,
            token_ids=tuple(m.token_ids),
            finish_reason=_enum(t.FinishReason, types_pb.FinishReason, m.finish_reason),
            stop=m.stop,
            logprobs=_token_logprobs(m.logprobs),
        )
        for m in messages
    )


def generate_result(m: generation_pb.GenerateResponse) -> t.GenerateResult:
    """A finished generation."""
    if not m.generations:
        raise InternalError("the server answered a generation without any sample")
    return t.GenerateResult(
        request_id=m.request_id,
        adapter=_adapter_ref(m.adapter),
        generations=_generations(m.generations),
        usage=_usage(m.usage),
        prompt_logprobs=_token_logprobs(m.prompt_logprobs),
    )


def stream_event(m: generation_pb.GenerateStreamResponse) -> t.StreamEvent | None:
    """One event. None for a kind that this client does not know."""
    match m.WhichOneof("event"):
        case "started":
            s = m.started
            return t.StreamStarted(s.request_id, _adapter_ref(s.adapter), s.num_prompt_tokens)
        case "delta":
            d = m.delta
            return t.StreamDelta(d.index, d.text, tuple(d.token_ids), _token_logprobs(d.logprobs))
        case "finished":
            f = m.finished
            return t.StreamFinished(_generations(f.generations), _usage(f.usage))
    return None


def batch_result(m: generation_pb.BatchGenerateResponse) -> t.BatchResult:
    """One answer of a batch."""
    match m.WhichOneof("outcome"):
        case "response":
            return t.BatchResult(m.key, generate_result(m.response), None)
        case "error":
            return t.BatchResult(m.key, None, from_code_number(m.error.code, m.error.message))
    raise InternalError(f"the server answered {m.key!r} with neither a response nor an error")


def score_result(m: generation_pb.ScoreResponse, num_continuations: int) -> t.ScoreResult:
    """Scores. Raises InternalError unless there is one for each continuation."""
    if len(m.scores) != num_continuations:
        raise InternalError(
            f"the server answered {len(m.scores)} scores for {num_continuations} continuations"
        )
    scores = tuple(
        t.ContinuationScore(s.logprob, s.num_tokens, s.is_greedy, _token_logprobs(s.tokens))
        for s in m.scores
    )
    return t.ScoreResult(m.request_id, _adapter_ref(m.adapter), scores, _usage(m.usage))


def classify_result(m: generation_pb.ClassifyResponse) -> t.ClassifyResult:
    """Label probabilities."""
    labels = tuple(t.LabelScore(s.label, s.probability, s.logit) for s in m.labels)
    return t.ClassifyResult(m.request_id, _adapter_ref(m.adapter), labels, _usage(m.usage))


def tokenize_result(m: generation_pb.TokenizeResponse) -> t.TokenizeResult:
    """Tokens."""
    if len(m.tokens) != len(m.token_ids):
        raise InternalError(
            f"the server answered {len(m.tokens)} texts for {len(m.token_ids)} tokens"
        )
    return t.TokenizeResult(tuple(m.token_ids), tuple(m.tokens), m.prompt)


def model_info(m: generation_pb.GetModelInfoResponse) -> t.ModelInfo:
    """What a server holds."""
    return t.ModelInfo(
        base_model=m.base_model,
        base_fingerprint=m.base_fingerprint,
        architecture=m.architecture,
        quantization=m.quantization,
        dtype=m.dtype,
        device=m.device,
        max_context_tokens=m.max_context_tokens,
        vocab_size=m.vocab_size,
        num_parameters=m.num_parameters,
        resident_bytes=m.resident_bytes,
        int8_threshold=m.int8_threshold,
        deterministic=m.deterministic,
        max_batch_size=m.max_batch_size,
        max_queue_size=m.max_queue_size,
        num_adapter_slots=m.num_adapter_slots,
        max_lora_rank=m.max_lora_rank,
        server_version=m.server_version,
        adapter_methods=tuple(m.adapter_methods),
        weight_form=m.weight_form,
        bos_token_id=m.bos_token_id if m.HasField("bos_token_id") else None,
        eos_token_id=m.eos_token_id if m.HasField("eos_token_id") else None,
    )


def adapter_info(m: types_pb.Adapter) -> t.AdapterInfo:
    """One version of one adapter."""
    return t.AdapterInfo(
        name=m.name,
        version=m.version,
        method=m.method,
        aliases=tuple(m.aliases),
        tier=_enum(t.Tier, types_pb.Tier, m.tier),
        pinned=m.pinned,
        rank=m.rank,
        num_virtual_tokens=m.num_virtual_tokens,
        size_bytes=m.size_bytes,
        num_leases=m.num_leases,
        loaded_at=_time(m, "loaded_at"),
        last_used_at=_time(m, "last_used_at"),
        base_fingerprint=m.base_fingerprint,
        trained_quantization=m.trained_quantization,
        warnings=tuple(m.warnings),
        current=m.current,
    )


def adapter_details(m: adapter_pb.GetAdapterResponse) -> t.AdapterDetails:
    """An adapter with its manifest and evaluation results."""
    manifest = _json(m.manifest_json, "manifest_json") if m.manifest_json else None
    evals = {name: _json(text, f"evals_json[{name!r}]") for name, text in m.evals_json.items()}
    return t.AdapterDetails(adapter_info(m.adapter), manifest, evals)


def _json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InternalError(f"the server's {field} is not JSON: {error}") from error


def load_result(m: adapter_pb.LoadAdapterResponse) -> t.LoadResult:
    """The loaded version."""
    return t.LoadResult(adapter_info(m.adapter), m.load_s)


def adapter_event(m: adapter_pb.WatchAdaptersResponse) -> t.AdapterEvent:
    """One change of an adapter."""
    change = _enum(t.AdapterChange, adapter_pb.AdapterChange, m.change)
    return t.AdapterEvent(change, adapter_info(m.adapter), _time(m, "at"), m.alias)
