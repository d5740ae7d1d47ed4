"""Asking every row about every sample, with bounded concurrency and a log.

Requests go out sample by sample, each sample for all tasks and rows, so that the server always
has different adapters to mix in one batch. Samples are read, asked and logged in one pass, and
outcomes are read back from the log, so memory does not grow with the texts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evalsuite.answers import LoggedOutcomes
from evalsuite.errors import EvalError, RequestRefused, ServerError
from evalsuite.generator import Generator, model_identity
from evalsuite.prompts import ShotPool, build_request
from evalsuite.record import AnswerLog, model_key, request_key
from evalsuite.task import Task
from evalsuite.types import Outcome, Request, Row, RowKind, Sample

T = TypeVar("T")

# A token is at least one byte; a tokenizer adds a few of its own, such as a beginning of text.
_ADDED_TOKENS = 8


@dataclass(frozen=True)
class RunConfig:
    """How a run asks."""

    concurrency: int
    """Requests on their way at a time; each server's throttle may allow fewer."""
    seed: int = 0
    """Draws the shots."""


class Progress:
    """What the runner reports while it works; this one ignores it."""

    def start(self, total: int) -> None:
        """`total` outcomes are wanted."""

    def advance(self, asked: bool) -> None:
        """One more is there. `asked`: the server was asked, it was not in the log."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """One sample for one row."""

    task: Task
    row: Row
    index: int

    @property
    def sample(self) -> Sample:
        return self.task.samples[self.index]


Outcomes = Mapping[tuple[str, str], Sequence[Outcome]]
"""By task name and row label: one outcome per sample, in the task's order."""


@dataclass(frozen=True)
class _Server:
    """Who is asked, and what identifies its model."""

    generator: Generator
    model: bytes
    max_context_tokens: int


async def run(
    generators: Mapping[str, Generator],
    tasks: Sequence[Task],
    rows: Sequence[Row],
    log: AnswerLog,
    config: RunConfig,
    progress: Progress,
) -> Outcomes:
    """Answers of all rows to all samples of all tasks; each row's server is one of `generators`.

    Answers found in the log are not asked for again; new ones are logged as they come. A request
    that the server refuses leaves its sample unscored. Raises ServerError if a server stays away
    or every request of one row and task is refused. The outcomes are read from `log` when looked
    at, so it must stay open.
    """
    servers = {name: await _server(generator) for name, generator in generators.items()}
    shots = {
        (task.name, row.shots): ShotPool(task, row.shots, config.seed)
        for task in tasks
        for row in rows
    }
    found = {
        (task.name, row.label): LoggedOutcomes(log, len(task.samples))
        for task in tasks
        for row in rows
    }
    progress.start(sum(len(outcomes) for outcomes in found.values()))
    # Equal requests, such as a prompt whose shots were all dropped, are asked once.
    in_flight: dict[str, asyncio.Future[int]] = {}

    async def settle(ask: _Ask) -> None:
        server = servers[ask.row.server]
        drawn = shots[ask.task.name, ask.row.shots].of(ask.sample)
        request, key, num_shots = await _request(server, log, ask, drawn)
        offset = log.find(key)
        is_known = offset is not None
        if offset is None and key in in_flight:
            offset = await in_flight[key]
        elif offset is None:
            in_flight[key] = asyncio.get_running_loop().create_future()
            try:
                offset = await _ask(server.generator, log, key, request)
            except BaseException as error:
                in_flight[key].set_exception(error)
                in_flight[key].exception()
                raise
            else:
                in_flight.pop(key).set_result(offset)
        found[ask.task.name, ask.row.label].put(ask.index, offset, num_shots)
        progress.advance(asked=not is_known)

    await _bounded(_mixed(tasks, rows), settle, config.concurrency)
    for (task, row), outcomes in found.items():
        _complain_if_all_refused(task, row, outcomes)
    return found


async def _server(generator: Generator) -> _Server:
    model = await generator.model()
    return _Server(generator, model_key(model_identity(model)), model["max_context_tokens"])


async def _ask(generator: Generator, log: AnswerLog, key: str, request: Request) -> int:
    """The offset of the answer's line, or of the refusal's."""
    try:
        return log.append(key, request, await generator.answer(request))
    except RequestRefused as error:
        return log.append(key, request, None, str(error) or "refused")
    except ServerError as error:
        raise ServerError(
            f"{error}; {len(log)} answers are kept, the same command continues from there"
        ) from error


def _mixed(tasks: Sequence[Task], rows: Sequence[Row]) -> Iterator[_Ask]:
    for index in range(max(len(task.samples) for task in tasks)):
        for task in tasks:
            if index < len(task.samples):
                yield from (_Ask(task, row, index) for row in rows)


async def _request(
    server: _Server, log: AnswerLog, ask: _Ask, shots: Sequence[Sample]
) -> tuple[Request, str, int]:
    """The request of one sample, its key, and the number of shots in it.

    Where the context is too short for all shots, the first are dropped until the rest fits, as the
    original MMLU evaluation does. A request that is in the log did fit.
    """
    task, row, sample = ask.task, ask.row, ask.sample

    def made(kept: Sequence[Sample]) -> tuple[Request, str]:
        request = build_request(task, row, kept, sample)
        return request, request_key(request, server.model)

    if row.kind is RowKind.ADAPTER:
        return *made(()), 0
    # A token is at least one byte, so a choice never takes more tokens than bytes.
    room = task.spec.max_tokens
    if sample.choices:
        room = max(len(choice.encode()) for choice in sample.choices)
    for num in range(len(shots), 0, -1):
        request, key = made(shots[len(shots) - num :])
        prompt = max(request.contexts, key=len) if request.contexts else request.text
        if log.find(key) is not None or await _fits(server, prompt, room):
            return request, key, num
    return *made(()), 0


async def _fits(server: _Server, prompt: str, room: int) -> bool:
    """Whether a prompt leaves room for that many tokens."""
    if len(prompt.encode()) + _ADDED_TOKENS + room <= server.max_context_tokens:
        return True
    try:
        return await server.generator.count_tokens(prompt) + room <= server.max_context_tokens
    except RequestRefused:
        return False


def _complain_if_all_refused(task: str, row: str, outcomes: Sequence[Outcome]) -> None:
    if all(outcome.answer is None for outcome in outcomes):
        raise ServerError(
            f"task '{task}', row '{row}': the server refused every request: {outcomes[0].refusal}"
        )


async def _bounded(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], concurrency: int
) -> None:
    """Runs `work` on all items, at most `concurrency` at a time; the first error ends it all."""
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except* EvalError as errors:
        raise _first(errors) from errors


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
