"""Streams of files from elsewhere: over HTTP, or through fsspec for object stores and the Hub.

A transport opens one file: `open_file(url, file_name, allowed, deadline)` gives a `RemoteFile`. It
raises FileNotFoundError, PermissionError, ModuleNotFoundError naming the package that is missing,
or whatever its library raises.
"""

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPResponse
from typing import IO, Any

from server.adapters.deadline import Deadline

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An open file elsewhere."""

    size_bytes: int | None
    """As announced; None where it is not."""
    read: Callable[[int], bytes]
    """Up to so many bytes, soon; empty at the end."""
    close: Callable[[], None]


Transport = Callable[[str, str, Callable[[str], bool], Deadline], RemoteFile]


def open_http(
    url: str, file_name: str, allowed: Callable[[str], bool], deadline: Deadline
) -> RemoteFile:
    """A file below an `http://` or `https://` URL. Redirects go only where `allowed` says."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(deadline),
        _Https(deadline),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(allowed),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(f"{url}/{file_name}", headers={"User-Agent": "understudy"})
    try:
        response: HTTPResponse = opener.open(request, timeout=deadline.stall_s())
    except urllib.error.HTTPError as error:
        error.close()
        _raise_status(error.code)
        raise
    length = response.headers.get("Content-Length")
    size = int(length) if length is not None and length.isdigit() else None
    # Not `read`, which waits until all that it asks for is there.
    return RemoteFile(size, response.read1, response.close)


class _Watched(urllib.request.AbstractHTTPHandler):
    """Lets the deadline end its connections."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def do_open(self, http_class: Any, req: Any, **http_conn_args: Any) -> HTTPResponse:
        """As urllib's own."""
        deadline = self._deadline

        class Connection(http_class):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                deadline.watch(self.sock)

        return super().do_open(Connection, req, **http_conn_args)


class _Http(_Watched, urllib.request.HTTPHandler):
    pass


class _Https(_Watched, urllib.request.HTTPSHandler):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Refuses what the configuration does not allow, another host above all."""
        if not self._allowed(newurl):
            fp.close()
            raise PermissionError("it redirects to where this server may not read")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def open_object(
    url: str, file_name: str, allowed: Callable[[str], bool], deadline: Deadline
) -> RemoteFile:
    """A file below a URL of any file system that fsspec knows, such as `s3://` and `gs://`."""
    scheme = url.split("://", 1)[0]
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(f"{url}/{file_name}", skip_instance_cache=True)
    except ImportError as error:
        raise ModuleNotFoundError(f"fsspec's package for {scheme}://") from error
    return _opened(files, path, _BLOCK_BYTES)


def open_hub(
    url: str, file_name: str, allowed: Callable[[str], bool], deadline: Deadline
) -> RemoteFile:
    """A file of a model repository: `hf://org/repo[@revision][/folder]`."""
    from fsspec.core import url_to_fs
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files, path = url_to_fs(f"{url}/{file_name}", skip_instance_cache=True)
        # No blocks: one stream from the beginning to the end.
        return _opened(files, path, 0)
    except HfHubHTTPError as error:
        _raise_status(error.response.status_code)
        raise


def _opened(files: Any, path: str, block_bytes: int) -> RemoteFile:
    info = files.info(path)
    if info.get("type") != "file":
        raise FileNotFoundError(path)
    file = files.open(path, "rb", block_size=block_bytes)
    return RemoteFile(info.get("size"), file.read, file.close)


def pin_revision(url: str, deadline: Deadline) -> str:
    """A Hub URL with the commit that its revision means now: all files of one download match."""
    from fsspec.core import url_to_fs
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    files, path = url_to_fs(url, skip_instance_cache=True)
    org, rest = path.split("/", 1)
    repo, _, folder = rest.partition("/")
    repo, _, revision = repo.partition("@")
    api = HfApi(endpoint=files.endpoint, token=files.token)
    try:
        name, timeout_s = f"{org}/{repo}", deadline.stall_s()
        info = api.model_info(name, revision=revision or None, timeout=timeout_s)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(url) from error
    except HfHubHTTPError as error:
        _raise_status(error.response.status_code)
        raise
    return "hf://" + "/".join(filter(None, (org, f"{repo}@{info.sha}", folder)))


def _raise_status(code: int) -> None:
    if code in (404, 410):
        raise FileNotFoundError(code)
    if code in (401, 403):
        raise PermissionError("access is denied")
