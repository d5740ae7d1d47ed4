"""Every Prometheus series of the server.

One `Metrics` object a server, on its own registry: two servers in one process stay apart. Units
are seconds and bytes. A *call* is an RPC, a *request* what the engine runs for it.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import generate_latest

from server.metrics.in_flight import InFlight
from server.metrics.per_adapter import AdapterSeries
from server.metrics.residency import ResidencyCollector
from server.types import (
    AdapterChange,
    AdapterEvent,
    EngineStats,
    Residency,
    StepRecord,
    Tier,
    Usage,
)

MAX_ADAPTER_LABELS = 100

_LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The series. Methods are thread-safe, never block and never raise.

    Implements `server.types.EngineMetrics`.
    """

    def __init__(self, max_adapter_labels: int = MAX_ADAPTER_LABELS) -> None:
        """Creates the series on a registry of their own; see `AdapterLabels` for the bound."""
        registry = self.registry = CollectorRegistry(auto_describe=True)
        self._by_adapter = AdapterSeries(registry, max_adapter_labels)
        self._in_flight = InFlight()
        self._collector = ResidencyCollector(self._in_flight, max_adapter_labels)
        registry.register(self._collector)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"understudy_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"understudy_{name}", text, registry=registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = _LATENCY_S
        ) -> Histogram:
            name = f"understudy_{name}"
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        self._base = Info("understudy_base", "The base model served.", registry=registry)
        self._ready = gauge("ready", "1 while calls are taken.")
        self._call_s = histogram(
            "call_seconds", "Time from a call's arrival to its status.", "method"
        )
        self._queue_rejections = counter(
            "queue_rejections", "Requests refused because the queue was full."
        )
        self._call_rejections = counter(
            "call_rejections", "Calls refused unread because too many were open."
        )

        gauge("requests_running", "Requests that a step has run.").set_function(
            lambda: sum(self._in_flight.running().values())
        )
        gauge("requests_waiting", "Requests waiting to start.").set_function(
            lambda: sum(self._in_flight.waiting().values())
        )
        self._sequences = gauge(
            "sequences_running", "Sequences in the batch: a request's samples are one each."
        )
        self._preemptions = counter(
            "sequence_preemptions",
            "Sequences that lost their blocks and were computed again.",
        )
        self._queue_s = histogram(
            "queue_seconds",
            "Time from a request's arrival to its first step (outcome started), or to its end if "
            "it never ran (outcome as in understudy_requests_ended; deadline: shed unserved).",
            "outcome",
        )
        self._first_token_s = histogram(
            "first_token_seconds", "Time from acceptance to the first generated token."
        )
        self._inter_token_s = histogram(
            "inter_token_seconds",
            "Time between tokens of a stream, as handed to the connection.",
        )
        self._request_s = histogram(
            "request_seconds", "Time from acceptance to the end, of finished requests."
        )

        self._steps = histogram("step_seconds", "Duration of an engine step.")
        self._step_sequences = histogram(
            "step_sequences", "Sequences that shared a step.", buckets=_BATCH_SIZES
        )
        self._step_tokens = counter(
            "step_tokens", "Tokens computed, by phase: prefill or decode.", "phase"
        )
        self._blocks_used = gauge("blocks_used", "Cache blocks in use.")
        self._blocks_cached = gauge(
            "blocks_cached",
            "Cache blocks that no sequence holds, kept for the prefixes in them.",
        )
        self._blocks_capacity = gauge("blocks_capacity", "Cache blocks there are.")
        self._block_size = gauge("block_size", "Tokens that a cache block holds.")
        self._cache_usage = gauge(
            "kv_cache_usage", "Cache blocks in use, as a part of all: 0 to 1."
        )
        self._prefix_queries = counter(
            "prefix_cache_queries",
            "Positions, virtual tokens included, of sequences that joined the batch.",
        )
        self._prefix_hits = counter(
            "prefix_cache_hits",
            "Those positions whose states came from the prefix cache.",
        )

        self._adapter_load_s = histogram(
            "adapter_load_seconds",
            "Time to bring an adapter to a tier. Host: read and checked, from the source store, "
            "path, hf, s3, gs or https, when it is downloaded. Device: copied to a slot, from the "
            "source host.",
            "tier",
            "source",
        )
        self._adapter_download_s = histogram(
            "adapter_download_seconds",
            "Time to download an adapter, by source: hf, s3, gs, https or http.",
            "source",
        )
        self._adapter_download_failures = counter(
            "adapter_download_failures", "Downloads that failed or were refused.", "source"
        )
        self._adapter_load_failures = counter(
            "adapter_load_failures", "Adapters refused or not readable, by source.", "source"
        )
        self._adapter_evictions = counter(
            "adapter_evictions", "Versions that left a tier to make room there.", "tier"
        )
        self._adapter_hits = counter(
            "adapter_hits",
            "Requests for an adapter, by the tier that had it: device, host, or disk where it was "
            "loaded for them.",
            "tier",
        )
        for tier in Tier:
            self._adapter_hits.labels(tier.value)
            if tier is not Tier.DISK:
                self._adapter_evictions.labels(tier.value)

    def watch_engine(self, stats: Callable[[], EngineStats], block_size: int) -> None:
        """Reads the engine's gauges from `stats` at every scrape."""
        self._sequences.set_function(lambda: stats().num_running)
        self._blocks_used.set_function(lambda: stats().num_used_blocks)
        self._blocks_cached.set_function(lambda: stats().num_cached_blocks)
        self._blocks_capacity.set_function(lambda: stats().num_total_blocks)
        self._block_size.set(block_size)

        def usage() -> float:
            now = stats()
            return now.num_used_blocks / max(1, now.num_total_blocks)

        self._cache_usage.set_function(usage)

    def watch_adapters(self, residency: Callable[[], Residency]) -> None:
        """Reads what is where from `residency` at every scrape."""
        self._collector.residency = residency

    def serving(self, ready: bool, base: Mapping[str, str] | None = None) -> None:
        """Whether calls are taken, and what `base` is served."""
        self._ready.set(ready)
        if base is not None:
            self._base.info(dict(base))

    def rpc_ended(self, method: str, adapter: str, code: str, seconds: float) -> None:
        """A call was answered. `adapter` is what the client asked for: unknown ones are `other`,
        empty for calls about no adapter."""
        self._by_adapter.call_ended(method, adapter, code)
        self._call_s.labels(method).observe(seconds)

    def queue_rejected(self) -> None:
        """A request met a full queue."""
        self._queue_rejections.inc()

    def call_rejected(self) -> None:
        """A call came while too many were open."""
        self._call_rejections.inc()

    def inter_token(self, seconds: float) -> None:
        """A stream's next token came `seconds` after the one before."""
        self._inter_token_s.observe(seconds)

    def adapter_loaded(self, source: str, seconds: float) -> None:
        """A version was read into host memory. `source`: `store`, `path` or a URL's scheme."""
        self._adapter_load_s.labels(Tier.HOST.value, source).observe(seconds)

    def adapter_load_failed(self, source: str) -> None:
        """An adapter was refused, or not readable."""
        self._adapter_load_failures.labels(source).inc()

    def adapter_downloaded(self, source: str, seconds: float) -> None:
        """An adapter's files came from a URL of the scheme `source`."""
        self._adapter_download_s.labels(source).observe(seconds)

    def adapter_download_failed(self, source: str) -> None:
        """They did not, or not all, or were refused on the way."""
        self._adapter_download_failures.labels(source).inc()

    def adapter_evicted(self, tier: Tier) -> None:
        """A version left `tier` to make room."""
        self._adapter_evictions.labels(tier.value).inc()

    def adapter_changed(self, event: AdapterEvent) -> None:
        """An adapter entered a device slot, or left one for another's sake."""
        if event.kind is AdapterChange.TIER and event.tier is Tier.HOST:
            self.adapter_evicted(Tier.DEVICE)

    def adapter_hit(self, tier: Tier) -> None:
        """A request's adapter was found in `tier`; disk: it was loaded for the request."""
        self._adapter_hits.labels(tier.value).inc()

    def step(self, record: StepRecord) -> None:
        """An engine step ran."""
        self._steps.observe(record.duration_s)
        self._step_sequences.observe(record.num_sequences)
        self._step_tokens.labels("prefill").inc(record.num_prefill_tokens)
        self._step_tokens.labels("decode").inc(record.num_decode_tokens)
        self._prefix_queries.inc(record.num_prefix_queries)
        self._prefix_hits.inc(record.num_prefix_hits)

    def request_accepted(self, adapter: str) -> None:
        """The engine took a request."""
        self._by_adapter.accepted(adapter)
        self._in_flight.accepted(adapter)

    def request_left_queue(self, adapter: str, outcome: str, queue_s: float) -> None:
        """A request's first step begins, or it ended before."""
        self._in_flight.left_queue(adapter)
        self._queue_s.labels(outcome).observe(queue_s)

    def first_token(self, adapter: str, seconds: float) -> None:
        """A generation drew its first token."""
        self._by_adapter.first_token(adapter, seconds)
        self._first_token_s.observe(seconds)

    def request_ended(self, adapter: str, outcome: str, usage: Usage | None) -> None:
        """A request's terminal event."""
        self._in_flight.ended(adapter)
        self._by_adapter.ended(adapter, outcome, usage)
        if usage is not None:
            self._request_s.observe(usage.total_s)

    def preempted(self) -> None:
        """A sequence lost its blocks."""
        self._preemptions.inc()

    def adapter_placed(self, adapter: str, seconds: float) -> None:
        """An adapter's weights were copied to a device slot."""
        self._adapter_load_s.labels(Tier.DEVICE.value, Tier.HOST.value).observe(seconds)

    def exposition(self) -> str:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry).decode("utf-8")
