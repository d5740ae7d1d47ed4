"""The series: bounded with any number of adapters, rising, and readable by a gateway."""

import random
import re
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import Metrics
from server.types import Residency, ResidentAdapter, Tier, Usage

ROOT = Path(__file__).resolve().parents[3]
_USAGE = Usage(3, 2, 1, 0.0, 0.1, 0.2, 1)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.exposition())
        for sample in family.samples
    }


def serve(metrics: Metrics, adapter: str) -> None:
    """Reports one request from its arrival to its end."""
    metrics.request_accepted(adapter)
    metrics.request_left_queue(adapter, "started", 0.0)
    metrics.first_token(adapter, 0.1)
    metrics.request_ended(adapter, "length", _USAGE)
    metrics.rpc_ended("Generate", adapter, "OK", 0.2)


def by_adapter(found: Samples, name: str) -> dict[str, float]:
    return {dict(labels)["adapter"]: value for (n, labels), value in found.items() if n == name}


def test_ten_thousand_adapters() -> None:
    """Series and memory stay bounded, and no series ever falls while it is there."""
    metrics = Metrics(max_adapter_labels=20)
    names = [f"adapter-{number}" for number in range(10_000)]
    generator = random.Random(0)
    before: Samples = {}
    counts, sizes, moved = [], [], 0
    tracemalloc.start()
    for number in range(4):
        # Another hundred of them is popular each time.
        popular = names[number * 100 : number * 100 + 100]
        for name in [*names, *generator.choices(popular, k=3000)]:
            serve(metrics, name)
        found = samples(metrics)
        counts.append(len(found))
        sizes.append(tracemalloc.get_traced_memory()[0])
        for key, value in before.items():
            if not key[0].endswith("_created"):
                assert found.get(key, value) >= value, key
        adapters = by_adapter(found, "understudy_requests_ended_total")
        assert len(adapters) == 21
        assert adapters["other"] > 10_000 * (number + 1)
        moved += len(adapters.keys() - by_adapter(before, "understudy_requests_ended_total").keys())
        before = found
    tracemalloc.stop()
    assert moved > 25
    assert max(counts) <= 21 * 60 + 400
    assert sizes[-1] < 1.1 * sizes[1]


def test_every_request_counts_in_one_series() -> None:
    """Rates over all adapters are right: what moves is neither lost nor counted twice."""
    metrics = Metrics(max_adapter_labels=1)
    for name in ("a", "b", "b", "b", "a", "base"):
        serve(metrics, name)
    found = samples(metrics)
    # The first of b's was counted as other; a's first went with its series, and its last is other.
    for series in ("requests_accepted_total", "requests_ended_total", "calls_total"):
        assert by_adapter(found, f"understudy_{series}") == {"b": 2.0, "other": 2.0, "base": 1.0}
    tokens = by_adapter(found, "understudy_generated_tokens_total")
    assert tokens == {"b": 4.0, "other": 4.0, "base": 2.0}
    # Without the label nothing moves.
    assert found["understudy_first_token_seconds_count", ()] == 6
    assert found["understudy_request_seconds_count", ()] == 6


def test_a_label_that_moves_leaves_nothing_behind() -> None:
    """Whatever other threads count meanwhile, a removed series does not come back."""
    metrics = Metrics(max_adapter_labels=2)
    is_over = threading.Event()

    def count(seed: int) -> None:
        generator = random.Random(seed)
        while not is_over.is_set():
            serve(metrics, f"adapter-{generator.randrange(12)}")

    threads = [threading.Thread(target=count, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    is_over.set()
    for thread in threads:
        thread.join()
    found = samples(metrics)
    labels = {dict(key[1])["adapter"] for key in found if "adapter" in dict(key[1])}
    assert len(labels) <= 3


def resident(name: str, used: float = 0.0, **fields: Any) -> ResidentAdapter:
    values = {"rank": 8, "size_bytes": 100, "on_device": False, "pinned": False} | fields
    return ResidentAdapter(name=name, last_used_at=used, **values)


def test_residency_by_tier() -> None:
    metrics = Metrics()
    metrics.watch_adapters(
        lambda: Residency(
            residents=(resident("a"), resident("b", size_bytes=7, on_device=True)),
            num_leases=3,
            num_slots=4,
            num_disk=9,
            disk_bytes=900,
        )
    )
    found = samples(metrics)
    tiers = {"disk": (9, 900), "host": (2, 107), "device": (1, 7)}
    for tier, (count, num_bytes) in tiers.items():
        assert found["understudy_adapters", (("tier", tier),)] == count
        assert found["understudy_adapter_bytes", (("tier", tier),)] == num_bytes
    assert found["understudy_leases", ()] == 3
    assert found["understudy_adapter_slots", ()] == 4


def test_loads_evictions_and_hits() -> None:
    metrics = Metrics()
    metrics.adapter_loaded("store", 0.2)
    metrics.adapter_loaded("hf", 0.3)
    metrics.adapter_placed("a", 0.4)
    metrics.adapter_load_failed("https")
    metrics.adapter_evicted(Tier.HOST)
    metrics.adapter_hit(Tier.DEVICE)
    found = samples(metrics)
    loads = "understudy_adapter_load_seconds_sum"
    assert found[loads, (("source", "store"), ("tier", "host"))] == 0.2
    assert found[loads, (("source", "hf"), ("tier", "host"))] == 0.3
    assert found[loads, (("source", "host"), ("tier", "device"))] == 0.4
    assert found["understudy_adapter_load_failures_total", (("source", "https"),)] == 1
    evictions = "understudy_adapter_evictions_total"
    assert found[evictions, (("tier", "host"),)] == 1
    assert found[evictions, (("tier", "device"),)] == 0
    assert found["understudy_adapter_hits_total", (("tier", "device"),)] == 1


def lora_info(metrics: Metrics) -> dict[str, str]:
    found = [(dict(labels), value) for (n, labels), value in samples(metrics).items() if n == _INFO]
    ((labels, value),) = found
    assert abs(value - time.time()) < 60
    return labels


_INFO = "understudy_lora_requests_info"


def test_what_runs_and_waits() -> None:
    metrics = Metrics()
    metrics.watch_adapters(lambda: Residency(num_slots=4))
    assert lora_info(metrics) == {
        "max_lora": "4", "waiting_lora_adapters": "", "running_lora_adapters": "",
    }  # fmt: skip
    for name in ("b", "a", "a", "base", "c"):
        metrics.request_accepted(name)
    for name in ("a", "a", "base"):
        metrics.request_left_queue(name, "started", 0.0)
    metrics.request_ended("a", "length", _USAGE)
    labels = lora_info(metrics)
    assert labels["waiting_lora_adapters"] == "b,c"
    assert labels["running_lora_adapters"] == "a"
    found = samples(metrics)
    assert found["understudy_requests_waiting", ()] == 2
    assert found["understudy_requests_running", ()] == 2
    # One that never ran.
    metrics.request_left_queue("b", "cancelled", 0.0)
    metrics.request_ended("b", "cancelled", None)
    assert lora_info(metrics)["waiting_lora_adapters"] == "c"
    assert samples(metrics)["understudy_requests_running", ()] == 2


def test_loaded_adapters_for_gateways() -> None:
    """On the device all of them, in host memory the most recently used; a name is there once."""
    metrics = Metrics(max_adapter_labels=2)
    metrics.watch_adapters(
        lambda: Residency(
            residents=(
                *(resident(f"slot{n}", on_device=True) for n in range(3)),
                resident("slot0", used=9.0, rank=64),
                resident("old", used=1.0),
                resident("new", used=3.0, pinned=True),
                resident("newer", used=4.0, rank=0),
            )
        )
    )
    found = samples(metrics)
    loaded = {labels for name, labels in found if name == "understudy_lora_adapter_loaded"}
    assert loaded == {
        tuple(sorted({"adapter_name": n, "level": level, "pinned": p, "rank": r}.items()))
        for n, level, p, r in (
            ("slot0", "gpu", "false", "8"),
            ("slot1", "gpu", "false", "8"),
            ("slot2", "gpu", "false", "8"),
            ("newer", "cpu", "false", "0"),
            ("new", "cpu", "true", "8"),
        )
    }


def test_the_gateway_configuration_in_the_docs_is_right() -> None:
    """Every series that the documented configuration tells a gateway to read is exported."""
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (config,) = (yaml.safe_load(block) for block in blocks if "engineConfigs" in block)
    (engine,) = config["parameters"]["engineConfigs"]
    metrics = Metrics()
    metrics.watch_adapters(lambda: Residency(residents=(resident("a"),), num_slots=1))
    metrics.watch_engine(lambda: _Stats(), block_size=16)  # type: ignore[arg-type, return-value]
    metrics.adapter_loaded("store", 0.1)
    found = samples(metrics)
    specs = {key: value for key, value in engine.items() if key.endswith("Spec")}
    assert len(specs) >= 8
    for key, spec in specs.items():
        name, _, selector = spec.partition("{")
        wanted = {tuple(part.split("=")) for part in selector.rstrip("}").split(",") if part}
        assert [k for k in found if k[0] == name and wanted <= set(k[1])], key
    flags = re.findall(r"`--[\w-]+-metric=(\w+)`", page)
    assert len(flags) >= 4
    assert set(flags) <= {name for name, _ in found}


class _Stats:
    num_running = num_used_blocks = num_cached_blocks = 0
    num_total_blocks = 1
