"""Scores what a comparison trained: a server and the eval suite, as processes."""

import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trainer.compare.settings import EVALUATION, STORE, Comparison
from trainer.compare.training import Trained
from trainer.errors import ConfigError, TrainerError
from understudy import processes
from understudy.processes import ChildError, python

# Beside what has been trained by then, half an hour on a busy machine is worth waiting for.
READY_TIMEOUT_S = 1800.0
MATRIX_FILE, REPORT_FILE = "matrix.json", "report.json"


def score(comparison: Comparison, trained: Sequence[Trained], task: str) -> dict[str, Any]:
    """Asks the bare base and everything trained; returns the eval suite's matrix and report.

    `task` is the name of the task that the adapters are for. Answers already in the evaluation's
    log are not asked again. Raises TrainerError if a process fails.
    """
    directory = comparison.directory
    out = directory / EVALUATION
    out.mkdir(parents=True, exist_ok=True)
    config = comparison.entries[0].config
    flags = ["--base", str(config.base), "--quantization", config.quantization]
    flags += ["--name", config.base.resolve().name, "--store", str(directory / STORE)]
    done = [found for found in trained if found.done is not None]
    try:
        with ExitStack() as stack:
            server = stack.enter_context(processes.server(flags, out, READY_TIMEOUT_S))
            rows, own = ["base"], []
            for found in done:
                assert found.done is not None
                label = row_of(found)
                if found.entry.trains_base:
                    folder = out / found.entry.label
                    folder.mkdir(exist_ok=True)
                    base = ["--base", found.done.summary["artifact"], "--quantization", "none"]
                    other = stack.enter_context(processes.server(base, folder, READY_TIMEOUT_S))
                    rows.append(f"{label}={other.address}/base")
                else:
                    rows.append(label)
                own.append(f"{label}={task}")
            processes.run(
                _command(comparison, server.address, rows, own, out),
                "scoring",
                out / "evalsuite.log",
            )
    except ChildError as error:
        raise TrainerError(str(error)) from error
    return {"matrix": _read(out / MATRIX_FILE), "report": _read(out / REPORT_FILE)}


def row_of(found: Trained) -> str:
    """The eval suite's name for a row: an adapter at the version that was trained, or a base."""
    assert found.done is not None
    if found.entry.trains_base:
        return found.entry.label
    return f"{found.entry.adapter}@{found.done.summary['version']}"


def check_tasks(comparison: Comparison) -> str:
    """Reads the tasks with their data, as scoring will; returns the name of the one that the
    adapters are for, which stands in its file. Raises ConfigError for what the eval suite refuses.
    """
    own, others = comparison.settings.task, comparison.settings.forgetting
    names = _names(comparison, "task", [own])
    if len(names) > 1:
        raise ConfigError(
            f"key 'compare.task': {own!r} holds several tasks ({', '.join(names)}); give a file "
            "of one"
        )
    twice = set(names) & set(_names(comparison, "forgetting", others) if others else ())
    if twice:
        raise ConfigError(
            f"key 'compare.forgetting': {twice.pop()!r} is the name of compare.task too; leave it "
            "out"
        )
    return names[0]


def _names(comparison: Comparison, key: str, tasks: Sequence[str]) -> list[str]:
    command = python("evalsuite", "tasks", "--json", "--tasks", ",".join(tasks))
    command += _data_flags(comparison)
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        said = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
        said = said.removeprefix("evalsuite: ").removeprefix("--tasks: ")
        raise ConfigError(f"key 'compare.{key}': {said}")
    return [task["name"] for task in json.loads(child.stdout)]


def _data_flags(comparison: Comparison) -> list[str]:
    folder = comparison.settings.data_dir
    return [] if folder is None else ["--data-dir", str(folder)]


def _command(
    comparison: Comparison, address: str, rows: Sequence[str], own: Sequence[str], out: Path
) -> list[str]:
    settings = comparison.settings
    command = python("evalsuite", "matrix", "--server", address, "--adapters", ",".join(rows))
    command += ["--tasks", ",".join([settings.task, *settings.forgetting])]
    command += ["--own", ",".join(own), "--limit", str(settings.limit)]
    command += ["--seed", str(settings.seed), "--shots", "0", "--out", str(out)]
    return command + _data_flags(comparison)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
