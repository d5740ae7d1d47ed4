"""Runs the trainer's command line in processes of their own, killed where a test says.

A server that has imported everything forks a child for each run: a fresh process, without the
seconds that its imports take.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(str(ROOT / part) for part in ("trainer", "client/understudy"))
TIMEOUT_S = 240


@dataclass(frozen=True)
class Kill:
    """SIGKILL, as no process can catch it: so many lines of ours after a call began."""

    at: str
    """`module:function` or `module:Class.method`."""
    call: int = 1
    """Which call of it, from 1."""
    lines: int = 1


@dataclass(frozen=True)
class HalfCheckpoint:
    """SIGKILL when half of a checkpoint's bytes are in its file."""

    call: int = 1
    """Which checkpoint, from 1."""


@dataclass(frozen=True)
class FullDisk:
    """From a call on no file may grow beyond `num_bytes`, but for what is printed."""

    at: str
    num_bytes: int
    call: int = 1


def run(
    arguments: Sequence[str], log: Path, fault: Kill | HalfCheckpoint | FullDisk | None = None
) -> int:
    """Exit code of `python -m trainer ARGUMENTS`, or minus the signal that ended it.

    What it prints goes into the file `log`.
    """
    # The server starts with what stands here at the first call.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.preloaded"])
    process = context.Process(target=_child, args=(list(arguments), log, fault))
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def _child(arguments: list[str], log: Path, fault: Any) -> None:
    assert "tests.trainer.preloaded" in sys.modules, "the fork server has not imported it"
    from tests.trainer.preloaded import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if isinstance(fault, HalfCheckpoint):
        _kill_in_checkpoint(fault)
    elif fault is not None:
        _inject(fault)
    if isinstance(fault, FullDisk):
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            code = main(arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.stderr.write(printed.getvalue())
        sys.exit(code)
    sys.exit(main(arguments))


def _kill_in_checkpoint(fault: HalfCheckpoint) -> None:
    import torch

    original, calls = torch.save, 0

    def save(content: Any, file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fault.call:
            buffer = io.BytesIO()
            original(content, buffer)
            file.write(buffer.getvalue()[: buffer.tell() // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        original(content, file)

    torch.save = save  # type: ignore[assignment]


def _inject(fault: Kill | FullDisk) -> None:
    """Lets the fault happen at the call that it names."""
    module, _, path = fault.at.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fault.call:
            if isinstance(fault, FullDisk):
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.num_bytes, resource.RLIM_INFINITY))
            else:
                sys.settrace(_countdown(fault.lines))
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _countdown(lines: int) -> Any:
    """A trace function that kills the process after so many lines of our packages."""
    left = lines

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGES) else None

    return trace
