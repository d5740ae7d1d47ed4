"""Work in a process of its own, with a time limit: what it takes of a device goes with it."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_TAIL_LINES = 5
_END_S = 10.0


class UnavailableError(Exception):
    """What is missing is a matter of the device: trying again on it would change nothing."""


def run_alone(
    work: Callable[..., Any], arguments: tuple[Any, ...], *, limit_s: float, log: Path, method: str
) -> Mapping[str, Any]:
    """What `work(*arguments)` returns, as `found`; or why it did not, as `error`, or `skipped` for
    an UnavailableError. And `seconds` that it took, the process included.

    The process is started by `method` of multiprocessing. Its output, and that of all that it
    starts, goes to `log`; whatever of them still runs after `limit_s` seconds is ended.
    """
    context: Any = multiprocessing.get_context(method)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, arguments, sending, str(log)))
    begin = time.perf_counter()
    process.start()
    sending.close()
    answer: dict[str, Any]
    try:
        if receiving.poll(limit_s):
            answer = receiving.recv()
            process.join(_END_S)
        else:
            answer = {"error": f"took longer than its {limit_s:g} s"}
    except EOFError:
        process.join()
        answer = {"error": f"ended with exit code {process.exitcode}: {_tail(log)}"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return {**answer, "seconds": round(time.perf_counter() - begin, 1)}


def _work(
    work: Callable[..., Any], arguments: tuple[Any, ...], sending: Connection, log: str
) -> None:
    os.setsid()
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    answer: dict[str, Any]
    try:
        answer = {"found": work(*arguments)}
    except UnavailableError as error:
        answer = {"skipped": str(error)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    sending.send(answer)
    # Threads that still use the device would make an orderly end a matter of luck.
    os._exit(0)


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
