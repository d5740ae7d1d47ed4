"""The server's errors.

    ServerError
    ├── InvalidRequestError       a request field is wrong            INVALID_ARGUMENT
    ├── AdapterNotFoundError      no such adapter, version or alias   NOT_FOUND
    ├── AdapterRefusedError       an artifact cannot be served        FAILED_PRECONDITION
    ├── AdapterMemoryError        no room for one more adapter        RESOURCE_EXHAUSTED
    ├── SourceUnavailableError    an adapter's source gives no answer UNAVAILABLE
    ├── QueueFullError            try again after retry_delay_s       RESOURCE_EXHAUSTED
    ├── TooManyCallsError         try again after retry_delay_s       RESOURCE_EXHAUSTED
    ├── SlowWatcherError          watch again                         RESOURCE_EXHAUSTED
    ├── DeadlineError             the deadline passed, or cannot be met  DEADLINE_EXCEEDED
    ├── RequestCancelledError     the client went away                CANCELLED
    ├── DrainingError             the server is shutting down         UNAVAILABLE
    ├── UnsupportedError          a method or option that comes later UNIMPLEMENTED
    └── StartupError              wrong configuration, base or port   (exit code 2)

Messages are written for the client: they name the field, the value and the remedy, and hold no
path of the server's machine. `server.rpc` maps the tree to gRPC statuses in one table; anything
else is INTERNAL with a generic text.
"""


class ServerError(Exception):
    """Root of the tree."""


class InvalidRequestError(ServerError):
    """A request field is wrong. `field` is its path in the message: `sampling.top_p`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class AdapterNotFoundError(ServerError):
    """No such adapter. `close` are the names nearest to the one asked for; `note` says more."""

    def __init__(self, name: str, close: tuple[str, ...] = (), note: str = "") -> None:
        close = tuple(other for other in close if other != name)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        more = f"; {note}" if note else ""
        super().__init__(f"adapter {name[:200]!r} not found{more}{hint}")
        self.name = name
        self.close = close


class AdapterRefusedError(ServerError):
    """An artifact cannot be served; the message says why."""


class AdapterMemoryError(ServerError):
    """Host memory for adapters is full of versions that are pinned or in use."""


class SourceUnavailableError(ServerError):
    """A remote source of an adapter cannot be read now."""


class QueueFullError(ServerError):
    """The queue is full. `retry_delay_s` is when to try again."""

    def __init__(self, queue_size: int, retry_delay_s: float) -> None:
        super().__init__(
            f"the queue is full ({queue_size} requests); retry in {retry_delay_s:.1f} s"
        )
        self.retry_delay_s = retry_delay_s


class TooManyCallsError(ServerError):
    """So many calls are open that this one is not even read. `retry_delay_s` is when to retry."""

    def __init__(self, max_calls: int, retry_delay_s: float) -> None:
        super().__init__(
            f"{max_calls} calls are open, as many as this server takes; "
            f"retry in {retry_delay_s:.1f} s"
        )
        self.retry_delay_s = retry_delay_s


class SlowWatcherError(ServerError):
    """A watcher of adapters read too slowly; what it missed is lost."""

    def __init__(self, max_events: int) -> None:
        super().__init__(
            f"the watcher fell more than {max_events} changes behind and lost some; watch again, "
            "which begins with what is in memory, and read faster or with a name_prefix"
        )


class DeadlineError(ServerError):
    """The request's deadline passed, or cannot be met."""


class RequestCancelledError(ServerError):
    """The request was cancelled by its client."""


class DrainingError(ServerError):
    """The server is shutting down and takes no new requests."""


class UnsupportedError(ServerError):
    """A method or option of the wire that this version does not serve."""


class StartupError(ServerError):
    """The server cannot start: configuration, base or port. One line for the operator."""
