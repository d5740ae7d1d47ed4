"""A comparison's result as rows, and the rows as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.compare.scoring import row_of
from trainer.compare.settings import Comparison
from trainer.compare.training import Trained

FORMAT = 1


@dataclass(frozen=True)
class Change:
    """A paired difference from the bare base, more being better, with its 95% interval."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    p_adjusted: float | None
    """Corrected over all methods and tasks."""
    finding: str
    """`gain`, `loss`, `unclear` or `unscored`."""


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95% interval."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class MethodRow:
    """One method."""

    label: str
    type: str
    learning_rate: float
    num_parameters: int
    size_bytes: int
    """Of the tensors on disk."""
    state_bytes: int
    """Memory of what training keeps from step to step: parameters, optimiser, best state."""
    steps: int
    num_tokens: int
    training_s: float
    tokens_per_s: float
    validation_loss: float | None
    content_hash: str
    score: Score
    gain: Change
    forgetting: dict[str, Change] = field(default_factory=dict)
    """Change on each of the other tasks."""


@dataclass(frozen=True)
class Result:
    """All of it."""

    name: str
    base: str
    quantization: str
    task: str
    metric: str
    num_samples: int
    base_score: Score
    rows: tuple[MethodRow, ...]
    """The highest score first."""
    failed: dict[str, str]
    """Method -> why it could not be trained."""
    others: dict[str, str]
    """Other task -> its metric."""
    base_bytes: int
    """Memory of the base's weights while training, once for all methods."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"format": FORMAT, **asdict(self)}


def build_result(
    comparison: Comparison, trained: Sequence[Trained], scored: Mapping[str, Any]
) -> Result:
    """Puts training runs and scores together."""
    matrix, report = scored["matrix"], scored["report"]
    task, *others = matrix["tasks"]
    metric = matrix["tasks"][task]["metric"]
    config = comparison.entries[0].config
    rows = [
        _row(found, matrix["rows"][row_of(found)]["cells"], task, others)
        for found in trained
        if found.done is not None
    ]
    bare = report["tasks"][task]["rows"][matrix["base"]]["metrics"][metric]
    return Result(
        name=comparison.name,
        base=config.base.resolve().name,
        quantization=config.quantization,
        task=task,
        metric=metric,
        num_samples=matrix["tasks"][task]["num_samples"],
        base_score=Score(bare["value"], bare["ci_low"], bare["ci_high"]),
        rows=tuple(sorted(rows, key=lambda row: -(row.score.value or 0.0))),
        failed={f.entry.label: f.error for f in trained if f.error is not None},
        others={name: matrix["tasks"][name]["metric"] for name in others},
        base_bytes=max(f.done.base_bytes for f in trained if f.done is not None),
    )


def _row(found: Trained, cells: Mapping[str, Any], task: str, others: Sequence[str]) -> MethodRow:
    assert found.done is not None
    summary, facts, config = found.done.summary, found.done.facts, found.entry.config
    assert config.optimiser.learning_rate is not None
    own = cells[task]
    folder = Path(summary["artifact"])
    return MethodRow(
        label=found.entry.label,
        type=config.method.type,
        learning_rate=config.optimiser.learning_rate,
        num_parameters=facts["num_trainable_parameters"],
        size_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        state_bytes=summary["state_bytes"],
        steps=summary["steps"],
        num_tokens=facts["num_tokens"],
        training_s=summary["training_s"],
        tokens_per_s=summary["tokens_per_s"],
        validation_loss=summary["validation_loss"],
        content_hash=summary["content_hash"],
        score=Score(own["value"], own["value_ci_low"], own["value_ci_high"]),
        gain=_change(own),
        forgetting={name: _change(cells[name]) for name in others},
    )


def _change(cell: Mapping[str, Any]) -> Change:
    return Change(
        cell["gain"], cell["ci_low"], cell["ci_high"], cell["p_adjusted"], cell["finding"]
    )


def columns(result: Result) -> list[str]:
    """The table's head."""
    return [
        "method",
        result.metric,
        "gain over base",
        *(f"change on {name} ({metric})" for name, metric in result.others.items()),
        "validation loss",
        "parameters",
        "on disk",
        "state",
        "time",
        "tokens/s",
    ]


def lines(result: Result) -> list[list[str]]:
    """The table's lines: the bare base, then the methods."""
    blank = [""] * (len(columns(result)) - 2)
    return [
        ["base", _interval(result.base_score), *blank],
        *(
            [
                row.label,
                _interval(row.score),
                _signed(row.gain),
                *(_signed(row.forgetting[name]) for name in result.others),
                "" if row.validation_loss is None else f"{row.validation_loss:.3f}",
                f"{row.num_parameters:,}",
                _kib(row.size_bytes),
                _kib(row.state_bytes),
                f"{row.training_s:.0f} s",
                f"{row.tokens_per_s:,.0f}",
            ]
            for row in result.rows
        ),
    ]


def caption(result: Result) -> str:
    """What the numbers are."""
    text = (
        f"{result.metric} on the first {result.num_samples} test samples of {result.task}, with "
        f"95% intervals; differences from the bare {result.base} ({result.quantization}) are "
        "paired. A star marks a change that is shown after correction over the whole table "
        "(Holm). State: what training keeps in memory from step to step beside the base's "
        f"{_kib(result.base_bytes)}."
    )
    for label, error in result.failed.items():
        text += f" {label} was not trained: {error}."
    return text


def to_markdown(result: Result) -> str:
    """The table in Markdown, with its caption."""
    head = columns(result)
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines(result)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{caption(result)}\n"


def _interval(score: Score) -> str:
    if score.value is None:
        return "unscored"
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}]"


def _signed(change: Change) -> str:
    if change.value is None:
        return "unscored"
    star = " *" if change.finding in ("gain", "loss") else ""
    if change.ci_low is None or change.ci_high is None:
        return f"{change.value:+.3f}{star}"
    return f"{change.value:+.3f} [{change.ci_low:+.3f}, {change.ci_high:+.3f}]{star}"


def _kib(num_bytes: int) -> str:
    return f"{num_bytes / 2**10:,.0f} KiB"
