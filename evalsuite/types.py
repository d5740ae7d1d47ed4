"""The nouns of an evaluation: Sample -> Request -> Answer -> statistics -> Metric.

Array letters: N samples, K sufficient statistics of a metric, R bootstrap resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Mode(StrEnum):
    """How a task is answered."""

    GENERATE = "generate"
    """Greedy text, compared with references."""
    CHOICE = "choice"
    """The log-likelihood of each of several continuations."""
    LETTER = "letter"
    """The options stand in the prompt; the log-likelihood of each one's letter."""
    LIKELIHOOD = "likelihood"
    """The log-likelihood of the completion itself."""

    @property
    def answered_as(self) -> "Mode":
        """What an answer looks like, which decides the metrics that apply."""
        return Mode.CHOICE if self is Mode.LETTER else self


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a task."""

    id: str
    """Unique within the data: the line number, behind the file's name where there are several."""
    input: str
    references: tuple[str, ...]
    """Completions held right, verbatim from the data; at least one."""
    choices: tuple[str, ...] = ()
    """Continuations to choose from; empty in mode generate."""
    target: int | None = None
    """Index of the right choice; None in mode generate."""
    group: str = ""
    """Samples of one group share a passage and are not independent. Empty: a group of its own."""
    category: str = ""
    """Subject or sub-task: a stratum of subsets, a unit of macro averages."""
    completion: str = ""
    """What a perfect model writes, where that is more than a reference; verbatim in shots."""
    contexts: tuple[str, ...] = ()
    """One input per choice, where the choices differ in what comes before, not after."""
    target_scores: tuple[float, ...] = ()
    """Credit for each choice, where not one alone is right."""
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Further variables of the template, and what single metrics need."""

    @property
    def options(self) -> tuple[str, ...]:
        """Texts that tell the choices apart: where contexts differ, choices may be the same."""
        if not self.contexts:
            return self.choices
        return tuple(map(str.__add__, self.contexts, self.choices))

    @property
    def right(self) -> str:
        """What a perfect model writes after the prompt, verbatim."""
        if self.completion:
            return self.completion
        return self.references[0] if self.target is None else self.choices[self.target]


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the server. Equal requests get equal answers: all decoding is greedy."""

    adapter: str
    """`name@version`; empty for the bare base."""
    text: str
    raw: bool
    """True: `text` is the whole prompt. False: the server applies the adapter's own template."""
    max_tokens: int = 0
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Continuations to score. Empty: generate."""
    contexts: tuple[str, ...] = ()
    """One prompt per choice, instead of `text`."""
    unconditional: str | None = None
    """A verbatim prompt that says nothing, to score the choices behind it too."""
    text_variables: tuple[str, ...] = ()
    """Variables of the adapter's own template that `text`, or a context, fills by name."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Its other variables. Without either, a plain text fills the only one there is."""


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """The log-likelihood of one continuation."""

    logprob: float
    """Sum over its tokens, natural logarithm."""
    num_tokens: int
    num_chars: int
    """Characters without leading whitespace, the divisor of per-character normalisation."""
    num_bytes: int
    """The same in UTF-8 bytes."""
    unconditional_logprob: float | None = None
    """`logprob` behind the request's `unconditional` prompt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request."""

    text: str = ""
    """Generated text; in mode choice, without scores, the option taken."""
    choices: tuple[ChoiceScore, ...] = ()
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


class RowKind(StrEnum):
    """What answers a row of the table."""

    BASE = "base"
    TRIVIAL = "trivial"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: who answers, and how it is prompted."""

    label: str
    kind: RowKind
    adapter: str = ""
    version: str = ""
    """Content hash of the adapter; empty for base and trivial."""
    method: str = ""
    shots: int = 0
    server: str = ""
    """Where it is asked, for a row of another server than the run's."""
    variables: tuple[str, ...] = ()
    """What the adapter's prompt template reads; empty if it has none, or does not tell."""

    @property
    def reference(self) -> str:
        """The adapter as a request names it, pinned to the version seen at the start."""
        return f"{self.adapter}@{self.version}" if self.adapter else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one row did with one sample. Without an answer the sample is unscored, not zero."""

    answer: Answer | None
    request: Request | None = None
    """None for the trivial row, which asks nobody."""
    shots: int = 0
    """Examples in the prompt, after those that did not fit were dropped."""
    refusal: str = ""
    """Why there is no answer."""


class Metric(Protocol):
    """A number over samples, computed from per-sample statistics that can be summed.

    Sums make every resample of a bootstrap cheap, for corpus metrics as well as for means.
    """

    @property
    def name(self) -> str:
        """Name in task files and reports."""

    @property
    def mode(self) -> Mode:
        """Tasks it applies to."""

    @property
    def maximum(self) -> float:
        """The best possible value: 1 or 100, as the defining library has it; 0 for an error."""

    @property
    def higher_is_better(self) -> bool:
        """False for errors and perplexities."""

    @property
    def signature(self) -> str:
        """Implementation, version and every option that changes the value."""

    def statistics(self, sample: Sample, answer: Answer) -> Floats:
        """Sufficient statistics [K] of one answered sample."""

    def aggregate(self, sums: Floats) -> Floats:
        """Values [...] from statistics summed over samples [..., K]."""

    def item(self, statistics: Floats) -> float:
        """A value for one sample, for reading; not what `aggregate` averages for corpus metrics."""


@dataclass(frozen=True)
class Scores:
    """One metric over the samples of a task for one row."""

    metric: Metric
    statistics: Floats
    """[N, K]; rows of unscored samples are zero."""
    scored: Bools
    """[N]; False where a sample has no answer."""
    groups: Ints | None = None
    """[N]: equal numbers are samples of one group. None: all samples are independent."""

    @property
    def num_scored(self) -> int:
        """Samples that count."""
        return int(self.scored.sum())

    @property
    def value(self) -> float:
        """The metric over the scored samples; NaN without any."""
        return self.value_over(self.scored)

    def value_over(self, samples: Bools) -> float:
        """The metric over some of the scored samples, [N]; NaN without any."""
        if not samples.any():
            return float("nan")
        return float(self.metric.aggregate(self.statistics[samples].sum(axis=0)))
