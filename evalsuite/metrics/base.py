"""What metrics are made of: options, and the two shapes a metric takes.

A metric gives statistics per sample that can be summed, and values from sums. `MeanMetric` is the
mean of a score per sample; `SumMetric` is any other function of summed statistics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from evalsuite.types import Answer, Floats, Mode, Sample

Combine = Callable[[Sequence[Sample], Floats], Floats]
"""Statistics [N, K] of scored samples, given anew where samples are judged together."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MetricOptions:
    """Options of the metrics of one task; every one of them is part of a signature."""

    stemmer: bool = True
    """ROUGE: Porter stemmer, as in HELM and most published summarisation numbers."""
    tokenize: str = "13a"
    """BLEU: sacrebleu's tokenizer."""
    lowercase: bool = False
    """BLEU and chrF: compare lower case."""
    word_order: int = 0
    """chrF: 2 makes it chrF++."""
    ter_normalized: bool = False
    """TER: tercom's tokenizer."""
    ter_case_sensitive: bool = False
    """TER: do not lower-case."""
    ignore_case: bool = False
    """Exact match and labels in generated text."""
    ignore_punctuation: bool = False
    """Exact match."""
    extract: str | None = None
    """Exact match and numbers: a regular expression; the answer is its last match's first group,
    and wrong where there is none. References are taken whole."""
    numbers: bool = False
    """Exact match: drop thousands separators, currency signs and a final full stop."""
    no_answer: str | None = None
    """SQuAD 2.0: the normalised text that stands for there being no answer."""
    positive: int = 1
    """F1: index of the positive label."""
    number_step: Annotated[float, Field(ge=0)] = 0.0
    """Correlations: round answers to multiples of this. 0: not at all."""
    unparsable: float = -1.0
    """Correlations: what an answer without a number counts as."""


@dataclass(frozen=True)
class Context:
    """What the metrics of one task are built from."""

    options: MetricOptions
    samples: Sequence[Sample]
    mode: Mode
    """What an answer looks like: generate, choice or likelihood."""

    @cached_property
    def num_references(self) -> str:
        """The number of references, or `var`."""
        counts = {len(sample.references) for sample in self.samples}
        return str(counts.pop()) if len(counts) == 1 else "var"


@dataclass(frozen=True)
class MeanMetric:
    """The mean of a score per sample. Statistics: [score, 1]."""

    name: str
    signature: str
    mode: Mode
    score: Callable[[Sample, Answer], float]
    maximum: float = 1.0
    higher_is_better: bool = True

    def statistics(self, sample: Sample, answer: Answer) -> Floats:
        """[score, 1]."""
        return np.array([self.score(sample, answer), 1.0])

    def aggregate(self, sums: Floats) -> Floats:
        """The mean, [...] from [..., 2]."""
        return np.asarray(sums[..., 0] / sums[..., 1])

    def item(self, statistics: Floats) -> float:
        """The sample's own score."""
        return float(statistics[0])


@dataclass(frozen=True)
class SumMetric:
    """A function of statistics summed over samples."""

    name: str
    signature: str
    mode: Mode
    of_sample: Callable[[Sample, Answer], Floats]
    """[K] of one answered sample."""
    of_sums: Callable[[Floats], Floats]
    """Values [...] from [..., K]."""
    of_item: Callable[[Floats], float]
    """For reading: one sample's value from its statistics."""
    maximum: float = 1.0
    higher_is_better: bool = True
    combine: Combine | None = field(default=None, compare=False)
    """Where several samples make one item: the item's statistics in its first sample's row."""

    def statistics(self, sample: Sample, answer: Answer) -> Floats:
        """[K]."""
        return self.of_sample(sample, answer)

    def aggregate(self, sums: Floats) -> Floats:
        """[...] from [..., K]."""
        return np.asarray(self.of_sums(sums))

    def item(self, statistics: Floats) -> float:
        """For reading."""
        return self.of_item(statistics)


def ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)
