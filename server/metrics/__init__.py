"""Every Prometheus series of the server. Nothing else imports prometheus_client."""

from server.metrics.door import MetricsServer
from server.metrics.series import Metrics

__all__ = ["Metrics", "MetricsServer"]
