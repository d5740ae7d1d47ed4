"""`tasks` lists tasks, `show` shows a prompt, `fingerprints` marks test items for the trainer."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from evalsuite import flags
from evalsuite.errors import InputError
from evalsuite.prompts import ShotPool, few_shot_prompt
from evalsuite.record import write_text
from evalsuite.registry import Found, built_in_tasks, find, load, load_tasks
from evalsuite.task import Task, TaskSpec, patterns
from evalsuite.types import Sample
from understudy import fingerprint

_DATA_HELP = "folder of data sets, or of one"


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Flags of `tasks`."""
    parser.add_argument(
        "--tasks",
        type=flags.names,
        default=(),
        metavar="T,U",
        help="check these with their data, as run would, instead of listing the built-in ones",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(call=_list)


def add_show(parser: argparse.ArgumentParser) -> None:
    """Flags of `show`."""
    parser.add_argument("task", metavar="TASK", help="built-in name or task file, as for --tasks")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="the task's data, file or folder (default: the made-up example of the task)",
    )
    parser.add_argument("--shots", type=_count, default=0, metavar="K", help="worked examples")
    parser.add_argument("--id", metavar="ID", help="which sample (default: the first)")
    parser.add_argument("--seed", type=int, default=0, help="draws shots (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=_show)


def add_fingerprints(parser: argparse.ArgumentParser) -> None:
    """Flags of `fingerprints`."""
    parser.add_argument(
        "--tasks", required=True, type=flags.names, metavar="T,U", help="as for run"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.set_defaults(call=_fingerprints)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def _fields(spec: TaskSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "version": spec.version,
        "mode": str(spec.mode),
        "metrics": spec.metrics,
        "data": patterns(spec.data),
        "folder": spec.folder,
        "source": spec.source,
        "licence": spec.licence,
        "comparable": spec.comparable,
        "example": dict(spec.example),
    }


def _list(arguments: argparse.Namespace) -> int:
    if arguments.tasks:
        loaded = load_tasks(arguments.tasks, arguments.data_dir)
        specs = [replace(task.spec, name=task.name) for task in loaded]
    elif arguments.data_dir is not None:
        raise InputError(f"--data-dir {arguments.data_dir}: name the tasks to check with --tasks")
    else:
        specs = [found.definition.spec for found in built_in_tasks().values()]
    if arguments.json:
        print(json.dumps([_fields(spec) for spec in specs]))
        return 0
    table = Table(Column("name", no_wrap=True), "kind", "metric", "licence", "version")
    for spec in specs:
        table.add_row(spec.name, spec.mode, spec.metrics[0], spec.licence, str(spec.version))
    Console().print(table)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    name = arguments.task
    if arguments.data is not None and "=" in name:
        raise InputError(f"'{name}' names its data; leave --data out")
    items = find(name)
    if len(items) > 1:
        names = ", ".join(item.definition.spec.name for item in items)
        raise InputError(f"{name}: holds several tasks ({names}); show takes one")
    if arguments.data is None and "=" not in name and items[0].definition.spec.folder:
        return _show_example(items[0], arguments.json)
    found = items[0] if arguments.data is None else replace(items[0], data=arguments.data)
    task = load(found, None)
    sample = _sample(task, arguments.id)
    shots = ShotPool(task, arguments.shots, arguments.seed).of(sample)
    texts = sample.contexts or (None,)
    prompts = [few_shot_prompt(task, shots, sample, text) for text in texts]
    if arguments.json:
        print(json.dumps(_shown(task, sample, prompts, arguments.shots), ensure_ascii=False))
        return 0
    print(task.signature(arguments.shots))
    print(f"sample {sample.id} of {len(task.samples)}; {len(task.train)} training rows\n")
    for prompt in prompts:
        print(f"--- prompt\n{prompt}")
    for index, choice in enumerate(sample.choices):
        print(f"--- choice {index}{', right' if index == sample.target else ''}\n{choice!r}")
    if not sample.choices:
        print(f"--- completion\n{sample.right}")
        for reference in sample.references:
            print(f"--- reference\n{reference}")
    return 0


def _shown(task: Task, sample: Sample, prompts: Sequence[str], shots: int) -> dict[str, Any]:
    return {
        "task": task.name,
        "signature": task.signature(shots),
        "num_samples": len(task.samples),
        "num_train": len(task.train),
        "id": sample.id,
        "prompts": prompts,
        "choices": sample.choices,
        "target": sample.target,
        "completion": sample.right,
        "references": sample.references,
        "group": sample.group,
        "category": sample.category,
    }


def _show_example(found: Found, as_json: bool) -> int:
    """What a task is and what a row looks like, where no data were given."""
    fields = _fields(found.definition.spec)
    if as_json:
        print(json.dumps(fields, ensure_ascii=False))
        return 0
    for name, value in fields.items():
        shown = value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)
        print(f"{name}: {shown}")
    print("\n--data PATH shows a prompt with its answer")
    return 0


def _sample(task: Task, wanted: str | None) -> Sample:
    if wanted is None:
        return task.samples[0]
    found = next((sample for sample in task.samples if sample.id == wanted), None)
    if found is None:
        raise InputError(
            f"--id: task '{task.name}' has no sample '{wanted}'; the first are "
            f"{', '.join(sample.id for sample in task.samples[:3])}"
        )
    return found


def _fingerprints(arguments: argparse.Namespace) -> int:
    tasks = load_tasks(arguments.tasks, arguments.data_dir)
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: {error.strerror}") from error
    write_text(arguments.out, fingerprint.lines(_items(tasks)))
    print(f"{arguments.out}: {sum(len(task.samples) for task in tasks)} items")
    return 0


def _items(tasks: Sequence[Task]) -> Iterator[fingerprint.Fingerprint]:
    for task in tasks:
        for sample in task.samples:
            yield fingerprint.fingerprint(
                f"{task.name}@{task.spec.version}",
                task.data_sha256,
                sample.id,
                sample.input,
                (*sample.references, sample.completion),
            )
