"""The server as a process: signals, what it prints, its exit code."""

import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from server.app.app import App
from server.config import ServerConfig
from server.models.processor import compute_with


def run(config: ServerConfig) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code. Raises StartupError.

    A second signal ends the process at once, whatever still runs.
    """
    return asyncio.run(_run(config))


async def _run(config: ServerConfig) -> int:
    app = App(config)
    # Here and not in App: it holds for the whole process. OpenMP counts the threads of every thread
    # that ever computed with several; beyond the processors' number, all of them yield rather than
    # spin between two operations, which halves the engine's speed.
    compute_with(1)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopping.is_set():
            _exit_now(1, "second signal: exiting at once, running requests are lost")
        print(f"{signal.Signals(number).name}: draining", file=sys.stderr, flush=True)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)
    starting = asyncio.create_task(app.start())
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            # The thread that loads the base cannot be stopped, and would crash in the teardown.
            _exit_now(0, "stopped before the base was loaded")
        await starting
        # The base's million objects stay. Looking through them for garbage, as loading adapters
        # makes the collector do, would stop every thread for a tenth of a second.
        gc.collect()
        gc.freeze()
        _announce(app)
        await waiting
    finally:
        waiting.cancel()
        if config.ready_file is not None:
            config.ready_file.unlink(missing_ok=True)
        await app.stop()
    return 0


def _announce(app: App) -> None:
    print(f"understudy server listening on {app.address}", flush=True)
    print(f"metrics on {app.metrics_url}", flush=True)
    path = app.config.ready_file
    if path is not None:
        _write_atomically(path, json.dumps({"address": app.address, "metrics": app.metrics_url}))


def _write_atomically(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    Path(temporary).replace(path)


def _exit_now(code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(code)
