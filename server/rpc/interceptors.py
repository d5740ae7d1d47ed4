"""What happens around every call of our services: the gate, the status of errors, the metrics.

Servicers raise the server's errors; here they become gRPC statuses (table in `server.rpc.status`).
Anything else is logged with its trace and answered as a generic INTERNAL.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from server.errors import DrainingError, ServerError, TooManyCallsError
from server.metrics import Metrics
from server.rpc.status import row_of, status_of
from understudy.artifact import BASE_NAME
from understudy.v1 import adapter_service_pb2, generation_service_pb2

_LOG = logging.getLogger(__name__)
# After which a call that met too many others may come again.
_RETRY_S = 1.0
# Health and reflection answer in every state.
_OURS = "/understudy.v1."
# While the gate is closed any path below it is answered; only these become labels of metrics.
_METHODS = frozenset(
    f"/{service.full_name}/{method.name}"
    for module in (generation_service_pb2, adapter_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)

Continuation = Callable[
    [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
]
Context = grpc.aio.ServicerContext[Any, Any]


class Gate:
    """Whether calls are taken. Closed while the base loads and while the server drains."""

    def __init__(self, reason: str) -> None:
        """Starts closed; `reason` is what callers are told."""
        self._reason: str | None = reason

    def open(self) -> None:
        """Takes calls from now on."""
        self._reason = None

    def close(self, reason: str) -> None:
        """Refuses new calls with `reason`; running ones go on."""
        self._reason = reason

    @property
    def closed(self) -> bool:
        """Whether new calls are refused."""
        return self._reason is not None

    def refusal(self) -> DrainingError:
        """What a call meets while closed."""
        return DrainingError(self._reason or "the server is not ready; try again")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls while the gate is closed or too many are open, turns errors into statuses,
    counts calls."""

    def __init__(self, gate: Gate, metrics: Metrics, max_calls: int) -> None:
        """`max_calls`: those of our services that run at a time."""
        self._gate = gate
        self._metrics = metrics
        self._max_calls = max_calls
        self._num_calls = 0

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the call's handler."""
        method: str = handler_call_details.method
        if not method.startswith(_OURS):
            return await continuation(handler_call_details)
        handler: Any
        if self._gate.closed:
            handler = _refusal(self._gate.refusal())
        elif self._num_calls >= self._max_calls:
            self._metrics.call_rejected()
            handler = _refusal(TooManyCallsError(self._max_calls, _RETRY_S))
        else:
            handler = await continuation(handler_call_details)
        if handler is None:
            return None
        name = method.rpartition("/")[2] if method in _METHODS else "other"
        serializers = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            streaming = self._streaming(name, handler)
            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(streaming, *serializers)
            return grpc.unary_stream_rpc_method_handler(streaming, *serializers)
        return grpc.unary_unary_rpc_method_handler(self._unary(name, handler), *serializers)

    def _unary(self, method: str, handler: Any) -> Any:
        async def call(request: Message, context: Context) -> Any:
            started = time.monotonic()
            self._num_calls += 1
            try:
                answer = await handler.unary_unary(request, context)
            except BaseException as error:
                await self._failed(method, request, started, context, error)
                raise
            finally:
                self._num_calls -= 1
            self._observe(method, request, started, "OK")
            return answer

        return call

    def _streaming(self, method: str, handler: Any) -> Any:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream

        # Writes rather than yields: a cancellation then is raised here, whatever the call waits
        # for, and closes the servicer's generator at once.
        async def call(request: Any, context: Context) -> None:
            started = time.monotonic()
            self._num_calls += 1
            try:
                async with contextlib.aclosing(behavior(request, context)) as answers:
                    async for answer in answers:
                        await context.write(answer)
            except BaseException as error:
                await self._failed(method, request, started, context, error)
                raise
            finally:
                self._num_calls -= 1
            self._observe(method, request, started, "OK")

        return call

    async def _failed(
        self, method: str, request: Any, started: float, context: Context, error: BaseException
    ) -> None:
        """Ends the call with the error's status; returns if nobody waits for it any more."""
        if isinstance(error, asyncio.CancelledError):
            remaining_s = context.time_remaining()
            expired = remaining_s is not None and remaining_s <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
            self._observe(method, request, started, code.name)
            return
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return
        row = row_of(error)
        self._observe(method, request, started, row.code.name)
        if row.code is grpc.StatusCode.INTERNAL:
            _LOG.error("%s failed", method, exc_info=error)
        await _abort(context, error)

    def _observe(self, method: str, request: Any, started: float, code: str) -> None:
        adapter = _adapter_of(request)
        self._metrics.rpc_ended(method, adapter, code, time.monotonic() - started)


async def _abort(context: Context, error: Exception) -> None:
    status = status_of(error)
    await context.abort(
        row_of(error).code,
        status.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )


def _adapter_of(request: Any) -> str:
    """The adapter's name that a request asks for: `base` without one, empty where none applies."""
    if not isinstance(request, Message):
        # A stream of requests has many.
        return ""
    inner = getattr(request, "request", request)
    reference: str | None = getattr(inner, "adapter", None)
    if reference is None:
        return str(getattr(inner, "name", ""))
    return reference.partition("@")[0] or BASE_NAME


def _refusal(error: ServerError) -> Any:
    """A handler that answers any call, streaming or not, without reading its requests."""

    async def refuse(requests: Any, context: Context) -> AsyncIterator[Any]:
        raise error
        yield

    return grpc.stream_stream_rpc_method_handler(refuse)
