"""What is where, read at each scrape, also in the form that gateways of Kubernetes read.

The series `understudy_lora_*` have the labels of vLLM's `vllm:lora_requests_info` and
`vllm:lora_adapter_loaded`, for schedulers that send a request to where its adapter is; "LoRA" means
adapters of any kind here. docs/operating.md has the configuration.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.metrics.in_flight import InFlight
from server.metrics.labels import BASE
from server.types import Residency, ResidentAdapter


class ResidencyCollector(Collector):
    """Reads who holds what at every scrape; keeps nothing, so that nothing grows."""

    def __init__(self, in_flight: InFlight, max_loaded: int) -> None:
        """At most `max_loaded` adapters in host memory alone have a series of their own."""
        self._in_flight = in_flight
        self._max_loaded = max_loaded
        self.residency: Callable[[], Residency] = Residency
        """What the adapters hold."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families, whether or not there is anything to tell."""
        now = self.residency()
        tiers = {
            "disk": (now.num_disk, now.disk_bytes),
            "host": (len(now.residents), sum(r.size_bytes for r in now.residents)),
            "device": (
                sum(r.on_device for r in now.residents),
                sum(r.size_bytes for r in now.residents if r.on_device),
            ),
        }
        count = GaugeMetricFamily(
            "understudy_adapters",
            "Adapter versions by tier: disk (the store), host or device. One in memory counts in "
            "each tier that holds it.",
            labels=("tier",),
        )
        size = GaugeMetricFamily(
            "understudy_adapter_bytes", "Bytes of those versions' tensors.", labels=("tier",)
        )
        for tier, (number, num_bytes) in tiers.items():
            count.add_metric((tier,), number)
            size.add_metric((tier,), num_bytes)
        yield count
        yield size
        yield GaugeMetricFamily(
            "understudy_leases", "Requests that hold an adapter version.", now.num_leases
        )
        yield GaugeMetricFamily(
            "understudy_adapter_slots", "Adapters that fit on the device.", now.num_slots
        )
        yield self._requests_info(now.num_slots)
        yield self._loaded(now.residents)

    def _requests_info(self, num_slots: int) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "understudy_lora_requests_info",
            "Adapters whose requests run and wait, comma-separated, and how many adapters fit on "
            "the device; the value is the time, in seconds since the epoch.",
            labels=("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
        )
        labels = (
            str(num_slots),
            _names(self._in_flight.waiting()),
            _names(self._in_flight.running()),
        )
        family.add_metric(labels, time.time())
        return family

    def _loaded(self, residents: Iterable[ResidentAdapter]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "understudy_lora_adapter_loaded",
            "1 for each adapter in memory, by name, level (gpu: on the device, whatever it is; "
            "cpu: in host memory), pin and rank. In host memory the most recently used only, up "
            "to metrics.max_adapter_labels.",
            labels=("adapter_name", "level", "pinned", "rank"),
        )
        # Of several versions of a name the best placed one speaks for it.
        best: dict[str, ResidentAdapter] = {}
        order = sorted(residents, key=lambda r: (r.on_device, r.last_used_at), reverse=True)
        num_host = 0
        for resident in order:
            if resident.name in best:
                continue
            num_host += not resident.on_device
            if num_host > self._max_loaded:
                break
            best[resident.name] = resident
        for name, resident in best.items():
            level = "gpu" if resident.on_device else "cpu"
            pinned = "true" if resident.pinned else "false"
            family.add_metric((name, level, pinned, str(resident.rank)), 1)
        return family


def _names(counts: dict[str, int]) -> str:
    return ",".join(sorted(name for name in counts if name != BASE))
