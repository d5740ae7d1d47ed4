"""Demo tasks whose data this project generates itself.

Train and validation rows come from one set of slot values and wordings, test rows from another;
`check_disjoint` proves it. What the two share is listed at the top of each task's module.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.tasks import (
    base_opinions,
    base_text,
    instruct,
    order_json,
    pirate_answer,
    review_label,
    shorthand_rewrite,
    support_summary,
    ticket_route,
)
from demo.tasks.rows import SPLITS, Row, Split, make_rows

__all__ = ["SPLITS", "TASKS", "Row", "Split", "Task", "check_disjoint", "rows", "write_rows"]


@dataclass(frozen=True)
class Task:
    """A task: how to make a row, the pools of a split, and the metric it is scored with."""

    name: str
    metric: str
    make: Callable[[random.Random, Split], Row]
    pool_values: Callable[[Split], dict[str, tuple[str, ...]]]


TASKS: Mapping[str, Task] = {
    module.NAME: Task(module.NAME, metric, module.make, module.pool_values)
    for module, metric in (
        (support_summary, "rouge"),
        (shorthand_rewrite, "bleu"),
        (review_label, "accuracy"),
        (order_json, "exact_match"),
        (pirate_answer, "rouge"),
        (ticket_route, "accuracy"),
    )
}


def rows(task: str, split: Split, num: int, seed: int) -> Iterator[Row]:
    """Yields `num` rows with distinct inputs; the same arguments give the same rows."""
    return make_rows(TASKS[task].make, split, num, seed)


def write_rows(task: str, split: Split, num: int, seed: int, path: Path) -> None:
    """Writes `num` rows of one split, one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(row.to_json() + "\n" for row in rows(task, split, num, seed))
    path.write_text(lines, encoding="utf-8")


def check_disjoint(num_rows: int = 400, num_documents: int = 4000) -> list[str]:
    """Looks for anything the test split shares with training; returns one line per finding.

    Compares, per task, every pool of train with every pool of test; the slot values, templates
    and inputs of generated rows; and every test slot value and wording with generated
    pretraining text.
    """
    found: list[str] = []
    documents = [
        *base_text.texts(11, num_documents),
        *base_opinions.texts(13, num_documents),
        *base_opinions.verdict_lines(14, num_documents // 4),
        *instruct.texts(15, 5 * num_documents),
    ]
    pretraining = "\n".join(documents).lower()
    for task in TASKS.values():
        train_pools, test_pools = task.pool_values("train"), task.pool_values("test")
        train_values = {value.lower(): pool for pool, part in train_pools.items() for value in part}
        for pool, values in test_pools.items():
            for value in values:
                if value.lower() in train_values:
                    other = train_values[value.lower()]
                    found.append(f"{task.name}: {value!r} of test {pool} is in train {other}")
                low = value.lower()  # a plain search first, which is much faster
                if low in pretraining and re.search(rf"\b{re.escape(low)}\b", pretraining):
                    found.append(f"{task.name}: {value!r} of test {pool} is in pretraining text")
        train_rows = list(rows(task.name, "train", num_rows, seed=1))
        for row in rows(task.name, "test", num_rows, seed=1):
            for other_row in train_rows:
                if row.input == other_row.input or row.template_id == other_row.template_id:
                    found.append(f"{task.name}: test row {row.input!r} is also in train")
    return found
