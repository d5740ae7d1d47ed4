"""LoadAdapter from elsewhere, beside requests that run."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.config import AdaptersConfig
from tests.server.adapters.test_remote import Site, body, status
from tests.server.rpc.conftest import Artifacts, Server, StartServer
from tests.server.rpc.test_adapters import refused
from tests.server.rpc.test_lifecycle import eventually
from understudy import store
from understudy.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import types_pb2 as tpb

NAMES = (CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE)


@pytest.fixture
def site(artifacts: Artifacts) -> Iterator[Site]:
    """Serves two versions of an adapter."""
    server = Site()
    for folder, source in (("v1", artifacts.lora), ("v2", artifacts.lora_v2)):
        server.put(folder, {name: (source / name).read_bytes() for name in NAMES})
    yield server
    server.close()


@pytest.fixture
def server(start_server: StartServer, site: Site, tmp_path: Path) -> Server:
    config = AdaptersConfig(store=tmp_path / "store", remote_sources=(site.url,))
    return start_server(adapters=config)


def load(server: Server, source: str, name: str = "mine") -> tpb.Adapter:
    request = apb.LoadAdapterRequest(name=name, source=source)
    return server.adapters.LoadAdapter(request, timeout=30).adapter


def load_refused(server: Server, source: str) -> Any:
    return refused(server.adapters.LoadAdapter, apb.LoadAdapterRequest(name="mine", source=source))


def test_what_is_fetched_is_published(
    server: Server, site: Site, artifacts: Artifacts, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    first = load(server, f"{site.url}/v1")
    assert first.tier == tpb.TIER_HOST
    text = server.generate(adapter="mine").text
    second = load(server, f"{site.url}/v2")
    assert store.versions(root, "mine") == [second.version, first.version]
    assert store.aliases(root, "mine") == {"latest": second.version}
    assert server.generate(adapter="mine").text != text
    assert server.generate(adapter=f"mine@{first.version}").text == text
    for version in (first.version, second.version):
        store.verify_version(root, "mine", version)
    assert list((root / ".downloads").glob(".download-*")) == []
    details = server.adapters.GetAdapter(apb.GetAdapterRequest(adapter="mine"))
    assert json.loads(details.manifest_json)["method"] == "lora"
    assert server.sample("understudy_adapter_load_seconds_count", source="http") == 2
    assert server.sample("understudy_adapter_download_seconds_count", source="http") == 2
    assert server.sample("understudy_adapter_download_failures_total") == 0


def test_without_a_store_it_stays_in_memory(
    start_server: StartServer, site: Site, artifacts: Artifacts
) -> None:
    server = start_server(adapters=AdaptersConfig(remote_sources=(f"{site.url}/v1",)))
    version = load(server, f"{site.url}/v1").version
    assert server.generate(adapter=f"mine@{version}").text
    error = load_refused(server, f"{site.url}/v2")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "adapters.remote_sources" in error.details()


def test_a_plain_peft_folder_is_not_published(server: Server, site: Site, tmp_path: Path) -> None:
    del site.answers[f"/v1/{MANIFEST_FILE}"]
    adapter = load(server, f"{site.url}/v1")
    assert "could not be checked" in adapter.warnings[0]
    assert server.generate(adapter="mine", input=tpb.Input(text="noon")).text
    assert store.names(tmp_path / "store") == []


def test_a_store_that_cannot_be_written_is_no_obstacle(
    start_server: StartServer, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    config = AdaptersConfig(
        store=tmp_path / "file", cache=tmp_path / "cache", remote_sources=(site.url,)
    )
    server = start_server(adapters=config)
    load(server, f"{site.url}/v1")
    assert server.generate(adapter="mine").text


def test_what_is_refused_is_not_published(server: Server, site: Site, tmp_path: Path) -> None:
    for path, answer, code in (
        (f"/v1/{TENSORS_FILE}", body(b"\x80\x04pickle"), grpc.StatusCode.FAILED_PRECONDITION),
        (f"/v1/{TENSORS_FILE}", status(404), grpc.StatusCode.NOT_FOUND),
        (f"/v1/{CONFIG_FILE}", body(b'{"peft_type": "LORA"}'), grpc.StatusCode.FAILED_PRECONDITION),
        (f"/v1/{CONFIG_FILE}", status(500), grpc.StatusCode.UNAVAILABLE),
    ):
        before = site.answers[path]
        site.answers[path] = answer
        error = load_refused(server, f"{site.url}/v1")
        assert error.code() is code, error.details()
        assert str(tmp_path) not in error.details()
        site.answers[path] = before
    error = load_refused(server, "https://elsewhere/v1")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("source: ")
    # Two came and were refused when they were read; what is not allowed was not asked for.
    assert server.sample("understudy_adapter_load_failures_total", source="http") == 2
    assert server.sample("understudy_adapter_download_failures_total", source="http") == 2
    assert server.sample("understudy_adapter_download_seconds_count", source="http") == 2
    assert store.names(tmp_path / "store") == []
    assert list((tmp_path / "store" / ".downloads").glob(".download-*")) == []
    assert load(server, f"{site.url}/v1").version


def test_requests_and_loads_go_on_while_one_downloads(
    server: Server, site: Site, artifacts: Artifacts, tmp_path: Path
) -> None:
    store.publish(artifacts.prompt, tmp_path / "store", "polite")
    asked, go = threading.Event(), threading.Event()
    answer = site.answers[f"/v1/{TENSORS_FILE}"]

    def wait_then_answer(handler: Any) -> None:
        asked.set()
        go.wait(30)
        answer(handler)

    site.answers[f"/v1/{TENSORS_FILE}"] = wait_then_answer
    call = server.adapters.LoadAdapter.future(
        apb.LoadAdapterRequest(name="mine", source=f"{site.url}/v1"), timeout=30
    )
    assert asked.wait(30)
    began = time.monotonic()
    # The base, an adapter that is loaded now, and a download that overtakes.
    assert server.generate().text
    assert server.generate(adapter="polite").text
    assert load(server, f"{site.url}/v2", "other").version
    assert not call.done()
    waited = time.monotonic() - began
    # Whoever leaves takes nothing along: it is loaded and cleared away all the same.
    call.cancel()
    go.set()
    eventually(lambda: store.names(tmp_path / "store") == ["mine", "other", "polite"])
    eventually(lambda: not list((tmp_path / "store" / ".downloads").glob(".download-*")))
    eventually(lambda: bool(server.generate(adapter="mine").text))
    # The wait for the other side is the download's, and not the load's.
    assert server.sample("understudy_adapter_download_seconds_sum", source="http") >= waited
