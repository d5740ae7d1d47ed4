"""The HTTP door that the series leave through."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import start_http_server


class MetricsServer:
    """The running HTTP server of `/metrics`."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Binds at once; port 0 takes a free one. Raises OSError if the port is in use."""
        self._server, self._thread = start_http_server(port, host, registry=registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
