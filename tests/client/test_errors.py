"""Statuses and google.rpc details become the client's errors."""

import pickle
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

import understudy
from understudy import Client, errors
from understudy.v1 import adapter_service_pb2 as adapter_pb

KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: understudy.InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: understudy.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: understudy.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: understudy.AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: understudy.FailedPreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: understudy.PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: understudy.PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: understudy.ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: understudy.DeadlineExceededError,
    grpc.StatusCode.CANCELLED: understudy.CancelledError,
    grpc.StatusCode.ABORTED: understudy.CancelledError,
    grpc.StatusCode.UNAVAILABLE: understudy.UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: understudy.UnimplementedError,
    grpc.StatusCode.INTERNAL: understudy.InternalError,
    grpc.StatusCode.UNKNOWN: understudy.InternalError,
    grpc.StatusCode.DATA_LOSS: understudy.InternalError,
}


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_status_has_its_error(
    scripted: Any, client: Client, wire: Any, code: grpc.StatusCode
) -> None:
    scripted.handlers["Generate"] = lambda _, context: context.abort(code, "why")
    with pytest.raises(understudy.UnderstudyError) as caught:
        client.generate("x")
    assert type(caught.value) is KINDS[code]
    assert caught.value.code is code
    assert str(caught.value) == "why"


def test_details(scripted: Any, client: Client, wire: Any) -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field="sampling.top_p", description="2 is not in (0, 1]"
            )
        ]
    )
    info = error_details_pb2.ErrorInfo(reason="BAD_SAMPLING", metadata={"k": "v"})
    scripted.handlers["Generate"] = lambda _, context: wire.abort(
        context, grpc.StatusCode.INVALID_ARGUMENT, "wrong", bad, info
    )
    with pytest.raises(understudy.InvalidArgumentError) as caught:
        client.generate("x")
    error = caught.value
    assert error.violations == (understudy.FieldViolation("sampling.top_p", "2 is not in (0, 1]"),)
    assert error.reason == "BAD_SAMPLING"
    assert error.details.metadata == {"k": "v"}
    assert error.retry_delay_s is None


async def test_details_of_the_asynchronous_client(
    scripted: Any, aclient: understudy.AsyncClient, wire: Any
) -> None:
    info = error_details_pb2.ErrorInfo(reason="ADAPTER_NOT_FOUND")
    scripted.handlers["GetAdapter"] = lambda _, context: wire.abort(
        context, grpc.StatusCode.NOT_FOUND, "no adapter", info
    )
    with pytest.raises(understudy.AdapterNotFoundError, match="no adapter"):
        await aclient.adapters.get("x")


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        (error_details_pb2.ErrorInfo(reason="ADAPTER_NOT_FOUND"), understudy.AdapterNotFoundError),
        (error_details_pb2.ResourceInfo(resource_type="adapter"), understudy.AdapterNotFoundError),
        (error_details_pb2.ErrorInfo(reason="PAGE_TOKEN"), understudy.NotFoundError),
    ],
)
def test_not_found_of_an_adapter(
    scripted: Any, client: Client, wire: Any, detail: Any, kind: type
) -> None:
    scripted.handlers["GetAdapter"] = lambda _, context: wire.abort(
        context, grpc.StatusCode.NOT_FOUND, "did you mean summary?", detail
    )
    with pytest.raises(understudy.NotFoundError, match="did you mean") as caught:
        client.adapters.get("sumary")
    assert type(caught.value) is kind


@pytest.mark.parametrize(("close", "names"), [("summary,sum", ("summary", "sum")), ("", ())])
def test_close_names(scripted: Any, client: Client, wire: Any, close: str, names: Any) -> None:
    info = error_details_pb2.ErrorInfo(reason="ADAPTER_NOT_FOUND", metadata={"close": close})
    scripted.handlers["GetAdapter"] = lambda _, context: wire.abort(
        context, grpc.StatusCode.NOT_FOUND, "no adapter", info
    )
    with pytest.raises(understudy.AdapterNotFoundError) as caught:
        client.adapters.get("sumary")
    assert caught.value.close == names


def test_garbled_details_do_not_hide_the_status(scripted: Any, client: Client) -> None:
    def garbled(_: Any, context: grpc.ServicerContext) -> adapter_pb.GetAdapterResponse:
        context.set_trailing_metadata([("grpc-status-details-bin", b"\xff\xff")])
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        raise AssertionError("abort raises")

    scripted.handlers["GetAdapter"] = garbled
    with pytest.raises(understudy.NotFoundError, match="gone"):
        client.adapters.get("x")


def test_errors_survive_pickling() -> None:
    error = errors.from_status(grpc.StatusCode.UNAUTHENTICATED, "who are you")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is understudy.PermissionDeniedError
    assert (str(copy), copy.code) == ("who are you", grpc.StatusCode.UNAUTHENTICATED)
