"""Adapters from elsewhere: what LoadAdapter may fetch, how much of it, and for how long.

A source is a folder, `SCHEME://PLACE/...[?sha256=HEX]`, of which only an adapter's two files and
its manifest are read, into a temporary folder. Nothing is fetched that the configuration does not
allow by a prefix.
"""

import contextlib
import hashlib
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from server.adapters import transports
from server.adapters.deadline import Deadline
from server.adapters.transports import Transport
from server.adapters.urls import normalized
from server.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    DrainingError,
    InvalidRequestError,
    ServerError,
    SourceUnavailableError,
    StartupError,
)
from server.metrics import Metrics
from understudy.artifact import (
    ADDED_TOKEN_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    MAX_JSON_BYTES,
    MAX_TOKENIZER_BYTES,
    TENSORS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    ArtifactError,
    read_manifest,
)
from understudy.locks import StoreLocks
from understudy.store import temporary

_LOG = logging.getLogger(__name__)
_DRAINING = "the server is shutting down"

TRANSPORTS: dict[str, Transport] = {
    "hf": transports.open_hub,
    "s3": transports.open_object,
    "gs": transports.open_object,
    "https": transports.open_http,
    "http": transports.open_http,
}
_INSTALL = "pip install 'understudy-suite[remote]'"
_DOWNLOADING = ".download-"
_BLOCK_BYTES = 1 << 20
_QUERY = re.compile(r"sha256=([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """What a download may take."""

    max_bytes: int
    """Of the tensor file."""
    timeout_s: float
    """Of all files together."""


def is_remote(source: str) -> bool:
    """Whether LoadAdapter's source is a URL rather than a folder of this machine."""
    return "://" in source


class RemoteSources:
    """Fetches adapters into `cache`. Thread-safe; fetching is *blocking*."""

    def __init__(
        self,
        prefixes: tuple[str, ...],
        cache: Path | None,
        limits: RemoteLimits,
        metrics: Metrics | None = None,
    ) -> None:
        """`prefixes` are the sources that are allowed, with all below them.

        None for `cache`: the system's temporary folder. Raises StartupError for a wrong prefix.
        """
        self._prefixes: list[str] = []
        self._cache = cache
        self._limits = limits
        self._metrics = metrics or Metrics()
        self._closed = threading.Event()
        self._running: set[Deadline] = set()
        for prefix in prefixes:
            try:
                self._prefixes.append(normalized(prefix, TRANSPORTS))
            except ValueError as error:
                raise StartupError(f"adapters.remote_sources: {prefix!r}: {error}") from error

    def close(self) -> None:
        """Ends all downloads."""
        self._closed.set()
        for deadline in tuple(self._running):
            deadline.end(DrainingError(_DRAINING))

    def check(self, source: str) -> tuple[str, str]:
        """The source in its one spelling, and the sha256 its tensor file must have, or "".

        Raises InvalidRequestError if it is malformed or not allowed.
        """
        place, _, query = source.partition("?")
        match = _QUERY.fullmatch(query)
        if query and match is None:
            raise InvalidRequestError(
                "source", "after '?' only sha256=HEX is taken, of the tensor file, in lower case"
            )
        try:
            url = normalized(place, TRANSPORTS)
        except ValueError as error:
            raise InvalidRequestError("source", f"{source[:200]!r}: {error}") from error
        if not self._prefixes:
            raise InvalidRequestError(
                "source", "this server fetches no adapters; configure adapters.remote_sources"
            )
        if not self._allows(url):
            raise InvalidRequestError(
                "source", f"{url!r} is not below what adapters.remote_sources allows"
            )
        return url, match[1] if match else ""

    @contextlib.contextmanager
    def fetched(self, name: str, source: str) -> Iterator[Path]:
        """The source's files in a folder that goes when the context ends.

        Raises as `check`; AdapterNotFoundError, AdapterRefusedError for what is denied, is too
        large, has another sha256 or needs a package; SourceUnavailableError.
        """
        url, sha256 = self.check(source)
        started, scheme = time.monotonic(), url.split("://", 1)[0]
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder())
                self._fetch(name, url, sha256, folder)
            except Exception:
                self._metrics.adapter_download_failed(scheme)
                raise
            self._metrics.adapter_downloaded(scheme, time.monotonic() - started)
            yield folder

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """An empty folder, and none of those that servers left behind that were killed."""
        if self._cache is None:
            with tempfile.TemporaryDirectory(prefix="understudy-") as only:
                yield Path(only)
            return
        folder = self._cache / temporary(_DOWNLOADING)
        with contextlib.ExitStack() as stack:
            try:
                self._cache.mkdir(parents=True, exist_ok=True)
                locks = stack.enter_context(StoreLocks(self._cache, required=False))
                for path in self._cache.glob(f"{_DOWNLOADING}*"):
                    if locks.take(path.name):
                        shutil.rmtree(path, ignore_errors=True)
                locks.take(folder.name)
                folder.mkdir(mode=0o700)
            except (OSError, ArtifactError) as error:
                raise AdapterRefusedError(
                    "source: nothing can be written where downloads go; configure adapters.cache"
                ) from error
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, name: str, url: str, sha256: str, folder: Path) -> None:
        scheme = url.split("://", 1)[0]
        file_name = CONFIG_FILE
        deadline, place = Deadline(self._limits.timeout_s), url
        self._running.add(deadline)
        try:
            if self._closed.is_set():
                raise DrainingError(_DRAINING)
            if scheme == "hf":
                url = deadline.run(lambda: transports.pin_revision(place, deadline))
            for file_name, max_bytes in (
                (CONFIG_FILE, MAX_JSON_BYTES),
                (MANIFEST_FILE, MAX_JSON_BYTES),
                (TOKENIZER_FILE, MAX_TOKENIZER_BYTES),
                (TOKENIZER_CONFIG_FILE, MAX_JSON_BYTES),
                (TENSORS_FILE, self._limits.max_bytes),
            ):
                if file_name in ADDED_TOKEN_FILES and not _belongs(file_name, folder):
                    continue
                try:
                    copy = partial(self._copy, url, folder / file_name, max_bytes, deadline)
                    digest = deadline.run(copy)
                except FileNotFoundError:
                    # A plain PEFT directory has no manifest; few adapters add tokens.
                    if file_name in (CONFIG_FILE, TENSORS_FILE):
                        raise
        except ServerError:
            raise
        except FileNotFoundError as error:
            raise AdapterNotFoundError(
                name, note=f"its source has no {file_name}, or does not exist"
            ) from error
        except PermissionError as error:
            raise AdapterRefusedError(f"source: {file_name}: access is denied") from error
        except ImportError as error:
            raise AdapterRefusedError(
                f"source: {scheme}:// needs {error.name or error} on the server: {_INSTALL}"
            ) from error
        except TimeoutError as error:
            raise SourceUnavailableError(
                f"source: {file_name}: took too long; adapters.download_timeout_s is "
                f"{self._limits.timeout_s:g}"
            ) from error
        except Exception as error:
            # The libraries' own errors: their texts may hold what is not for the client.
            _LOG.warning("cannot fetch %s/%s: %s", url, file_name, error)
            raise SourceUnavailableError(
                f"source: {file_name}: cannot be read ({type(error).__name__})"
            ) from error
        finally:
            self._running.discard(deadline)
        if sha256 and digest != sha256:
            raise AdapterRefusedError(f"source: {TENSORS_FILE}: sha256 is {digest}")

    def _copy(self, url: str, target: Path, max_bytes: int, deadline: Deadline) -> str:
        """Fetches one file; returns its sha256."""
        scheme = url.split("://", 1)[0]
        remote = TRANSPORTS[scheme](url, target.name, self._may_redirect, deadline)
        digest, size = hashlib.sha256(), 0
        try:
            if remote.size_bytes is not None:
                _check_size(target.name, remote.size_bytes, max_bytes)
            with target.open("xb") as file:
                while block := remote.read(_BLOCK_BYTES):
                    size += len(block)
                    _check_size(target.name, size, max_bytes)
                    if deadline.is_over:
                        raise TimeoutError
                    digest.update(block)
                    file.write(block)
        finally:
            remote.close()
        if remote.size_bytes not in (None, size):
            raise ConnectionError(f"{size} of {remote.size_bytes} bytes came")
        return digest.hexdigest()

    def _allows(self, url: str) -> bool:
        """Whether a normalized URL is below a prefix; a Hub prefix allows every revision."""
        spellings = {url}
        if url.startswith("hf://"):
            spellings.add(re.sub(r"@[^/]*", "", url, count=1))
        return any(
            spelling == prefix or spelling.startswith(prefix + "/")
            for spelling in spellings
            for prefix in self._prefixes
        )

    def _may_redirect(self, url: str) -> bool:
        try:
            return self._allows(normalized(url.partition("?")[0], TRANSPORTS))
        except ValueError:
            return False


def _belongs(file_name: str, folder: Path) -> bool:
    """Whether a tokenizer's file is the adapter's: its manifest lists it, or there is none."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        # Whoever loads it says what is wrong.
        return False
    return manifest is None or file_name in manifest.files


def _check_size(file_name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise AdapterRefusedError(
            f"source: {file_name}: more than the {max_bytes} bytes that this server takes"
        )
