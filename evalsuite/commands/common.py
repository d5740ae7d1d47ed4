"""What the verbs share: asking or reading back an evaluation, and the settings of its tests."""

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evalsuite import flags
from evalsuite.errors import InputError
from evalsuite.progress import ProgressBar
from evalsuite.record import AnswerLog
from evalsuite.registry import load_tasks, with_perturbations
from evalsuite.session import Plan, Played, absolute, parse_row, play, read_plan, replay
from evalsuite.stats import BootstrapConfig, Correction, TestConfig
from evalsuite.task import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What a verb wants asked, beside the flags of `flags.add_asking`."""

    rows: Sequence[str]
    tasks: Sequence[str]
    shots: Callable[[Sequence[Task]], Sequence[int]]
    """From the loaded tasks, where --shots is not given."""


def evaluated(
    arguments: argparse.Namespace, asked: Asked | None, use: Callable[[Plan, Played], T]
) -> T:
    """What `use` makes of an evaluation, while its log is open.

    `asked` None reads back the run in --out and asks nobody. Otherwise what its log lacks is asked.
    """

    async def work() -> T:
        if asked is None:
            # Before the log, which makes the directory where there is none.
            read_plan(arguments.out)
            with AnswerLog(arguments.out) as log:
                with ProgressBar() as progress:
                    plan, played = await replay(arguments.out, log, arguments.tasks, progress)
                return use(plan, played)
        specs = [parse_row(name) for name in asked.rows]
        named = with_perturbations(asked.tasks, arguments.perturb)
        tasks = load_tasks(named, arguments.data_dir, arguments.limit)
        shots = arguments.shots or asked.shots(tasks)
        data_dir = None if arguments.data_dir is None else arguments.data_dir.resolve()
        plan = Plan(absolute(named), data_dir, arguments.limit, arguments.seed)
        with AnswerLog(arguments.out) as log:
            with ProgressBar() as progress:
                played = await play(
                    plan,
                    tasks,
                    specs,
                    shots,
                    arguments.server,
                    arguments.concurrency,
                    log,
                    progress,
                )
            return use(plan, played)

    return asyncio.run(work())


def wanted(
    arguments: argparse.Namespace,
    rows: Sequence[str],
    tasks: Sequence[str],
    shots: Callable[[Sequence[Task]], Sequence[int]] = lambda _: (0,),
) -> Asked | None:
    """What to ask where --server is given; None reads back.

    Raises InputError for flags that need a server without one.
    """
    if arguments.server is None:
        for flag in ("adapters", "shots", "limit", "concurrency", "data_dir", "text", "perturb"):
            if getattr(arguments, flag, None) not in (None, ()):
                raise InputError(
                    f"--{flag.replace('_', '-')}: needs --server; without it the run in "
                    f"{arguments.out} is read back as it was asked"
                )
        return None
    for flag, values in (("tasks", tasks), ("adapters", rows)):
        if not values:
            raise InputError(f"--{flag}: needed with --server")
    return Asked(rows, tasks, shots)


def add_tests(parser: argparse.ArgumentParser, correction: Correction) -> None:
    """--alpha, --power, --correction."""
    parser.add_argument(
        "--alpha",
        type=flags.share,
        default=0.05,
        metavar="P",
        help="level of the tests (default: 0.05)",
    )
    parser.add_argument(
        "--power",
        type=flags.share,
        default=0.8,
        metavar="P",
        help="probability of finding what the minimum detectable effect says (default: 0.8)",
    )
    parser.add_argument(
        "--correction",
        type=Correction,
        choices=list(Correction),
        default=correction,
        help=f"over the whole table: holm for decisions, bh for exploring (default: {correction})",
    )


def test_config(arguments: argparse.Namespace, seed: int) -> TestConfig:
    """The settings of `add_tests`. Intervals have the confidence that belongs to the level."""
    bootstrap = BootstrapConfig(confidence=1 - arguments.alpha, seed=seed)
    return TestConfig(bootstrap, alpha=arguments.alpha, power=arguments.power)
