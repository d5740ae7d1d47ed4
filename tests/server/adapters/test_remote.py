"""What may be fetched, and how much of it, from real servers on this machine."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from server.adapters import remote
from server.adapters.remote import RemoteLimits, RemoteSources
from server.adapters.transports import RemoteFile
from server.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    DrainingError,
    InvalidRequestError,
    ServerError,
    SourceUnavailableError,
    StartupError,
)
from tests.server.adapters.site import (
    FILES,
    LIMITS,
    Site,
    body,
    dripping,
    endless,
    fetch,
    silent,
    stalled,
    status,
)
from understudy.artifact import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Manifest,
)
from understudy.locks import StoreLocks


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    server.put("ok/adapter")
    yield server
    server.close()


@pytest.fixture
def sources(site: Site, tmp_path: Path) -> RemoteSources:
    return RemoteSources((f"{site.url}/ok",), tmp_path / "cache", LIMITS)


def test_only_the_three_files_are_fetched(site: Site, sources: RemoteSources) -> None:
    site.put("ok/adapter", {"adapter_model.bin": b"pickle", "run.json": b"{}"})
    assert fetch(sources, f"{site.url}/ok/adapter") == FILES
    assert site.asked == [
        f"/ok/adapter/{name}" for name in (CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE)
    ]


def test_a_plain_peft_folder_has_no_manifest(site: Site, sources: RemoteSources) -> None:
    del site.answers[f"/ok/adapter/{MANIFEST_FILE}"]
    assert set(fetch(sources, f"{site.url}/ok/adapter/")) == {CONFIG_FILE, TENSORS_FILE}


def test_a_tokenizer_comes_where_it_belongs_to_the_adapter(
    site: Site, sources: RemoteSources
) -> None:
    manifest = Manifest(
        name="mine",
        method="lora",
        base_fingerprint="f",
        base_name="b",
        base_architecture="a",
        quantization="nf4",
        files=dict.fromkeys((CONFIG_FILE, TENSORS_FILE, TOKENIZER_FILE), "0"),
        content_hash="0",
    )
    text = {TOKENIZER_FILE: b"{}", TOKENIZER_CONFIG_FILE: b"[]"}
    site.put("ok/added", FILES | text | {MANIFEST_FILE: manifest.to_json().encode()})
    listed = fetch(sources, f"{site.url}/ok/added")
    assert listed.keys() == {*FILES, TOKENIZER_FILE}
    # PEFT's directory alone.
    del site.answers[f"/ok/added/{MANIFEST_FILE}"]
    plain = fetch(sources, f"{site.url}/ok/added")
    assert plain.keys() == {CONFIG_FILE, TENSORS_FILE, *text}


def test_the_sha256_of_the_tensors(site: Site, sources: RemoteSources) -> None:
    sha256 = hashlib.sha256(FILES[TENSORS_FILE]).hexdigest()
    assert fetch(sources, f"{site.url}/ok/adapter?sha256={sha256}") == FILES
    with pytest.raises(AdapterRefusedError, match=f"sha256 is {sha256}"):
        fetch(sources, f"{site.url}/ok/adapter?sha256={'0' * 64}")


@pytest.mark.parametrize(
    ("file_name", "answer", "error", "reason"),
    [
        (CONFIG_FILE, status(404), AdapterNotFoundError, f"no {CONFIG_FILE}"),
        (TENSORS_FILE, status(410), AdapterNotFoundError, f"no {TENSORS_FILE}"),
        (MANIFEST_FILE, status(403), AdapterRefusedError, "access is denied"),
        (CONFIG_FILE, status(401), AdapterRefusedError, "access is denied"),
        (CONFIG_FILE, status(500), SourceUnavailableError, "HTTPError"),
        (CONFIG_FILE, body(b"x", 4 << 21), AdapterRefusedError, "more than the 1048576 bytes"),
        (TENSORS_FILE, body(b"x", 10_001), AdapterRefusedError, "more than the 10000 bytes"),
        (TENSORS_FILE, endless, AdapterRefusedError, "more than the 10000 bytes"),
        (TENSORS_FILE, body(b"x" * 99, 100), SourceUnavailableError, "IncompleteRead|Connection"),
        (
            CONFIG_FILE,
            status(302, "/ok/adapter/adapter_config.json"),
            SourceUnavailableError,
            "HTTPError",
        ),
        (CONFIG_FILE, status(302, "/private/x"), AdapterRefusedError, "denied"),
        (CONFIG_FILE, status(302, "/ok/../private"), AdapterRefusedError, "denied"),
        (CONFIG_FILE, status(307, "http://localhost:1/ok/x"), AdapterRefusedError, "denied"),
        (CONFIG_FILE, status(301, "file:///etc/passwd"), SourceUnavailableError, "HTTPError"),
    ],
)
def test_what_goes_wrong_is_told_and_leaves_nothing(
    site: Site,
    sources: RemoteSources,
    tmp_path: Path,
    file_name: str,
    answer: Callable[[BaseHTTPRequestHandler], None],
    error: type[ServerError],
    reason: str,
) -> None:
    site.answers[f"/ok/adapter/{file_name}"] = answer
    with pytest.raises(error, match=reason) as caught:
        fetch(sources, f"{site.url}/ok/adapter")
    assert str(tmp_path) not in str(caught.value)
    assert [path for path in (tmp_path / "cache").iterdir() if path.name != ".locks"] == []
    assert not any(path.startswith("/private") for path in site.asked)


def test_a_redirect_within_what_is_allowed(site: Site, sources: RemoteSources) -> None:
    site.answers["/ok/moved/adapter_config.json"] = status(
        302, "/ok/adapter/adapter_config.json?v=1"
    )
    site.put("ok/moved", {name: FILES[name] for name in (MANIFEST_FILE, TENSORS_FILE)})
    assert fetch(sources, f"{site.url}/ok/moved") == FILES


def test_another_host_only_if_it_is_allowed_too(site: Site, tmp_path: Path) -> None:
    other = Site()
    try:
        other.put("files/adapter")
        for name in FILES:
            site.answers[f"/ok/adapter/{name}"] = status(302, f"{other.url}/files/adapter/{name}")
        with pytest.raises(AdapterRefusedError):
            fetch(RemoteSources((site.url,), None, LIMITS), f"{site.url}/ok/adapter")
        assert other.asked == []
        both = RemoteSources((site.url, f"{other.url}/files"), None, LIMITS)
        assert fetch(both, f"{site.url}/ok/adapter") == FILES
    finally:
        other.close()


def test_a_download_takes_so_long_and_no_longer(site: Site, tmp_path: Path) -> None:
    site.answers[f"/ok/adapter/{TENSORS_FILE}"] = endless
    sources = RemoteSources((site.url,), tmp_path, RemoteLimits(1 << 30, 0.3))
    started = time.monotonic()
    with pytest.raises(SourceUnavailableError, match=r"download_timeout_s is 0\.3"):
        fetch(sources, f"{site.url}/ok/adapter")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("file_name", [CONFIG_FILE, TENSORS_FILE])
@pytest.mark.parametrize("answer", [silent, dripping, stalled])
def test_a_source_that_stalls_takes_no_longer_either(
    site: Site,
    tmp_path: Path,
    file_name: str,
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    site.answers[f"/ok/adapter/{file_name}"] = answer
    sources = RemoteSources((site.url,), tmp_path, RemoteLimits(1 << 30, 0.5))
    started = time.monotonic()
    with pytest.raises(SourceUnavailableError, match=r"download_timeout_s is 0\.5"):
        fetch(sources, f"{site.url}/ok/adapter")
    assert time.monotonic() - started < 5
    # The connection is no longer open either.
    assert site.gone.wait(5)


def test_a_transport_that_hangs_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as a library that has no timeouts of its own."""
    go_on = threading.Event()

    def hang(*_: object) -> RemoteFile:
        go_on.wait(60)
        raise ConnectionError

    monkeypatch.setitem(remote.TRANSPORTS, "s3", hang)
    sources = RemoteSources(("s3://bucket",), tmp_path, RemoteLimits(1 << 30, 0.2))
    with pytest.raises(SourceUnavailableError, match=r"download_timeout_s is 0\.2"):
        fetch(sources, "s3://bucket/x")
    assert list(tmp_path.glob(".download-*")) == []
    go_on.set()


@pytest.mark.parametrize("answer", [endless, silent, dripping])
def test_a_server_that_stops_ends_its_downloads(
    site: Site, tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    site.answers[f"/ok/adapter/{TENSORS_FILE}"] = answer
    sources = RemoteSources((site.url,), tmp_path, RemoteLimits(1 << 30, 60.0))
    threading.Timer(0.2, sources.close).start()
    started = time.monotonic()
    with pytest.raises(DrainingError):
        fetch(sources, f"{site.url}/ok/adapter")
    assert time.monotonic() - started < 10
    with pytest.raises(DrainingError):
        fetch(sources, f"{site.url}/ok/adapter")


def test_nobody_there(tmp_path: Path) -> None:
    sources = RemoteSources(("http://127.0.0.1:1",), tmp_path, LIMITS)
    with pytest.raises(SourceUnavailableError, match="URLError"):
        fetch(sources, "http://127.0.0.1:1/x")


def test_what_a_killed_server_left_is_removed(site: Site, tmp_path: Path) -> None:
    sources = RemoteSources((site.url,), tmp_path, LIMITS)
    for name in (".download-1", ".download-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG_FILE).write_text("{}")
    with StoreLocks(tmp_path) as other:
        other.take(".download-2")
        fetch(sources, f"{site.url}/ok/adapter")
        assert [path.name for path in tmp_path.glob(".download-*")] == [".download-2"]


def test_a_cache_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sources = RemoteSources((site.url,), tmp_path / "file", LIMITS)
    with pytest.raises(AdapterRefusedError, match=r"adapters\.cache") as caught:
        fetch(sources, f"{site.url}/ok/adapter")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("https://host/a", True),
        ("HTTPS://host/a", None),
        ("https://HOST/a/", True),
        ("https://host:443/a/b/c", True),
        ("https://host:444/a", False),
        ("https://host/ab", False),
        ("https://host/", False),
        ("https://host.evil.org/a", False),
        ("http://host/a", False),
        ("https://host@evil.org/a", None),
        ("https://user:password@host/a", None),
        ("https://host/a/../b", None),
        ("https://host/a/./b", None),
        ("https://host/a//b", None),
        ("https://host/a/%2e%2e/b", None),
        ("https://host/a\\..\\b", None),
        ("https://host/a b", None),
        ("https://host/a#b", None),
        ("https://host/a\n", None),
        ("https://hоst/a", None),
        ("https://[::1]/a", None),
        ("https:///a", None),
        ("https://host/" + "a" * 2000, None),
        ("s3://bucket/folder/x", True),
        ("s3://bucket/folder-2", False),
        ("s3://bucket/folder::file:///etc", None),
        ("s3://Bucket/folder/x", False),
        ("hf://org/repo", True),
        ("hf://org/repo@main", True),
        ("hf://org/repo@v1.0/sub/folder", True),
        ("hf://org/repo2", False),
        ("hf://datasets/org/repo", None),
        ("hf://org/repo@a@b", None),
        ("hf://pinned/repo@v1", True),
        ("hf://pinned/repo@v1/sub", True),
        ("hf://pinned/repo@v2", False),
        ("hf://pinned/repo", False),
        ("file:///etc/passwd", None),
        ("gs://bucket/x", False),
        ("simplecache::s3://bucket/folder", None),
    ],
)
def test_what_is_allowed(source: str, allowed: bool | None) -> None:
    """True: below a prefix; False: not; None: not a source at all."""
    prefixes = ("https://Host:443/a/", "s3://bucket/folder", "hf://org/repo", "hf://pinned/repo@v1")
    sources = RemoteSources(prefixes, None, LIMITS)
    if allowed:
        assert sources.check(source)[1] == ""
        return
    with pytest.raises(InvalidRequestError) as caught:
        sources.check(source)
    assert caught.value.field == "source"
    assert ("is not below" in str(caught.value)) == (allowed is False)


@pytest.mark.parametrize(
    "query",
    ["sha256=", "sha256=abc", "sha256=" + "A" * 64, "version=1", "sha256=" + "a" * 64 + "&x"],
)
def test_queries(query: str) -> None:
    sources = RemoteSources(("https://host",), None, LIMITS)
    with pytest.raises(InvalidRequestError, match="sha256=HEX"):
        sources.check(f"https://host/a?{query}")


def test_prefixes_are_checked_at_the_start() -> None:
    for prefix in ("https://", "ftp://host", "host/path", "s3://a/../b"):
        with pytest.raises(StartupError, match="remote_sources"):
            RemoteSources((prefix,), None, LIMITS)


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(InvalidRequestError, match=r"configure adapters\.remote_sources"):
        RemoteSources((), None, LIMITS).check("https://host/a")
