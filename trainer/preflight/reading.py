"""What a person sees while data is read and tokenized: a bar on stderr, gone when it is done."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from trainer.data import Row, Source

T = TypeVar("T")
# Rows and examples handled at a time.
CHUNK = 1024


class ReadingView:
    """Shows how far pre-flight has come. Off a terminal it shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        """`quiet` shows nothing."""
        console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )

    def rows(self, sources: Iterable[Source]) -> Iterator[Row]:
        """The rows of `sources`, one source after the other."""
        for source in sources:
            bar = self._progress.add_task(f"reading {source.label}", total=source.size)
            for chunk in chunks(source.rows()):
                yield from chunk
                self._progress.update(bar, completed=source.position)
            self._progress.remove_task(bar)

    def chunks(self, items: Sequence[T], what: str) -> Iterator[list[T]]:
        """`items` in chunks; `what` is being done to them."""
        bar = self._progress.add_task(what, total=len(items))
        for chunk in chunks(items):
            yield chunk
            self._progress.advance(bar, len(chunk))
        self._progress.remove_task(bar)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""
        self._progress.stop()


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of `CHUNK` items, the last one of those left."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
