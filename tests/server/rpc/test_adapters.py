"""AdapterService: pages, versions, aliases, pins, what may be loaded from where."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.config import AdaptersConfig
from tests.server.rpc.conftest import Artifacts, Server, StartServer, request_for
from tests.server.rpc.test_lifecycle import eventually, idle, long_request, stream
from tests.tiny import lora_config, make_adapter, make_base
from understudy.store import publish
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import types_pb2 as tpb


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def refused(call: Any, request: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value


def listed(server: Server, **fields: Any) -> list[tpb.Adapter]:
    return list(server.adapters.ListAdapters(apb.ListAdaptersRequest(**fields)).adapters)


@pytest.fixture
def folders(artifacts: Artifacts, tmp_path: Path) -> tuple[Path, Path]:
    """A store with `pirate` and `polite`, and a folder for uploads with version 2 of `pirate`."""
    store, uploads = tmp_path / "store", tmp_path / "uploads"
    publish(artifacts.lora, store, "pirate")
    publish(artifacts.prompt, store, "polite")
    copy(artifacts.lora_v2, uploads / "pirate-v2")
    return store, uploads


@pytest.fixture
def server(start_server: StartServer, folders: tuple[Path, Path]) -> Server:
    return start_server(adapters=AdaptersConfig(store=folders[0], roots=(folders[1],)))


def test_list_shows_tiers_and_filters(server: Server) -> None:
    assert [(a.name, a.tier) for a in listed(server)] == [
        ("pirate", tpb.TIER_DISK),
        ("polite", tpb.TIER_DISK),
    ]
    server.generate(adapter="polite")
    pirate, polite = listed(server)
    assert polite.tier == tpb.TIER_DEVICE
    assert (pirate.method, pirate.rank, pirate.num_virtual_tokens) == ("lora", 4, 0)
    assert (polite.method, polite.rank, polite.num_virtual_tokens) == ("prompt_tuning", 0, 5)
    assert polite.aliases == ["latest"]
    assert polite.size_bytes == 5 * 64 * 4
    assert polite.loaded_at.seconds > 0
    assert not pirate.HasField("loaded_at")
    assert polite.trained_quantization == "nf4"
    assert polite.warnings == ["trained on a base quantized 'nf4', served on 'none'"]
    assert [a.name for a in listed(server, name_prefix="po")] == ["polite"]
    assert [a.name for a in listed(server, method="lora")] == ["pirate"]
    assert [a.name for a in listed(server, tier=tpb.TIER_DISK)] == ["pirate"]
    assert listed(server, tier=tpb.TIER_HOST) == []


def test_pages_hold_everything_once(
    start_server: StartServer, artifacts: Artifacts, tmp_path: Path
) -> None:
    for number in range(7):
        publish(artifacts.prompt, tmp_path, f"name{number}")
    publish(artifacts.lora, tmp_path, "name3")
    server = start_server(adapters=AdaptersConfig(store=tmp_path))
    seen, token = [], ""
    while True:
        request = apb.ListAdaptersRequest(page_size=3, page_token=token)
        page = server.adapters.ListAdapters(request)
        seen += [(a.name, a.version) for a in page.adapters]
        token = page.next_page_token
        if not token:
            break
        assert len(page.adapters) == 3
    assert len(seen) == len(set(seen)) == 8
    assert [name for name, _ in seen] == sorted(name for name, _ in seen)
    # Newest version first.
    assert next(v for n, v in seen if n == "name3") == listed(server, method="lora")[0].version
    error = refused(server.adapters.ListAdapters, apb.ListAdaptersRequest(page_token="nonsense"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "page_token" in error.details()


def test_get_gives_manifest_and_evals(
    start_server: StartServer, artifacts: Artifacts, tmp_path: Path
) -> None:
    source = copy(artifacts.lora, tmp_path / "source")
    (source / "evals").mkdir()
    (source / "evals" / "notes.json").write_text('{"rougeL": 0.5}')
    (source / "evals" / "broken.json").write_text("{")
    publish(source, tmp_path / "store", "pirate")
    server = start_server(adapters=AdaptersConfig(store=tmp_path / "store"))
    for loaded in (False, True):
        answer = server.adapters.GetAdapter(apb.GetAdapterRequest(adapter="pirate@latest"))
        assert json.loads(answer.manifest_json)["method"] == "lora"
        assert dict(answer.evals_json) == {"notes.json": '{"rougeL": 0.5}'}
        assert (answer.adapter.tier != tpb.TIER_DISK) == loaded
        server.generate(adapter="pirate")
    error = refused(server.adapters.GetAdapter, apb.GetAdapterRequest(adapter="pirat"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "did you mean pirate" in error.details()


def test_requests_in_flight_finish_on_their_version(server: Server) -> None:
    old = server.generate(adapter="pirate").text
    call = stream(server, long_request("pirate", num_tokens=300))
    started_on = listed(server, name_prefix="pirate")[0].version
    answer = server.adapters.LoadAdapter(
        apb.LoadAdapterRequest(name="pirate", source="pirate-v2"), timeout=30
    )
    assert answer.adapter.version != started_on
    assert answer.load_s > 0
    new = server.generate(adapter="pirate")
    assert new.text != old
    events = list(call)
    assert events[-1].WhichOneof("event") == "finished"
    streamed = "".join(event.delta.text for event in events[:-1])
    assert streamed.startswith(old)
    # The old version left memory with its last request; the store still has it.
    eventually(lambda: server.sample("understudy_adapters", tier="host") == 1)
    tiers = {a.version: a.tier for a in listed(server, name_prefix="pirate")}
    assert tiers == {started_on: tpb.TIER_DISK, answer.adapter.version: tpb.TIER_DEVICE}
    assert server.generate(adapter=f"pirate@{started_on}").text == old
    assert server.generate(adapter="pirate").text == new.text


def test_unload_waits_for_nobody(server: Server) -> None:
    call = stream(server, long_request("pirate", num_tokens=200))
    answer = server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter="pirate"))
    assert answer.num_leases == 1
    error = refused(server.generation.Generate, request_for(adapter="pirate"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "was unloaded" in error.details()
    assert list(call)[-1].WhichOneof("event") == "finished"
    eventually(lambda: idle(server) and server.sample("understudy_adapters", tier="host") == 0)
    eventually(lambda: server.app.engine.stats().slots == ())
    again = server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter="pirate"))
    assert again.num_leases == 0
    server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate"), timeout=30)
    assert server.generate(adapter="pirate").text


def test_unload_of_an_unknown_adapter(server: Server) -> None:
    error = refused(server.adapters.UnloadAdapter, apb.UnloadAdapterRequest(adapter="nobody"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_pin(server: Server) -> None:
    pinned = server.adapters.PinAdapter(apb.PinAdapterRequest(adapter="polite", pinned=True))
    assert pinned.adapter.pinned
    assert pinned.adapter.tier == tpb.TIER_HOST
    unpinned = server.adapters.PinAdapter(apb.PinAdapterRequest(adapter="polite"))
    assert not unpinned.adapter.pinned


def test_what_needs_no_load_does_not_wait_for_one(server: Server) -> None:
    go_on = threading.Event()
    load = server.app._loader.submit(go_on.wait, 60)
    try:
        error = refused(server.generation.Generate, request_for(adapter="nobody"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        unpinned = server.adapters.PinAdapter(apb.PinAdapterRequest(adapter="polite"))
        assert unpinned.adapter.tier == tpb.TIER_DISK
        assert not load.done()
    finally:
        go_on.set()


def test_aliases(server: Server, folders: tuple[Path, Path], artifacts: Artifacts) -> None:
    first = listed(server, name_prefix="pirate")[0].version
    second = publish(artifacts.lora_v2, folders[0], "pirate")
    alias = apb.SetAliasRequest(name="pirate", alias="stable", version=first)
    assert server.adapters.SetAlias(alias).adapter.aliases == ["stable"]
    texts = {ref: server.generate(adapter=f"pirate@{ref}").text for ref in ("stable", "latest")}
    assert texts["stable"] != texts["latest"]
    moved = apb.SetAliasRequest(name="pirate", alias="stable", version=second)
    assert set(server.adapters.SetAlias(moved).adapter.aliases) == {"latest", "stable"}
    assert server.generate(adapter="pirate@stable").text == texts["latest"]
    server.adapters.SetAlias(apb.SetAliasRequest(name="pirate", alias="stable"))
    error = refused(server.generation.Generate, request_for(adapter="pirate@stable"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    for field, request in (
        ("alias", apb.SetAliasRequest(name="pirate", alias="../x", version=first)),
        ("alias", apb.SetAliasRequest(name="pirate", alias="0" * 16, version=first)),
        ("name", apb.SetAliasRequest(name="..", alias="x", version=first)),
        ("name", apb.SetAliasRequest(name="pirate@stable", alias="x", version=first)),
    ):
        error = refused(server.adapters.SetAlias, request)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith(f"{field}: ")
    missing = apb.SetAliasRequest(name="pirate", alias="x", version="0" * 16)
    assert refused(server.adapters.SetAlias, missing).code() is grpc.StatusCode.NOT_FOUND


def test_metrics_tell_where_adapters_were(server: Server) -> None:
    def hits() -> list[float]:
        return [
            server.sample("understudy_adapter_hits_total", tier=tier)
            for tier in ("disk", "host", "device")
        ]

    server.adapters.PinAdapter(apb.PinAdapterRequest(adapter="polite", pinned=True))
    assert server.sample("understudy_lora_adapter_loaded", adapter_name="polite", level="cpu") == 1
    for adapter in ("pirate", "polite", "pirate", "polite", "pirate", ""):
        server.generate(adapter=adapter)
    assert hits() == [1, 1, 3]
    eventually(lambda: server.sample("understudy_adapters", tier="disk") == 2)
    assert server.sample("understudy_adapter_bytes", tier="disk") > 1000
    loads = "understudy_adapter_load_seconds_count"
    assert server.sample(loads, tier="host", source="store") == 2
    assert server.sample(loads, tier="device", source="host") == 2
    server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate", source="pirate-v2"))
    assert server.sample(loads, tier="host", source="path") == 1
    loaded = "understudy_lora_adapter_loaded"
    assert server.sample(loaded, adapter_name="pirate", level="cpu", pinned="false", rank="4") == 1
    assert server.sample(loaded, adapter_name="polite", level="gpu", pinned="true", rank="0") == 1
    slots = server.app.config.engine.num_adapter_slots
    assert server.sample("understudy_lora_requests_info", max_lora=str(slots)) > 0


def test_memory_for_adapters_is_bounded(
    start_server: StartServer, folders: tuple[Path, Path]
) -> None:
    config = AdaptersConfig(store=folders[0], roots=(folders[1],), max_host_bytes=14_000)
    server = start_server(adapters=config)
    for name in ("pirate", "polite", "pirate", "polite"):
        assert server.generate(adapter=name).text
        assert server.sample("understudy_adapter_bytes", tier="host") <= 14_000
    assert server.sample("understudy_adapter_evictions_total", tier="host") == 3
    server.adapters.PinAdapter(apb.PinAdapterRequest(adapter="pirate", pinned=True))
    error = refused(
        server.adapters.LoadAdapter, apb.LoadAdapterRequest(name="other", source="pirate-v2")
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "14000" in error.details()
    assert server.generate(adapter="pirate").text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("../store/pirate", "contains '..'"),
        ("pirate-v2/../../store", "contains '..'"),
        ("/etc", "outside of the adapter folders"),
        ("link", "outside of the adapter folders"),
        ("nowhere", "no such directory"),
        ("a\0b", "printable"),
        ("x" * 2000, "at most 1024"),
        ("x" * 300, "no such directory"),
        ("circle", "no such directory"),
    ],
)
def test_sources_that_are_not_allowed(
    server: Server, folders: tuple[Path, Path], source: str, reason: str
) -> None:
    (folders[1] / "link").symlink_to("/etc")
    (folders[1] / "circle").symlink_to("circle")
    request = apb.LoadAdapterRequest(name="mine", source=source)
    error = refused(server.adapters.LoadAdapter, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("source: ")
    assert reason in error.details()
    assert str(folders[1]) not in error.details()


@pytest.mark.parametrize("name", ["", "base", "Pirate", "pirate@latest", "a/b", "x" * 65, "pіrate"])
def test_names_that_are_not_allowed(server: Server, name: str) -> None:
    request = apb.LoadAdapterRequest(name=name, source="pirate-v2")
    error = refused(server.adapters.LoadAdapter, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("name: ")


def test_adapter_for_another_base(
    server: Server, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    other = make_base(tmp_path / "other", seed=9)
    make_adapter(other, folders[1] / "foreign", lora_config(), name="foreign", seed=1)
    manifest = json.loads((folders[1] / "foreign" / "understudy.json").read_text())
    request = apb.LoadAdapterRequest(name="foreign", source="foreign")
    error = refused(server.adapters.LoadAdapter, request)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert manifest["base_fingerprint"] in error.details()
    assert "'other'" in error.details()
    assert "'tiny'" in error.details()
    assert server.sample("understudy_adapter_load_failures_total") == 1


def test_plain_peft_directory(server: Server, folders: tuple[Path, Path]) -> None:
    (folders[1] / "pirate-v2" / "understudy.json").unlink()
    request = apb.LoadAdapterRequest(name="plain", source="pirate-v2", pin=True)
    adapter = server.adapters.LoadAdapter(request, timeout=30).adapter
    assert len(adapter.version) == 16
    assert adapter.pinned
    assert adapter.base_fingerprint == ""
    assert "could not be checked" in adapter.warnings[0]
    prompt = tpb.Input(text="noon")
    assert server.generate(adapter="plain", input=prompt).text
    assert server.adapters.GetAdapter(apb.GetAdapterRequest(adapter="plain")).manifest_json == ""


def test_loads_unloads_and_requests_at_once(server: Server, folders: tuple[Path, Path]) -> None:
    """Every answer is that of one of the versions, whole; nothing is left behind."""
    texts = {server.generate(adapter="pirate").text}
    server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate", source="pirate-v2"))
    texts.add(server.generate(adapter="pirate").text)
    assert len(texts) == 2
    swapping = threading.Event()

    def swap() -> None:
        for number in range(24):
            source = ("pirate-v2", "")[number % 2]
            server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate", source=source))
            if number % 5 == 0:
                server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter="pirate"))
        swapping.set()

    def ask() -> list[str]:
        answers = []
        while not swapping.is_set():
            call = server.generation.Generate.future(request_for(adapter="pirate"), timeout=30)
            answers.append(
                call.result().generations[0].text
                if call.code() is grpc.StatusCode.OK
                else call.code().name
            )
        return answers

    with ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        pool.submit(swap).result()
        answers = [answer for future in asking for answer in future.result()]
    assert set(answers) <= texts | {"NOT_FOUND"}
    assert len(set(answers)) >= 2
    eventually(lambda: idle(server))
    assert server.sample("understudy_adapters", tier="host") <= 1
