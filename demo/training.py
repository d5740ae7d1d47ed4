"""Data of the demo's tasks, and an adapter trained on them by the trainer as a process."""

from collections.abc import Iterable
from pathlib import Path

from demo.roles import CONFIGS, NUM_TRAIN, NUM_VALIDATION, Role
from demo.tasks import Split, write_rows
from understudy import processes
from understudy.processes import python


def make_data(directory: Path, tasks: Iterable[str], num_test: int) -> None:
    """Writes `TASK.train.jsonl`, `.validation.jsonl` and `.test.jsonl` of every task."""
    nums: dict[Split, int] = {
        "train": NUM_TRAIN,
        "validation": NUM_VALIDATION,
        "test": num_test,
    }
    for task in tasks:
        for split, num in nums.items():
            write_rows(task, split, num, seed=1, path=directory / f"{task}.{split}.jsonl")


def train(role: Role, directory: Path, base: Path, quantization: str, *settings: str) -> None:
    """Trains `role` on `directory`/data and publishes it to `directory`/store.

    `settings` are further `KEY=VALUE` of the trainer's. Raises ChildError if it fails.
    """
    data = directory / "data"
    own = {
        "base": base,
        "quantization": quantization,
        "data.train": data / f"{role.task}.train.jsonl",
        "data.validation": data / f"{role.task}.validation.jsonl",
        "output.dir": directory / "runs" / role.adapter,
        "output.store": directory / "store",
    }
    command = python("trainer", "train", str(CONFIGS / f"{role.adapter}.yaml"))
    for setting in [*(f"{key}={value}" for key, value in own.items()), *settings]:
        command += ["--set", setting]
    processes.run(command, f"training {role.adapter}")
