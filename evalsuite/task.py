"""A task: what to ask, what is right, how to score. Written as YAML or as a Python module.

    name: support_summary
    data: support/test.jsonl          # rows {"input", "completion"}
    train: support/train.jsonl        # examples for the prompt and for trivial answers
    template: "Summarise.\\n{{ input }}\\nSummary:"
    metrics: [rougeL, rouge1]         # the first is the one gains are stated in
    max_tokens: 48
    stop: ["\\n"]

A Python module holds the same fields as `SPEC = TaskSpec(...)`, and may hold
`read_rows(path) -> Iterable[(line number, row)]` for a file format of its own. A module of several
tasks, or one whose rows need more than columns, holds `TASKS`, a tuple of `Definition`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from evalsuite.data import RowReader, read_rows
from evalsuite.errors import InputError
from evalsuite.metrics import MetricOptions
from evalsuite.perturbations import Perturbation
from evalsuite.samples import Columns, Convert, standard
from evalsuite.training import TrainingRows
from evalsuite.types import Metric, Mode, Sample
from understudy.prompt import PromptError, PromptTemplate


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ShotRule:
    """Where worked examples come from."""

    draw: Literal["seed", "first"] = "seed"
    """By the run's seed, balanced over right choices; or the first of the training file, as MMLU's
    own evaluation and lm-evaluation-harness do."""
    same_category: bool = False
    """Only from the sample's own category."""
    held_out: bool = True
    """Never a row whose input is a test input. Off where the published shots have such rows."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TaskSpec:
    """The fields of a task file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    data: str | tuple[str, ...]
    """Test file; a relative path starts at --data-dir, or else at the task file's folder. Of
    several, the first that exists; `*` stands for any names, whose files are read in order."""
    template: str
    """Prompt for the bare base, Jinja with the variable `input`, which is also called by its
    column's name, and those of the columns' `fields`. Adapters bring their own."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names from `evalsuite.metrics`; the first is primary."""
    mode: Mode = Mode.GENERATE
    version: int | str = 1
    """Raise it when a change makes scores incomparable."""
    licence: str = "not stated"
    source: str = "not stated"
    comparable: str = "not stated"
    """Which published numbers these scores may stand beside, and why no others."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """A row in the data's own format, made up."""
    folder: str = ""
    """Folder of the data set below --data-dir; files lie there or directly in --data-dir."""
    train: str | tuple[str, ...] | None = None
    """Training file, named like `data`; without it there are no shots and no constant answer."""
    description: str = ""
    """What stands once above all worked examples; Jinja with the sample's `fields`."""
    separator: str = "\n\n"
    """Between worked examples; also what keeps the last completion apart from the question."""
    shots: ShotRule = ShotRule()
    unconditional: str = "Answer:"
    """The prompt that says nothing, for accuracy_unconditional."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Modes choice and letter: the continuations, verbatim; empty when each row lists its own."""
    columns: Columns = Columns()
    options: MetricOptions = MetricOptions()


@dataclass(frozen=True)
class Definition:
    """A task's fields, and how its files become samples."""

    spec: TaskSpec
    convert: Convert
    read_rows: RowReader = read_rows
    """The rows of a test or training file."""

    @classmethod
    def of_columns(cls, spec: TaskSpec, reader: RowReader = read_rows) -> "Definition":
        """A task whose rows are described by `spec.columns`."""
        return cls(spec, standard(spec.columns, spec.choices, spec.mode), reader)


@dataclass(frozen=True, eq=False)
class Task:
    """A task with its data read and everything checked. Compared and hashed by identity."""

    spec: TaskSpec
    samples: Sequence[Sample]
    train: TrainingRows
    """Training rows, without those whose input is also a test input (see ShotRule.held_out)."""
    metrics: tuple[Metric, ...]
    template: PromptTemplate
    data_sha256: str
    """Of the test file; over names and hashes of several."""
    train_sha256: str | None
    subset: str = "all"
    """How `samples` were chosen from the data."""
    perturbation: Perturbation | None = None
    """How `samples` were changed."""

    @property
    def name(self) -> str:
        """The task's name, with that of its perturbation."""
        plus = f"+{self.perturbation.name}" if self.perturbation is not None else ""
        return self.spec.name + plus

    @cached_property
    def template_sha256(self) -> str:
        """Hash of everything that the base's prompts are made of, beside the samples."""
        spec = self.spec
        parts = [spec.template]
        if spec.description or spec.separator != "\n\n" or spec.shots != ShotRule():
            parts += [spec.description, spec.separator, spec.shots.draw]
            parts += [str(spec.shots.same_category), str(spec.shots.held_out)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def signature(self, shots: int = 0) -> str:
        """Task version, data, subset and prompt in one line, for numbers of the bare base."""
        parts = [f"task:{self.name}@{self.spec.version}", f"data:{self.data_sha256[:12]}"]
        parts += [f"n:{len(self.samples)}", f"subset:{self.subset}", f"mode:{self.spec.mode}"]
        if self.perturbation is not None:
            parts.append(f"perturbed:{self.perturbation.signature}")
        parts += [f"template:{self.template_sha256[:12]}", f"shots:{shots}"]
        if self.spec.mode is Mode.GENERATE:
            parts.append(f"max_tokens:{self.spec.max_tokens}")
            parts.append(f"stop:{json.dumps(self.spec.stop)}")
        return "|".join(parts)

    def prompt(self, sample: Sample, text: str | None = None) -> str:
        """The base prompt of one sample, or of `text` in its input's place, without shots."""
        values = self._values(sample, sample.input if text is None else text)
        return self._rendered(self.template, values, sample)

    def description(self, sample: Sample) -> str:
        """What stands above the worked examples in the prompt of one sample."""
        if "{" not in self.spec.description:
            return self.spec.description
        return self._rendered(self._description, self._values(sample, sample.input), sample)

    def _values(self, sample: Sample, text: str) -> Mapping[str, str]:
        return {**sample.fields, **dict.fromkeys(self.spec.columns.input_names, text)}

    @cached_property
    def _description(self) -> PromptTemplate:
        return PromptTemplate(self.spec.description)

    def _rendered(self, template: PromptTemplate, values: Mapping[str, str], sample: Sample) -> str:
        try:
            return template.render({name: values[name] for name in template.variables})
        except KeyError as error:
            raise InputError(
                f"task {self.name}: row {sample.id} has no field {error} for the template; valid: "
                f"{', '.join(sorted(values))}"
            ) from error
        except PromptError as error:
            raise InputError(f"task {self.name}: row {sample.id}: {error}") from error


def patterns(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The alternatives of a field `data` or `train`."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
