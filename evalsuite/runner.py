"""Asking every row about every sample, with bounded concurrency and a log.

Requests go out sample by sample, each sample for all tasks and rows, so that the server always
has different adapters to mix in one batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evalsuite.errors import EvalError, RequestRefused, ServerError
from evalsuite.generator import Generator, model_identity
from evalsuite.prompts import ShotPool, build_request
from evalsuite.record import AnswerLog, request_key
from evalsuite.task import Task
from evalsuite.types import Outcome, Request, Row, RowKind, Sample

T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """How a run asks."""

    concurrency: int
    """Requests in flight."""
    seed: int = 0
    """Draws the shots."""


class Progress:
    """What the runner reports while it works; this one ignores it."""

    def start(self, total: int, done: int) -> None:
        """`total` requests in all, of which `done` were in the log already."""

    def advance(self) -> None:
        """One more request is answered or refused."""


@dataclass(frozen=True)
class _Ask:
    """One sample for one row."""

    task: Task
    row: Row
    index: int

    @property
    def sample(self) -> Sample:
        return self.task.samples[self.index]


Outcomes = Mapping[tuple[str, str], tuple[Outcome, ...]]
"""By task name and row label: one outcome per sample, in the task's order."""


async def run(
    generator: Generator,
    tasks: Sequence[Task],
    rows: Sequence[Row],
    log: AnswerLog,
    config: RunConfig,
    progress: Progress,
) -> Outcomes:
    """Answers of all rows to all samples of all tasks.

    Answers found in the log are not asked for again; new ones are logged as they come. A request
    that the server refuses leaves its sample unscored. Raises ServerError if the server stays away
    or every request of one row and task is refused.
    """
    model = await generator.model()
    shots = {
        (task.name, row.shots): ShotPool(task, row.shots, config.seed)
        for task in tasks
        for row in rows
    }
    requests: dict[_Ask, tuple[Request, int]] = {}

    async def build(ask: _Ask) -> None:
        drawn = shots[ask.task.name, ask.row.shots].of(ask.sample)
        requests[ask] = await _request(generator, ask, drawn, model["max_context_tokens"])

    asks = list(_mixed(tasks, rows))
    await _bounded(asks, build, config.concurrency)
    identity = model_identity(model)
    # Equal requests, such as a prompt whose shots were all dropped, are asked once.
    keys = {ask: request_key(requests[ask][0], identity) for ask in asks}
    missing = {keys[ask]: requests[ask][0] for ask in asks if log.get(keys[ask]) is None}
    progress.start(len(set(keys.values())), len(set(keys.values())) - len(missing))
    refusals: dict[str, str] = {}

    async def answer(item: tuple[str, Request]) -> None:
        key, request = item
        try:
            log.append(key, request, await generator.answer(request))
        except RequestRefused as error:
            refusals[key] = str(error)
        except ServerError as error:
            raise ServerError(
                f"{error}; {len(log)} answers are kept, the same command continues from there"
            ) from error
        progress.advance()

    await _bounded(missing.items(), answer, config.concurrency)
    return _collect(asks, requests, keys, refusals, log)


def _mixed(tasks: Sequence[Task], rows: Sequence[Row]) -> Iterator[_Ask]:
    for index in range(max(len(task.samples) for task in tasks)):
        for task in tasks:
            if index < len(task.samples):
                yield from (_Ask(task, row, index) for row in rows)


async def _request(
    generator: Generator, ask: _Ask, shots: Sequence[Sample], context: int
) -> tuple[Request, int]:
    """The request of one sample, and the number of shots in it.

    Where the context is too short for all shots, the first are dropped until the rest fits, as the
    original MMLU evaluation does.
    """
    task, row, sample = ask.task, ask.row, ask.sample
    if row.kind is RowKind.ADAPTER:
        return build_request(task, row, (), sample), 0
    # A token is at least one byte, so a choice never takes more tokens than bytes.
    room = task.spec.max_tokens
    if sample.choices:
        room = max(len(choice.encode()) for choice in sample.choices)
    kept = list(shots)
    while kept:
        request = build_request(task, row, kept, sample)
        prompt = max(request.contexts, key=len) if request.contexts else request.text
        try:
            if await generator.count_tokens(prompt) + room <= context:
                return request, len(kept)
        except RequestRefused:
            pass
        kept.pop(0)
    return build_request(task, row, (), sample), 0


def _collect(
    asks: Iterable[_Ask],
    requests: Mapping[_Ask, tuple[Request, int]],
    keys: Mapping[_Ask, str],
    refusals: Mapping[str, str],
    log: AnswerLog,
) -> Outcomes:
    found: dict[tuple[str, str], list[Outcome]] = {}
    for ask in asks:
        request, num_shots = requests[ask]
        outcome = Outcome(
            answer=log.get(keys[ask]),
            request=request,
            shots=num_shots,
            refusal=refusals.get(keys[ask], ""),
        )
        found.setdefault((ask.task.name, ask.row.label), []).append(outcome)
    for (task, row), outcomes in found.items():
        if all(outcome.answer is None for outcome in outcomes):
            raise ServerError(
                f"task '{task}', row '{row}': the server refused every request: "
                f"{outcomes[0].refusal}"
            )
    return {cell: tuple(outcomes) for cell, outcomes in found.items()}


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
