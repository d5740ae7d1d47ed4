"""What a run writes: the append-only log of answers, and files replaced in one step.

`log.jsonl` holds one line per answered or refused request, under a key that covers the request, the
adapter version and the server's model. A run that starts over finds its answers there, so a killed
run resumes where it stopped. `samples.jsonl` and `report.json` are functions of the log, written
whole at the end: a resumed run's are identical to an undisturbed one's.
"""

import errno
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic_core import to_json

from evalsuite.errors import EvalError, InputError
from evalsuite.types import Answer, Request

LOG_FILE = "log.jsonl"
SAMPLES_FILE = "samples.jsonl"
REPORT_FILE = "report.json"

# Raise when the meaning of a logged answer changes, so that old answers are not taken for new.
_LOG_FORMAT = 2


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log: a request with its answer, or with the server's reason for none."""

    key: str
    request: Request
    answer: Answer | None = None
    refusal: str = ""


_LINE = TypeAdapter(LogLine)


def model_key(model: Mapping[str, Any]) -> bytes:
    """What identifies a model in keys. `model` names base, quantization and arithmetic."""
    content = {"format": _LOG_FORMAT, "model": dict(model)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def request_key(request: Request, model: bytes) -> str:
    """Hex sha256 of a request to a model, given its `model_key`."""
    content = asdict(request)
    if not (request.fields or request.text_variables):
        # As before there were any, so that older logs keep their answers.
        del content["fields"], content["text_variables"]
    return hashlib.sha256(model + _json(content)).hexdigest()


def _json(value: Any) -> bytes:
    # Log-likelihoods may be infinite.
    return to_json(value, inf_nan_mode="constants")


class AnswerLog:
    """The append-only log of one output directory, held by one run at a time.

    Memory does not grow with the log: where the lines are stands in a temporary database that
    SQLite keeps on disk. Use as a context manager. Raises InputError if the directory cannot be
    used, another run holds it, or a line in the log's middle is damaged. A torn last line, left by
    a kill, is cut off.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOG_FILE
        self._num_lines = 0
        self._end = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"--out {directory}: {error.strerror}") from error
        self._offsets = sqlite3.connect("", isolation_level=None)
        self._reader = open(self._fd, "rb", closefd=False)  # noqa: SIM115
        try:
            self._offsets.execute("PRAGMA journal_mode=OFF")
            self._offsets.execute("PRAGMA synchronous=OFF")
            self._offsets.execute(
                "CREATE TABLE lines (key TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID"
            )
            self._read_all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets the directory go."""
        self._reader.close()
        self._offsets.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._num_lines

    def find(self, key: str) -> int | None:
        """Where the line of a request is, if it was answered or refused."""
        row = self._offsets.execute("SELECT offset FROM lines WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def read(self, offset: int) -> LogLine:
        """The line at an offset that `find` or `append` gave."""
        self._reader.seek(offset)
        return _LINE.validate_json(self._reader.readline())

    def append(self, key: str, request: Request, answer: Answer | None, refusal: str = "") -> int:
        """Logs an answer or refusal and returns its offset; it outlives the process from here on.

        Raises EvalError on a full disk; what was logged before is kept.
        """
        line = _json(LogLine(key, request, answer, refusal)) + b"\n"
        try:
            if os.write(self._fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # Cut a partial line off, so that nothing can be appended to it.
            os.ftruncate(self._fd, self._end)
            raise EvalError(
                f"{self.path}: cannot be written: {error.strerror}; {len(self)} answers are kept, "
                "the same command continues from there"
            ) from error
        return self._add(key, len(line))

    def _add(self, key: str, num_bytes: int) -> int:
        offset = self._end
        self._end += num_bytes
        self._num_lines += 1
        self._offsets.execute("INSERT OR REPLACE INTO lines VALUES (?, ?)", (key, offset))
        return offset

    def _read_all(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{self.path}: another run is writing here; choose another --out"
            ) from error
        for number, line in enumerate(self._reader, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                found = _LINE.validate_json(line)
                if found.answer is None and not found.refusal:
                    raise ValueError("neither answer nor refusal")
            except ValueError as error:
                raise InputError(
                    f"{self.path}:{number}: damaged line, or not a log of this suite; remove it "
                    "to ask that request again, or choose another --out"
                ) from error
            self._add(found.key, len(line))
        os.ftruncate(self._fd, self._end)


def write_text(path: Path, chunks: Iterable[str]) -> None:
    """Replaces a file in one step. Raises EvalError if it cannot be written."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(chunks)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EvalError(f"{path}: cannot be written: {error.strerror}") from error
