"""What a run writes: the append-only log of answers, and the samples with their scores.

`log.jsonl` holds one line per answered request, under a key that covers the request, the adapter
version and the server's model. A run that starts over finds its answers there, so a killed run
resumes where it stopped. `samples.jsonl` and `report.json` are functions of the log, written whole
at the end: a resumed run's are identical to an undisturbed one's.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evalsuite.errors import EvalError, InputError
from evalsuite.types import Answer, ChoiceScore, Request

LOG_FILE = "log.jsonl"
SAMPLES_FILE = "samples.jsonl"
REPORT_FILE = "report.json"

# Raise when the meaning of a logged answer changes, so that old answers are not taken for new.
_LOG_FORMAT = 1


def request_key(request: Request, model: Mapping[str, Any]) -> str:
    """Hex sha256 of a request to a model. `model` identifies base, quantization and arithmetic."""
    content = {"format": _LOG_FORMAT, "model": dict(model), "request": asdict(request)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class AnswerLog:
    """The append-only log of one output directory, held by one run at a time.

    Use as a context manager. Raises InputError if the directory cannot be used, another run holds
    it, or a line in the log's middle is damaged. A torn last line, left by a kill, is cut off.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOG_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"--out {directory}: {error.strerror}") from error
        try:
            self._answers = self._read()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The logged answer of a request, if there is one."""
        return self._answers.get(key)

    def append(self, key: str, request: Request, answer: Answer) -> None:
        """Logs an answer; it outlives the process from here on. Raises EvalError on a full disk."""
        record = {"key": key, "request": asdict(request), "answer": asdict(answer)}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
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
        self._end += len(line)
        self._answers[key] = answer

    def _read(self) -> dict[str, Answer]:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{self.path}: another run is writing here; choose another --out"
            ) from (error)
        answers: dict[str, Answer] = {}
        self._end = 0
        with open(self._fd, "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._end += len(line)
                try:
                    record = json.loads(line)
                    answers[record["key"]] = _answer(record["answer"])
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{self.path}:{number}: damaged line; remove it to ask that request again"
                    ) from error
        os.ftruncate(self._fd, self._end)
        return answers


def _answer(fields: dict[str, Any]) -> Answer:
    choices = tuple(ChoiceScore(**choice) for choice in fields.pop("choices"))
    return Answer(**fields, choices=choices)


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
