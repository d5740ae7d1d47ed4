"""Adapters from object stores and hubs, through fsspec."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import known_implementations

from server.adapters import remote as module
from server.adapters.remote import RemoteSources
from server.adapters.transports import open_object
from server.errors import AdapterNotFoundError, AdapterRefusedError
from tests.server.adapters.site import FILES, LIMITS, Site, body, fetch, status
from understudy.artifact import CONFIG_FILE, TENSORS_FILE

COMMIT = "a" * 40


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    server.put("ok/adapter")
    yield server
    server.close()


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
