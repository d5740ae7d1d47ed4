"""Calls with one answer, in both colours: attempts until an answer, a final error, the deadline."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc

from understudy._retry import Attempts, RetryPolicy, Timeout, _UseClientDefault
from understudy.errors import CancelledError, from_rpc_error, invalid_argument

if TYPE_CHECKING:
    from grpc import UnaryUnaryMultiCallable
    from grpc.aio import UnaryUnaryMultiCallable as AioUnaryUnaryMultiCallable

Q = TypeVar("Q")
R = TypeVar("R")

Metadata = tuple[tuple[str, str], ...]

NEVER_RETRY = RetryPolicy(max_attempts=1)


@dataclass(frozen=True, slots=True)
class CallConfig:
    """What every call of one client shares."""

    timeout_s: float | None
    retry: RetryPolicy
    metadata: Metadata

    def timeout(self, timeout: Timeout) -> float | None:
        """The seconds a call gets. Raises InvalidArgumentError unless above 0."""
        seconds = self.timeout_s if isinstance(timeout, _UseClientDefault) else timeout
        if seconds is not None and not seconds > 0:
            raise invalid_argument("timeout", f"{seconds!r} is not above 0; None means no deadline")
        return seconds

    def attempts(self, timeout: Timeout, *, retry: bool = True) -> Attempts:
        """The attempts of a call that starts now."""
        return Attempts(self.retry if retry else NEVER_RETRY, self.timeout(timeout))


class Caller:
    """Makes the unary calls of a synchronous client."""

    def __init__(self, config: CallConfig) -> None:
        self.config = config

    def call(
        self,
        method: "UnaryUnaryMultiCallable[Q, R]",
        request: Q,
        timeout: Timeout,
        *,
        retry: bool = True,
    ) -> R:
        """The answer. Ctrl-C cancels the call. Raises UnderstudyError."""
        attempts = self.config.attempts(timeout, retry=retry)
        while True:
            # A future, because an interrupt of the blocking form leaves the call running.
            future = method.future(
                request, timeout=attempts.remaining_s(), metadata=self.config.metadata
            )
            try:
                return future.result()
            except grpc.RpcError as error:
                delay_s = attempts.delay_after(from_rpc_error(error))
            except BaseException:
                future.cancel()
                raise
            time.sleep(delay_s)


class AsyncCaller:
    """Makes the unary calls of an asynchronous client."""

    def __init__(self, config: CallConfig) -> None:
        self.config = config

    async def call(
        self,
        method: "AioUnaryUnaryMultiCallable[Q, R]",
        request: Q,
        timeout: Timeout,
        *,
        retry: bool = True,
    ) -> R:
        """The answer. Cancelling the task cancels the call. Raises UnderstudyError."""
        attempts = self.config.attempts(timeout, retry=retry)
        while True:
            try:
                return await method(
                    request, timeout=attempts.remaining_s(), metadata=self.config.metadata
                )
            except grpc.RpcError as error:
                delay_s = attempts.delay_after(from_rpc_error(error))
            except asyncio.CancelledError:
                raise_unless_task_cancelled()
                raise
            await asyncio.sleep(delay_s)


def raise_unless_task_cancelled() -> None:
    """Raises CancelledError if it is the call that was cancelled, not the task that awaits it.

    grpc.aio raises asyncio.CancelledError for both; a call's end must not look like its task's.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling() == 0:
        raise CancelledError("the call was cancelled: its stream or its client was closed")
