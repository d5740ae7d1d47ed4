"""The client's errors.

    UnderstudyError                  code (gRPC status)
    ├── InvalidArgumentError         INVALID_ARGUMENT, OUT_OF_RANGE; also found before sending
    ├── NotFoundError                NOT_FOUND
    │   └── AdapterNotFoundError     NOT_FOUND of an adapter, version or alias
    ├── AlreadyExistsError           ALREADY_EXISTS
    ├── FailedPreconditionError      FAILED_PRECONDITION, such as an adapter for another base
    ├── PermissionDeniedError        PERMISSION_DENIED, UNAUTHENTICATED
    ├── ResourceExhaustedError       RESOURCE_EXHAUSTED, such as a full queue
    ├── DeadlineExceededError        DEADLINE_EXCEEDED
    ├── CancelledError               CANCELLED, ABORTED
    ├── UnavailableError             UNAVAILABLE: no connection, or the server is draining
    ├── UnimplementedError           UNIMPLEMENTED
    └── InternalError                INTERNAL, UNKNOWN, DATA_LOSS, or an answer out of protocol

Every error carries the `google.rpc` details that the server sent: field violations (BadRequest,
PreconditionFailure), the retry delay (RetryInfo), reason and metadata (ErrorInfo).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of the request, by its path in the proto message."""

    field: str
    description: str


@dataclass(frozen=True)
class ErrorDetails:
    """The `google.rpc` details of an error."""

    violations: tuple[FieldViolation, ...] = ()
    retry_delay_s: float | None = None
    """How long the server asks to wait before trying again. None: it did not say."""
    reason: str = ""
    """ErrorInfo's machine-readable reason."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    resource_type: str = ""
    """ResourceInfo's type of the resource that is missing, such as `adapter`."""


class UnderstudyError(Exception):
    """Root of the tree."""

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        super().__init__(message, details)
        self.message = message
        self.details = details or ErrorDetails()

    def __str__(self) -> str:
        return self.message

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """Fields of the request that are wrong."""
        return self.details.violations

    @property
    def retry_delay_s(self) -> float | None:
        """Seconds the server asks to wait before trying again, where it said so."""
        return self.details.retry_delay_s

    @property
    def reason(self) -> str:
        """The server's machine-readable reason. Empty where it gave none."""
        return self.details.reason


class InvalidArgumentError(UnderstudyError):
    """A field of the request is wrong; `violations` names it."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(UnderstudyError):
    """Something the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AdapterNotFoundError(NotFoundError):
    """No such adapter, version or alias."""

    @property
    def close(self) -> tuple[str, ...]:
        """The names nearest to the one asked for, as far as the server named any."""
        names = self.details.metadata.get("close", "")
        return tuple(names.split(",")) if names else ()


class AlreadyExistsError(UnderstudyError):
    """Something the request creates exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPreconditionError(UnderstudyError):
    """The server's state does not allow the request, such as an adapter for another base."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDeniedError(UnderstudyError):
    """The caller may not do this, or did not say who it is."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhaustedError(UnderstudyError):
    """The server is full; `retry_delay_s` says when to try again."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceededError(UnderstudyError):
    """The call's deadline passed, or the server saw that it could not be met."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CancelledError(UnderstudyError):
    """The call was cancelled, by `close` or by the server."""

    code = grpc.StatusCode.CANCELLED


class UnavailableError(UnderstudyError):
    """The server cannot be reached, broke the connection, or takes no new requests."""

    code = grpc.StatusCode.UNAVAILABLE


class UnimplementedError(UnderstudyError):
    """This server does not serve the method or option."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(UnderstudyError):
    """The server failed, or its answer breaks the protocol."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: Mapping[grpc.StatusCode, type[UnderstudyError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
        grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
        grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
        grpc.StatusCode.UNAUTHENTICATED: PermissionDeniedError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
        grpc.StatusCode.CANCELLED: CancelledError,
        grpc.StatusCode.ABORTED: CancelledError,
        grpc.StatusCode.UNAVAILABLE: UnavailableError,
        grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    }
)
_CODE_BY_NUMBER: Mapping[int, grpc.StatusCode] = MappingProxyType(
    {code.value[0]: code for code in grpc.StatusCode}
)


def invalid_argument(field_path: str, description: str) -> InvalidArgumentError:
    """An InvalidArgumentError about one field, found before sending."""
    violation = FieldViolation(field_path, description)
    return InvalidArgumentError(f"{field_path}: {description}", ErrorDetails((violation,)))


def from_status(
    code: grpc.StatusCode, message: str, details: ErrorDetails | None = None
) -> UnderstudyError:
    """The error of the tree for a status. The instance's `code` is the exact one received."""
    details = details or ErrorDetails()
    kind = _BY_CODE.get(code, InternalError)
    if kind is NotFoundError and (
        details.resource_type == "adapter" or details.reason.startswith("ADAPTER")
    ):
        kind = AdapterNotFoundError
    error = kind(message or f"the server answered {code.name} without a message", details)
    error.code = code
    return error


def from_code_number(number: int, message: str) -> UnderstudyError:
    """The error of the tree for a status given by number, as in BatchError."""
    return from_status(_CODE_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN), message)


def from_rpc_error(error: grpc.RpcError) -> UnderstudyError:
    """The error of the tree for what grpc raised, with the `google.rpc` details it carries.

    Takes the synchronous errors (which are also calls) and grpc.aio.AioRpcError.
    """
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return InternalError(str(error))
    try:
        status = rpc_status.from_call(error)
        details = _parse_details(status) if status is not None else ErrorDetails()
    except (ValueError, DecodeError):
        # Details that contradict the status, or do not parse, must not hide the status itself.
        details = ErrorDetails()
    return from_status(error.code(), error.details() or "", details)


def _parse_details(status: status_pb2.Status) -> ErrorDetails:
    violations: list[FieldViolation] = []
    retry_delay_s: float | None = None
    reason = resource_type = ""
    metadata: dict[str, str] = {}
    for packed in status.details:
        bad_request = error_details_pb2.BadRequest()
        precondition = error_details_pb2.PreconditionFailure()
        retry = error_details_pb2.RetryInfo()
        info = error_details_pb2.ErrorInfo()
        resource = error_details_pb2.ResourceInfo()
        if packed.Unpack(bad_request):
            violations += [
                FieldViolation(v.field, v.description) for v in bad_request.field_violations
            ]
        elif packed.Unpack(precondition):
            violations += [
                FieldViolation(v.subject, v.description) for v in precondition.violations
            ]
        elif packed.Unpack(retry):
            delay = retry.retry_delay
            retry_delay_s = max(0.0, delay.seconds + delay.nanos / 1e9)
        elif packed.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(resource):
            resource_type = resource.resource_type
    return ErrorDetails(tuple(violations), retry_delay_s, reason, metadata, resource_type)
