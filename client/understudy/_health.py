"""Readiness by the standard health service: what `wait_ready` of both clients shares."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from understudy._retry import Attempts
from understudy.errors import (
    DeadlineExceededError,
    UnavailableError,
    UnimplementedError,
    from_rpc_error,
)

# One check's own limit: a connection that hangs must not use up the whole wait.
CHECK_TIMEOUT_S = 5.0
POLL_S = 0.1


class Readiness:
    """A wait for one server: asks what is still missing after each check."""

    request = HealthCheckRequest()

    def __init__(self, address: str, attempts: Attempts) -> None:
        self._address = address
        self._attempts = attempts
        self._missing = "not checked"

    def check_timeout_s(self) -> float:
        """Seconds for the next check. Raises UnavailableError when the wait is over."""
        try:
            remaining = self._attempts.remaining_s()
        except DeadlineExceededError:
            raise UnavailableError(
                f"the server at {self._address} is not ready after "
                f"{self._attempts.timeout_s:g} s: {self._missing}"
            ) from None
        return CHECK_TIMEOUT_S if remaining is None else min(remaining, CHECK_TIMEOUT_S)

    def is_ready(self, outcome: HealthCheckResponse | grpc.RpcError) -> bool:
        """Whether the server serves. Raises UnderstudyError if waiting cannot help."""
        if isinstance(outcome, grpc.RpcError):
            error = from_rpc_error(outcome)
            if isinstance(error, UnimplementedError):
                return True  # A server without the health service that answers is up.
            if not isinstance(error, UnavailableError | DeadlineExceededError):
                raise error
            self._missing = error.message
            return False
        self._missing = HealthCheckResponse.ServingStatus.Name(outcome.status)
        return bool(outcome.status == HealthCheckResponse.SERVING)
