"""A server beside others that work on its store: publishers and garbage collection."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from server.config import AdaptersConfig
from tests.server.rpc.conftest import Artifacts, Server, StartServer, finish, request_for
from tests.server.rpc.test_adapters import refused
from tests.server.rpc.test_lifecycle import eventually, idle, long_request, stream
from understudy import store
from understudy.garbage import Policy, collect
from understudy.v1 import adapter_service_pb2 as apb


@pytest.fixture
def root(artifacts: Artifacts, tmp_path: Path) -> Path:
    """A store with two versions of `pirate`, the second `latest`, and one of `polite`."""
    for source, name in (
        (artifacts.lora, "pirate"), (artifacts.lora_v2, "pirate"), (artifacts.prompt, "polite"),
    ):  # fmt: skip
        store.publish(source, tmp_path / "store", name)
    return tmp_path / "store"


@pytest.fixture
def server(start_server: StartServer, root: Path) -> Server:
    return start_server(adapters=AdaptersConfig(store=root))


def removed(root: Path) -> set[str]:
    """Collects all that nobody needs."""
    return {v.version for v in collect(root, Policy(keep=0, min_age_s=0)) if v.removed}


def versions(root: Path) -> tuple[str, str]:
    """The old and the new version of `pirate`."""
    new, old = store.versions(root, "pirate")
    return old, new


def test_what_is_in_memory_is_not_collected(server: Server, root: Path) -> None:
    old, _ = versions(root)
    text = server.generate(adapter=f"pirate@{old}").text
    assert removed(root) == set()
    assert server.generate(adapter=f"pirate@{old}").text == text
    call = stream(server, long_request(f"pirate@{old}", num_tokens=200))
    server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter=f"pirate@{old}"))
    # Out of service, and still in the memory of the request that runs on it.
    assert removed(root) == set()
    assert list(call)[-1].WhichOneof("event") == "finished"
    eventually(lambda: idle(server) and server.sample("understudy_adapters", tier="host") == 0)
    assert removed(root) == {old}
    error = refused(server.generation.Generate, request_for(adapter=f"pirate@{old}"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_what_was_collected_is_not_found(server: Server, root: Path) -> None:
    old, new = versions(root)
    listed = server.adapters.ListAdapters(apb.ListAdaptersRequest(name_prefix="pirate")).adapters
    assert [adapter.version for adapter in listed] == [new, old]
    assert removed(root) == {old}
    listed = server.adapters.ListAdapters(apb.ListAdaptersRequest(name_prefix="pirate")).adapters
    assert [adapter.version for adapter in listed] == [new]
    error = refused(server.generation.Generate, request_for(adapter=f"pirate@{old}"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert f"pirate@{old}" in error.details()
    error = refused(server.adapters.GetAdapter, apb.GetAdapterRequest(adapter=f"pirate@{old}"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert server.generate(adapter="pirate").text


def test_what_was_evicted_may_be_collected(start_server: StartServer, root: Path) -> None:
    """And a server that stops lets everything go."""
    old, new = versions(root)
    server = start_server(adapters=AdaptersConfig(store=root, max_host_bytes=14_000))
    server.generate(adapter=f"pirate@{old}")
    server.generate(adapter=f"pirate@{new}")
    assert server.sample("understudy_adapters", tier="host") == 1
    assert removed(root) == {old}
    store.set_alias(root, "polite", "other", store.versions(root, "polite")[0])
    store.remove_alias(root, "pirate", "latest")
    assert removed(root) == set()
    finish(server)
    assert removed(root) == {new}


def test_two_servers_each_hold_their_own(start_server: StartServer, root: Path) -> None:
    old, _ = versions(root)
    first, second = (start_server(adapters=AdaptersConfig(store=root)) for _ in range(2))
    for server in (first, second):
        server.generate(adapter=f"pirate@{old}")
    for server in (first, second):
        assert removed(root) == set()
        server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter=f"pirate@{old}"))
        eventually(lambda server=server: server.sample("understudy_adapters", tier="host") == 0)
    assert removed(root) == {old}


def test_a_store_that_cannot_be_locked_serves(
    start_server: StartServer, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / ".locks").unlink()
    (root / ".locks").symlink_to("circle")
    server = start_server(adapters=AdaptersConfig(store=root))
    for name in ("pirate", "polite"):
        assert server.generate(adapter=name).text
    warnings = [r.message for r in caplog.records if "garbage collection" in r.message]
    assert len(warnings) == 1


def latest(server: Server, name: str = "pirate") -> str:
    """The version that a bare name means to a request."""
    request = request_for(adapter=name)
    return server.generation.Generate(request, timeout=30).adapter.version


def test_set_alias_latest_moves_the_name(server: Server, root: Path) -> None:
    old, new = versions(root)
    assert latest(server) == new
    answer = server.adapters.SetAlias(
        apb.SetAliasRequest(name="pirate", alias="latest", version=old)
    )
    assert answer.adapter.version == old
    assert latest(server) == old
    assert store.aliases(root, "pirate") == {"latest": old}
    # A version that cannot be read moves nothing.
    (root / "pirate" / new / "adapter_model.safetensors").write_bytes(b"")
    error = refused(
        server.adapters.SetAlias, apb.SetAliasRequest(name="pirate", alias="latest", version=new)
    )
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert store.aliases(root, "pirate") == {"latest": old}
    assert latest(server) == old


@pytest.fixture
def locked(root: Path) -> Iterator[Callable[[], object]]:
    """Another process writes to `pirate`, until the function is called."""
    code = (
        "import sys, pathlib; from understudy.locks import StoreLocks\n"
        "with StoreLocks(pathlib.Path(sys.argv[1])).held('pirate'): print(flush=True); input()"
    )
    arguments = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.kill
        process.kill()


def test_a_cold_adapter_does_not_wait_for_an_alias(
    start_server: StartServer, root: Path, artifacts: Artifacts, request: pytest.FixtureRequest
) -> None:
    """One that waits for another process, and what follows the store waits for that."""
    server = start_server(adapters=AdaptersConfig(store=root, watch_store_s=0.05))
    old, new = versions(root)
    assert latest(server) == new
    assert server.generate(adapter="polite").text
    release = request.getfixturevalue("locked")
    call = server.adapters.SetAlias.future(
        apb.SetAliasRequest(name="pirate", alias="latest", version=old), timeout=60
    )
    # Read by then, and not moved yet.
    eventually(lambda: server.sample("understudy_adapter_load_seconds_count", source="store") == 3)
    published = store.publish(artifacts.lora, root, "polite")
    store.publish(artifacts.prompt, root, "cold")
    eventually(lambda: server.app._mover._work_queue.qsize() == 1)
    assert server.generate(adapter="cold").text
    assert latest(server) == new
    assert not call.done()
    release()
    assert call.result().adapter.version == old
    assert latest(server) == old
    eventually(lambda: latest(server, "polite") == published)


def test_watching(
    start_server: StartServer, root: Path, artifacts: Artifacts, tmp_path: Path
) -> None:
    """A name follows the store while its version came from there."""
    old, new = versions(root)
    config = AdaptersConfig(store=root, roots=(tmp_path / "uploads",), watch_store_s=0.05)
    server = start_server(adapters=config)
    shutil.copytree(artifacts.lora, tmp_path / "uploads" / "mine")
    assert latest(server) == new
    store.set_alias(root, "pirate", "latest", old)
    eventually(lambda: latest(server) == old)
    store.set_alias(root, "pirate", "latest", new)
    eventually(lambda: latest(server) == new)
    # Not after it was read from elsewhere, until it is loaded from the store again.
    server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate", source="mine"))
    assert latest(server) == old
    time.sleep(0.3)
    assert latest(server) == old
    server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate"))
    assert latest(server) == new
    store.set_alias(root, "pirate", "latest", old)
    eventually(lambda: latest(server) == old)
    # What was unloaded stays so.
    server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter="pirate"))
    store.set_alias(root, "pirate", "latest", new)
    time.sleep(0.3)
    error = refused(server.generation.Generate, request_for(adapter="pirate"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_a_name_whose_version_was_collected_means_the_next(
    start_server: StartServer, root: Path
) -> None:
    old, new = versions(root)
    server = start_server(adapters=AdaptersConfig(store=root, max_host_bytes=14_000))
    assert latest(server) == new
    server.generate(adapter=f"pirate@{old}")
    store.set_alias(root, "pirate", "latest", old)
    assert removed(root) == {new}
    assert latest(server) == old
    assert latest(server) == old
