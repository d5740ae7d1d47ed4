"""What may be fetched, and how much of it, from real servers on this machine."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import known_implementations

from server.adapters import remote as module
from server.adapters.remote import RemoteLimits, RemoteSources
from server.adapters.transports import open_object
from server.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    DrainingError,
    InvalidRequestError,
    ServerError,
    SourceUnavailableError,
    StartupError,
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

FILES = {CONFIG_FILE: b'{"r": 1}', MANIFEST_FILE: b'{"format": 1}', TENSORS_FILE: b"tensors" * 999}
LIMITS = RemoteLimits(max_bytes=10_000, timeout_s=20.0)
COMMIT = "a" * 40


class Site:
    """An HTTP server whose answers a test may replace, path by path."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                site.asked.append(path)
                site.answers.get(path, lambda handler: handler.send_error(404))(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def put(self, folder: str, files: dict[str, bytes] = FILES) -> None:
        for name, data in files.items():
            self.answers[f"/{folder}/{name}"] = body(data)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def body(data: bytes, announced: int | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def status(code: int, location: str = "") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        if location:
            handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Never says how much comes, and never stops, slowly."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 100)
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    server.put("ok/adapter")
    yield server
    server.close()


@pytest.fixture
def sources(site: Site, tmp_path: Path) -> RemoteSources:
    return RemoteSources((f"{site.url}/ok",), tmp_path / "cache", LIMITS)


def fetch(sources: RemoteSources, source: str) -> dict[str, bytes]:
    """The files that came; the folder is gone afterwards."""
    with sources.fetched("mine", source) as folder:
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not folder.exists()
    return found


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


def test_a_server_that_stops_ends_its_downloads(site: Site, tmp_path: Path) -> None:
    site.answers[f"/ok/adapter/{TENSORS_FILE}"] = endless
    sources = RemoteSources((site.url,), tmp_path, RemoteLimits(1 << 30, 60.0))
    threading.Timer(0.2, sources.close).start()
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


def test_object_stores_through_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own file system in memory, in the place of one that needs an account."""
    monkeypatch.setitem(module.TRANSPORTS, "memory", open_object)
    files = fsspec.filesystem("memory")
    for name, data in FILES.items():
        files.pipe(f"/bucket/adapter/{name}", data)
    try:
        sources = RemoteSources(("memory://bucket",), tmp_path, LIMITS)
        assert fetch(sources, "memory://bucket/adapter") == FILES
        with pytest.raises(AdapterNotFoundError):
            fetch(sources, "memory://bucket/nothing")
        files.pipe(f"/bucket/adapter/{TENSORS_FILE}", b"x" * 10_001)
        with pytest.raises(AdapterRefusedError, match="more than the 10000 bytes"):
            fetch(sources, "memory://bucket/adapter")
        files.mkdir(f"/bucket/strange/{CONFIG_FILE}")
        with pytest.raises(AdapterNotFoundError):
            fetch(sources, "memory://bucket/strange")
    finally:
        files.rm("/bucket", recursive=True)


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine without the extra, whatever is installed here.
    monkeypatch.setitem(
        known_implementations,
        "s3",
        {"class": "no_such_package.S3FileSystem", "err": "Install s3fs to access S3"},
    )
    sources = RemoteSources(("s3://bucket",), tmp_path, LIMITS)
    with pytest.raises(
        AdapterRefusedError, match=r"s3://.*pip install 'understudy-suite\[remote\]'"
    ):
        fetch(sources, "s3://bucket/adapter")


def test_the_hub(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository on a Hub of our own: the revision is resolved once, to one commit."""

    def answer_json(value: Any) -> Callable[[BaseHTTPRequestHandler], None]:
        return body(json.dumps(value).encode())

    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": site.url, "token": False})
    repo = {"id": "org/repo", "sha": COMMIT, "siblings": [], "tags": [], "private": False}
    for revision in ("main", COMMIT):
        site.answers[f"/api/models/org/repo/revision/{revision}"] = answer_json(repo)
    site.answers[f"/api/models/org/repo/tree/{COMMIT}/sub"] = answer_json(
        [
            {"type": "file", "path": f"sub/{name}", "size": len(data), "oid": "0" * 40}
            for name, data in FILES.items()
        ]
    )
    for name, data in FILES.items():
        site.answers[f"/org/repo/resolve/{COMMIT}/sub/{name}"] = body(data)
    sources = RemoteSources(("hf://org",), tmp_path, LIMITS)
    assert fetch(sources, "hf://org/repo@main/sub") == FILES
    assert sum("revision/main" in path for path in site.asked) == 1
    for missing in ("hf://org/other/sub", "hf://org/repo@v9/sub"):
        with pytest.raises(AdapterNotFoundError):
            fetch(sources, missing)
    site.answers["/api/models/org/gated"] = status(403)
    with pytest.raises(AdapterRefusedError, match="access is denied"):
        fetch(sources, "hf://org/gated")
