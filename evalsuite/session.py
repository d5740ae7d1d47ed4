"""One evaluation from flags to scored results: servers, rows, log, answers, scores.

What was asked is kept in `plan.json` beside the log, so that `rescore` needs no server.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from evalsuite.errors import InputError, RequestRefused
from evalsuite.fleet import Fleet, open_fleet
from evalsuite.generator import Generator
from evalsuite.names import TaskName
from evalsuite.record import AnswerLog, write_text
from evalsuite.registry import load_tasks
from evalsuite.results import TRIVIAL, TaskResult, evaluate
from evalsuite.runner import Progress, RunConfig, run
from evalsuite.task import Task
from evalsuite.types import Answer, Request, Row, RowKind
from understudy.artifact import BASE_NAME

PLAN_FILE = "plan.json"
_PLAN_FORMAT = 1

Models = Mapping[str, Mapping[str, Any]]
"""GetModelInfo's answer by a row's `server`; the run's own is ''."""


@dataclass(frozen=True)
class RowSpec:
    """A row as the command line names it: `base`, `ADAPTER` or `LABEL=HOST:PORT/ADAPTER`."""

    label: str
    adapter: str
    """Empty for the bare base."""
    server: str = ""
    """Empty for the run's own."""


@dataclass(frozen=True)
class Plan:
    """What to ask. Everything that answers and scores depend on."""

    tasks: tuple[str, ...]
    """Built-in names, and absolute paths of task files."""
    data_dir: Path | None
    limit: int | None
    seed: int
    rows: tuple[Row, ...] = ()
    """Pinned to the versions seen when the run began."""
    models: Mapping[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class Played:
    """A finished evaluation."""

    results: tuple[TaskResult, ...]
    models: Models


_PLAN = TypeAdapter(Plan)


def parse_row(text: str) -> RowSpec:
    """A row's specification. Raises InputError for one that is none."""
    label, equals, rest = text.partition("=")
    if not equals:
        return RowSpec(text, "" if text == BASE_NAME else text)
    server, slash, adapter = rest.rpartition("/")
    if not slash or not server or not label:
        raise InputError(
            f"--adapters: '{text}' is not LABEL=HOST:PORT/ADAPTER (for a bare base "
            f"LABEL=HOST:PORT/{BASE_NAME})"
        )
    return RowSpec(label, "" if adapter in {"", BASE_NAME} else adapter, server)


def absolute(tasks: Sequence[str]) -> tuple[str, ...]:
    """Task names as a plan holds them: files, and the data of `NAME=PATH`, by absolute paths."""
    return tuple(str(TaskName.parse(task).absolute()) for task in tasks)


async def play(
    plan: Plan,
    tasks: Sequence[Task],
    specs: Sequence[RowSpec],
    shots: Sequence[int],
    servers: Sequence[str],
    concurrency: int | None,
    log: AnswerLog,
    progress: Progress,
) -> Played:
    """Asks what is missing in the log, and scores. `servers` share the rows without a server."""
    async with AsyncExitStack() as stack:
        fleets = {"": await open_fleet(servers, concurrency, stack)}
        for address in dict.fromkeys(spec.server for spec in specs if spec.server):
            fleets[address] = await open_fleet([address], concurrency, stack)
        rows = await find_rows(fleets, specs, shots)
        models = {address: await fleet.model() for address, fleet in fleets.items()}
        full = Plan(plan.tasks, plan.data_dir, plan.limit, plan.seed, rows, models)
        write_plan(log.path.parent, full)
        most = sum(fleet.most_in_flight for fleet in fleets.values())
        outcomes = await run(fleets, tasks, rows, log, RunConfig(most, plan.seed), progress)
    return Played(evaluate(tasks, rows, outcomes, plan.seed), models)


async def replay(
    directory: Path, log: AnswerLog, tasks: Sequence[str] | None, progress: Progress
) -> tuple[Plan, Played]:
    """Scores a run's answers again, with the tasks' metrics as they are now. Asks nobody.

    `tasks` limits it to some of the run's. Raises InputError if there was no run, or if an answer
    is missing in the log.
    """
    plan = read_plan(directory)
    if tasks is not None and not set(absolute(tasks)) <= set(plan.tasks):
        other = sorted(set(absolute(tasks)) - set(plan.tasks))
        raise InputError(
            f"--tasks: the run in {directory} did not ask '{other[0]}'; it asked "
            f"{', '.join(plan.tasks)}"
        )
    names = plan.tasks if tasks is None else absolute(tasks)
    loaded = load_tasks(names, plan.data_dir, plan.limit)
    models = plan.models or {}
    generators: dict[str, Generator] = {
        address: LoggedAnswers(model) for address, model in models.items()
    }
    outcomes = await run(generators, loaded, plan.rows, log, RunConfig(1, plan.seed), progress)
    return plan, Played(evaluate(loaded, plan.rows, outcomes, plan.seed), models)


class LoggedAnswers:
    """A Generator that knows nothing beyond the log."""

    def __init__(self, model: dict[str, Any]) -> None:
        self._model = model

    async def model(self) -> dict[str, Any]:
        """As the run's server described it."""
        return self._model

    async def adapter_row(self, name: str) -> Row:
        """A run's rows are in its plan; none is looked up again."""
        raise NotImplementedError(name)

    async def count_tokens(self, prompt: str) -> int:
        """A prompt that was asked is found by its key; one that was not is taken not to fit."""
        raise RequestRefused("not in the log")

    async def answer(self, request: Request) -> Answer:
        """There is none. Raises InputError."""
        raise InputError(
            f"no answer in the log to a request for '{request.adapter or BASE_NAME}' beginning "
            f"{request.text[:60]!r}: the run is not finished, or the task's prompts or data "
            "changed; `run` asks what is missing"
        )


async def find_rows(
    fleets: Mapping[str, Fleet], specs: Sequence[RowSpec], shots: Sequence[int]
) -> tuple[Row, ...]:
    """One row per specification; a bare base gets one per number of shots.

    Raises InputError for labels that clash.
    """
    by_label: dict[str, tuple[RowSpec, int]] = {TRIVIAL.label: (RowSpec(TRIVIAL.label, ""), 0)}
    for spec in sorted(specs, key=lambda spec: bool(spec.adapter)):
        for num in (0,) if spec.adapter else shots:
            label = f"{spec.label}_{num}shot" if num else spec.label
            if label in by_label:
                raise InputError(
                    f"--adapters: '{label}' is a row of the report already; give the adapter "
                    f"another label with LABEL=HOST:PORT/{spec.adapter or BASE_NAME}"
                )
            by_label[label] = (spec, num)
    del by_label[TRIVIAL.label]
    rows = []
    for label, (spec, num) in by_label.items():
        if spec.adapter:
            found = await fleets[spec.server].adapter_row(spec.adapter)
            rows.append(replace(found, label=label, server=spec.server))
        else:
            rows.append(Row(label, RowKind.BASE, shots=num, server=spec.server))
    order = {spec: index for index, spec in enumerate(specs)}
    return tuple(sorted(rows, key=lambda row: order[by_label[row.label][0]]))


def write_plan(directory: Path, plan: Plan) -> None:
    """Writes `plan.json`."""
    fields = {"format": _PLAN_FORMAT, **asdict(plan)}
    write_text(directory / PLAN_FILE, [json.dumps(fields, indent=2, default=str), "\n"])


def read_plan(directory: Path) -> Plan:
    """Reads `plan.json`. Raises InputError if it is missing or not one of ours."""
    path = directory / PLAN_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != _PLAN_FORMAT:
            raise ValueError("another format")
        return _PLAN.validate_python(fields)
    except OSError as error:
        raise InputError(
            f"{path}: no run to read: {error.strerror}; name its folder with --out, or run it"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the plan of a run") from error
