"""Token ids on disk: examples larger than memory, and tokenized once for a run and its resumption.

A spool is a folder with `tokens.bin` (all ids, one after another), `rows.bin` (a `ROW` for each
example), `learnt.bin` (a byte for each id; only where chats have several learnt turns) and
`spool.json`. It is mapped, not read: memory holds what the kernel keeps of it, and lengths.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from trainer.examples import Indices, TaskRange
from trainer.tokens import Encoded
from trainer.writing import json_line

FORMAT = 2
HEADER = "spool.json"
# Where an example's ids end; how many of them are the prompt's; its file among the header's and its
# number there; its class, or -1; how many ids at the end are those of a worse completion.
ROW = np.dtype(
    [
        ("end", "<u8"),
        ("prompt", "<u4"),
        ("file", "<u4"),
        ("number", "<u8"),
        ("class_id", "<i4"),
        ("rejected", "<u4"),
    ]
)


class SpoolWriter:
    """Writes a spool into a folder of another name, which becomes `path` when it is complete."""

    def __init__(self, path: Path, num_ids: int, *, masked: bool) -> None:
        """`num_ids`: size of the vocabulary. `masked`: whether examples may have a `learnt`.

        Raises OSError.
        """
        self._path = path
        self._folder = path.with_name(f"{path.name}.{os.getpid()}.partial")
        self._folder.mkdir(parents=True)
        self._dtype = np.dtype("<u2" if num_ids <= 1 << 16 else "<u4")
        self._tokens = self._open("tokens.bin")
        self._rows = self._open("rows.bin")
        self._learnt = self._open("learnt.bin") if masked else None
        self._files: dict[str, int] = {}
        self._num_rows = 0
        self._end = 0

    def append(self, example: Encoded) -> None:
        """Adds an example. Raises OSError where the disk is full."""
        file, _, number = example.where.rpartition(":")
        ids = np.array(example.input_ids + example.rejected_ids, self._dtype)
        self._tokens.write(ids.tobytes())
        self._num_rows += 1
        self._end += len(ids)
        row = np.zeros(1, ROW)
        row["end"] = self._end
        row["prompt"] = len(example.prompt_ids)
        row["file"] = self._files.setdefault(file, len(self._files))
        row["number"] = int(number)
        row["rejected"] = len(example.rejected_ids)
        row["class_id"] = -1 if example.class_id is None else example.class_id
        self._rows.write(row.tobytes())
        if self._learnt is not None:
            learnt = np.ones(len(ids), np.uint8)
            if example.learnt is not None:
                learnt[len(example.prompt_ids) : len(example.input_ids)] = example.learnt
            self._learnt.write(learnt.tobytes())
        else:
            assert example.learnt is None

    def finish(self, facts: Mapping[str, Any]) -> "Spool":
        """The complete spool; `facts` (JSON values) are kept with it. Raises OSError."""
        self._close()
        header = {
            "format": FORMAT,
            "dtype": self._dtype.str,
            "files": list(self._files),
            "num_rows": self._num_rows,
            "masked": self._learnt is not None,
            "facts": dict(facts),
        }
        (self._folder / HEADER).write_text(json_line(header), encoding="utf-8")
        try:
            os.replace(self._folder, self._path)
        except OSError:
            # Something is there: what another process wrote meanwhile, which is the same, or a
            # damaged one.
            with contextlib.suppress(OSError, ValueError, KeyError):
                return Spool(self._path)
            shutil.rmtree(self._path, ignore_errors=True)
            os.replace(self._folder, self._path)
        return Spool(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes what was not finished."""
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self, name: str) -> BinaryIO:
        return (self._folder / name).open("wb")

    def _close(self) -> None:
        for file in (self._tokens, self._rows, self._learnt):
            if file is not None:
                file.close()


class Spool:
    """The examples of a spool, all of one task: `trainer.examples.InMemory` on disk."""

    def __init__(self, path: Path, task: str = "") -> None:
        """Raises OSError or ValueError if `path` holds no complete spool of this format."""
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']} is not {FORMAT}")
        self.facts: dict[str, Any] = header["facts"]
        self._task = task
        self._files: list[str] = header["files"]
        self._rows = _mapped(path / "rows.bin", ROW)
        self._tokens = _mapped(path / "tokens.bin", np.dtype(header["dtype"]))
        self._learnt = _mapped(path / "learnt.bin", np.dtype("u1")) if header["masked"] else None
        if len(self._rows) != header["num_rows"]:
            raise ValueError(f"{len(self._rows)} rows instead of {header['num_rows']}")
        self.lengths: Indices = np.diff(self._rows["end"], prepend=np.uint64(0)).astype(np.int64)
        if self.lengths.sum() != len(self._tokens):
            raise ValueError(f"{len(self._tokens)} tokens instead of {self.lengths.sum()}")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Encoded:
        """The example at `index`, built anew each time."""
        row = self._rows[index]
        end, num_prompt, class_id = int(row["end"]), int(row["prompt"]), int(row["class_id"])
        begin = end - int(self.lengths[index])
        ids = self._tokens[begin:end].tolist()
        own = len(ids) - int(row["rejected"])
        learnt = None
        if self._learnt is not None:
            mask = self._learnt[begin + num_prompt : begin + own]
            learnt = None if mask.all() else tuple(map(bool, mask.tolist()))
        return Encoded(
            tuple(ids[:num_prompt]),
            tuple(ids[num_prompt:own]),
            f"{self._files[int(row['file'])]}:{int(row['number'])}",
            learnt,
            None if class_id < 0 else class_id,
            tuple(ids[own:]),
        )

    def __iter__(self) -> Iterator[Encoded]:
        """The examples in order."""
        return (self[index] for index in range(len(self)))

    @property
    def tasks(self) -> tuple[TaskRange, ...]:
        """One task."""
        return (TaskRange(self._task, 0, len(self), len(self)),)

    @property
    def num_per_epoch(self) -> int:
        """All of them."""
        return len(self)

    def epoch(self, seed: int, epoch: int) -> Indices:
        """All of them, in order."""
        return np.arange(len(self), dtype=np.int64)


def _mapped(path: Path, dtype: np.dtype[Any]) -> Any:
    """The array in a file; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
