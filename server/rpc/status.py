"""Errors on the wire: one table from the server's errors to gRPC statuses with details."""

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from server.errors import (
    AdapterMemoryError,
    AdapterNotFoundError,
    AdapterRefusedError,
    DeadlineError,
    DrainingError,
    InvalidRequestError,
    QueueFullError,
    RequestCancelledError,
    ServerError,
    SlowWatcherError,
    SourceUnavailableError,
    TooManyCallsError,
    UnsupportedError,
)

DOMAIN = "understudy"
# Trailers over 8 KiB are refused by default. A text travels three times: percent-encoded, where a
# byte beyond ASCII takes three, and twice in base64.
_MAX_MESSAGE_BYTES = 1200


@dataclass(frozen=True, slots=True)
class Row:
    """How one error travels."""

    code: grpc.StatusCode
    reason: str
    """`google.rpc.ErrorInfo.reason`, for programs."""


TABLE: dict[type[ServerError], Row] = {
    InvalidRequestError: Row(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    AdapterNotFoundError: Row(grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND"),
    AdapterRefusedError: Row(grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_REFUSED"),
    AdapterMemoryError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "ADAPTER_MEMORY_FULL"),
    SourceUnavailableError: Row(grpc.StatusCode.UNAVAILABLE, "SOURCE_UNAVAILABLE"),
    QueueFullError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    TooManyCallsError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    SlowWatcherError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW"),
    DeadlineError: Row(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    RequestCancelledError: Row(grpc.StatusCode.CANCELLED, "CANCELLED"),
    DrainingError: Row(grpc.StatusCode.UNAVAILABLE, "DRAINING"),
    UnsupportedError: Row(grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED"),
}
_INTERNAL = Row(grpc.StatusCode.INTERNAL, "INTERNAL")


def row_of(error: BaseException) -> Row:
    """The table's row for an error, or for the nearest of its base classes."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return _INTERNAL


def message_of(error: BaseException) -> str:
    """The text for the client: the error's own if it is one of ours, otherwise a generic one."""
    if row_of(error) is _INTERNAL:
        return "internal error; the server's log has the details"
    return str(error).encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")


def status_of(error: BaseException) -> status_pb2.Status:
    """The `google.rpc.Status` of an error, with its details."""
    row, message = row_of(error), message_of(error)
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN)
    details: list[Message] = [info]
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message.removeprefix(f"{error.field}: ")
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, AdapterNotFoundError):
        info.metadata["adapter"] = error.name[:200]
        info.metadata["close"] = ",".join(error.close)
    elif isinstance(error, QueueFullError | TooManyCallsError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for wrapper, detail in zip(packed, details, strict=True):
        wrapper.Pack(detail)
    return status_pb2.Status(code=row.code.value[0], message=message, details=packed)
