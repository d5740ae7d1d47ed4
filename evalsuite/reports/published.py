"""Published numbers beside ours, each with whether the two may be compared, and why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

_FILE = Path(__file__).with_name("published.yaml")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Needs:
    """How a number was measured."""

    num_samples: int
    """Of the whole published set; ours must have scored all of it."""
    shots: int
    signature: tuple[str, ...] = ()
    """Parts that the metric's signature must have."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Entry:
    """Numbers of one source on one task."""

    source: str
    url: str
    task: str
    needs: Needs
    values: Annotated[tuple[Mapping[str, str | float], ...], Field(min_length=1)]
    """`model`, and values by metric name."""
    scale: float = 1.0
    never: str = ""
    """Why ours can never be compared; empty where they can."""


@dataclass(frozen=True)
class Published:
    """One published number beside one of ours."""

    task: str
    metric: str
    model: str
    value: float
    """In our metric's scale."""
    row: str
    """Of ours."""
    ours: float
    reasons: tuple[str, ...]
    """Why the two may not be compared; empty where they may."""
    source: str
    url: str


def entries() -> tuple[Entry, ...]:
    """All of published.yaml."""
    values = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Entry, ...]).validate_python(values)


def beside_ours(report: Mapping[str, Any]) -> list[Published]:
    """Every published number of the report's tasks, beside every row of ours.

    `report` is report.json's content. Another base is no reason not to compare: it is what a
    comparison is about, and stands beside the number.
    """
    found = []
    for entry in entries():
        task = report["tasks"].get(entry.task)
        if task is None:
            continue
        for values in entry.values:
            for metric, value in values.items():
                if metric == "model":
                    continue
                for label, row in task["rows"].items():
                    number = row["metrics"].get(metric)
                    if row["kind"] == "trivial" or number is None or number["value"] is None:
                        continue
                    found.append(
                        Published(
                            task=entry.task,
                            metric=metric,
                            model=str(values["model"]),
                            value=round(float(value) * entry.scale, 6),
                            row=label,
                            ours=number["value"],
                            reasons=tuple(_reasons(entry, task, row, number["signature"])),
                            source=entry.source,
                            url=entry.url,
                        )
                    )
    return found


def _reasons(
    entry: Entry, task: Mapping[str, Any], row: Mapping[str, Any], signature: str
) -> Sequence[str]:
    reasons = [entry.never] if entry.never else []
    needs = entry.needs
    if task["num_samples"] != needs.num_samples:
        reasons.append(f"on {needs.num_samples} samples, ours on {task['num_samples']}")
    elif row["num_unscored"]:
        reasons.append(f"{row['num_unscored']} of our samples are unscored")
    if row["shots"] != needs.shots:
        reasons.append(f"{needs.shots} shots, ours {row['shots']}")
    parts = signature.split("|")
    reasons += [f"needs {part}" for part in needs.signature if part not in parts]
    if row["kind"] == "adapter" and needs.shots:
        reasons.append("ours is prompted by the adapter's own template")
    return reasons
