"""The verb `train`: from configurations to published adapters."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint, distributed, facts, files, folder, preflight, turns
from trainer.build import load_base
from trainer.config import TrainConfig
from trainer.config_file import config_hash
from trainer.distributed import Group
from trainer.errors import BaseModelError
from trainer.estimate import MemoryEstimate, check_memory
from trainer.inputs import check_inputs, of_job
from trainer.preflight.records import write_records
from trainer.resolve import detect_hardware, resolve
from trainer.run_file import Run
from trainer.shared import SharedBase
from trainer.writing import write_json
from understudy.artifact import ArtifactError, base_fingerprint

Bases = dict[tuple[str, str], SharedBase]
"""Bases in memory, by task and quantization."""
Watch = Callable[[int, float], None]
"""Gets step and score, larger being better, after a validation."""


@dataclass(frozen=True)
class TrainOptions:
    """How to run, apart from what to train."""

    resume: bool = False
    """Continue from the checkpoint in the output folder."""
    overwrite: bool = False
    """Replace an earlier run in the output folder."""
    quiet: bool = False
    """Print no progress."""


def train(config: TrainConfig, options: TrainOptions) -> dict[str, Any]:
    """Trains, exports, checks and publishes one adapter; returns the summary for `--json`.

    Raises TrainerError.
    """
    summary: dict[str, Any] = train_all(Run.of(config), options)["jobs"][0]
    return summary


def train_all(
    run: Run,
    options: TrainOptions,
    kept: Bases | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains every job of `run` over one base; returns `jobs`, the summary of each, and `memory`.

    Bases in `kept` are taken from there, and those loaded are put there, for the next run over the
    same base on the same device; they are left as they were. `watch` gets step and score, larger
    being better, after each validation of a single job, and may raise to end the run there.

    Writes `metrics.jsonl`, `loss.png` and `adapter/` into each job's folder, and `config.json`,
    `checkpoint.pt` and `summary.json` into the run's. Where one of several jobs fails, its summary
    holds `error`. Raises TrainerError.
    """
    whole = resolved(run)
    with (
        distributed.joined(whole.configs[0].device or "cpu") as group,
        distributed.folders_of(whole, group) as own,
    ):
        return _train_resolved(own, whole.directory, options, group, kept, watch)


def _train_resolved(
    run: Run,
    directory: Path,
    options: TrainOptions,
    group: Group,
    kept: Bases | None,
    watch: Watch | None,
) -> dict[str, Any]:
    """Of one of the processes in `group`; what is resumed lies in `directory`."""
    configs = run.configs
    quiet = options.quiet or group.rank > 0
    fresh = not (options.resume or options.overwrite)
    with group.together():
        prepared = check(run, directory, options, quiet=quiet).prepared
        base_hash = _base_hash(configs[0])
    if group.rank == 0:
        for line in (line for inputs in prepared for line in inputs.notes):
            print(line, file=sys.stderr)
    members = [
        turns.Member(config, inputs, _identity(config, inputs, base_hash), group)
        for config, inputs in zip(configs, prepared, strict=True)
    ]
    with ExitStack() as stack:
        with group.together():
            stack.enter_context(folder.locked(run))
            if fresh:
                # Again: another process may have been here since.
                folder.check_unused(run)
            saved = _saved(directory, members) if options.resume else {}
            folder.begin(run, keep=options.resume)
            for config, inputs in zip(configs, prepared, strict=True):
                write_records(config, inputs)
            tasks = sorted({inputs.objective.task for inputs in prepared})
            bases = {task: _base(configs[0], task, kept) for task in tasks}
        turns.run(
            members,
            bases,
            run.directory,
            saved,
            alone=len(members) == 1 and kept is None,
            quiet=quiet,
            watch=watch,
            group=group,
        )
        summary = _summary(members, bases)
        write_json(run.directory / files.SUMMARY, summary)
    return summary


def resolved(run: Run) -> Run:
    """`run` with what its configurations leave to method and machine. Raises ConfigError.

    Sets torch's number of threads.
    """
    hardware = detect_hardware()
    configs = [of_job(run, config, partial(resolve, config, hardware)) for config in run.configs]
    if configs[0].num_threads is not None:
        torch.set_num_threads(configs[0].num_threads)
    return replace(run, configs=tuple(configs))


@dataclass(frozen=True)
class Checked:
    """A run that nothing stands against, before the weights load."""

    prepared: list[preflight.Prepared]
    """The inputs of each job."""
    memory: MemoryEstimate
    """Of all jobs together."""


def check(run: Run, directory: Path, options: TrainOptions, *, quiet: bool) -> Checked:
    """Everything that can refuse a resolved run. Raises InputError.

    What is resumed lies in `directory`. Writes nothing but, of data that streams, the token ids,
    which the run then takes from there.
    """
    check_inputs(run, directory, resume=options.resume, overwrite=options.overwrite)
    prepared = [
        of_job(run, config, partial(preflight.prepare, config, quiet=quiet))
        for config in run.configs
    ]
    return Checked(prepared, check_memory(run.configs, prepared))


def _base(config: TrainConfig, task: str, kept: Bases | None) -> SharedBase:
    key = (task, config.quantization)
    if kept is None or key not in kept:
        loaded = load_base(config, task)
        if kept is None:
            return loaded
        kept[key] = loaded
    return kept[key]


def _summary(members: list[turns.Member], bases: dict[str, SharedBase]) -> dict[str, Any]:
    num_base_bytes = sum(base.num_bytes for base in bases.values())
    each = [bases[member.prepared.objective.task].num_bytes for member in members]
    return {
        "jobs": [
            {**(member.summary or _failure(member)), "state_bytes": member.num_state_bytes}
            for member in members
        ],
        "memory": {
            "base_bytes": num_base_bytes,
            "saved_bytes": sum(each) - num_base_bytes,
            "state_bytes": sum(member.num_state_bytes for member in members),
            "peak_bytes": facts.peak_memory_bytes(),
            "peak_device_bytes": facts.peak_device_memory_bytes(members[0].config.device or "cpu"),
        },
    }


def _failure(member: turns.Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "method": member.config.method.type,
        "steps": member.step,
        "error": str(member.error),
    }


def _saved(directory: Path, members: list[turns.Member]) -> dict[str, checkpoint.Saved]:
    """What the run's checkpoint holds; nothing if it ended before the first one."""
    path = directory / files.CHECKPOINT
    if not path.is_file():
        return {}
    return checkpoint.load(path, {member.name: member.identity for member in members})


def _base_hash(config: TrainConfig) -> str:
    try:
        return base_fingerprint(config.base)
    except ArtifactError as error:
        raise BaseModelError(f"base {str(config.base)!r}: {error}") from error


def _identity(
    config: TrainConfig, prepared: preflight.Prepared, base_hash: str
) -> checkpoint.Identity:
    return checkpoint.Identity(
        config=config_hash(config),
        data=prepared.data_hash(),
        base=base_hash,
        reading=prepared.reading_hash(),
    )
