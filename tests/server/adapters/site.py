"""An HTTP server on this machine to fetch adapters from, and what came."""

import itertools
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server.adapters.remote import RemoteLimits, RemoteSources
from understudy.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE

FILES = {CONFIG_FILE: b'{"r": 1}', MANIFEST_FILE: b'{"format": 1}', TENSORS_FILE: b"tensors" * 999}
LIMITS = RemoteLimits(max_bytes=10_000, timeout_s=20.0)


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
                site.answers.get(path, status(404))(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.gone = threading.Event()
        """Set when a client has left an answer below that has no end."""
        self._server.gone = self.gone  # type: ignore[attr-defined]
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


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing until the client has gone."""
    handler.rfile.read(1)
    handler.server.gone.set()  # type: ignore[attr-defined]


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """Headers without an end, a byte at a time, until the client has gone."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    try:
        for byte in itertools.cycle(b"X: y\r\n"):
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)
    except OSError:
        handler.server.gone.set()  # type: ignore[attr-defined]


def stalled(handler: BaseHTTPRequestHandler) -> None:
    """Half of a body, and no more."""
    body(b"x" * 50, 100)(handler)
    silent(handler)


def fetch(sources: RemoteSources, source: str) -> dict[str, bytes]:
    """The files that came; the folder is gone afterwards."""
    with sources.fetched("mine", source) as folder:
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not folder.exists()
    return found
