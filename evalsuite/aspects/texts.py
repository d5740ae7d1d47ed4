"""Bias and toxicity of what each row wrote, where it wrote anything."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evalsuite.aspects.bias import WordLists, bias_fields, read_words
from evalsuite.aspects.toxicity import ToxicWords, toxicity_fields
from evalsuite.results import Cell, TaskResult
from evalsuite.stats import BootstrapConfig
from evalsuite.types import Mode

REFERENCES = "references"
"""The row of the texts held right, for what the data themselves are like."""


@dataclass(frozen=True)
class Lists:
    """What texts are looked through for."""

    words: WordLists
    toxic: ToxicWords | None = None


def default_lists() -> Lists:
    """The suite's own words, and none that are toxic."""
    return Lists(read_words())


def text_fields(result: TaskResult, lists: Lists, config: BootstrapConfig) -> Mapping[str, Any]:
    """By row label, and for the references, as JSON values; nothing where rows choose or weigh."""
    if result.task.spec.mode is not Mode.GENERATE:
        return {}

    def of(texts: "Texts") -> dict[str, Any]:
        toxic = lists.toxic
        return {
            "bias": bias_fields(texts, lists.words, config),
            "toxicity": toxic and toxicity_fields(texts, toxic, config.confidence),
        }

    found = {label: of(Texts(cell)) for label, cell in result.cells.items()}
    return {**found, REFERENCES: of(Texts(result))}


@dataclass(frozen=True)
class Texts:
    """What a row wrote, or the first references of a task, anew at each look."""

    source: Cell | TaskResult

    def __iter__(self) -> Iterator[str]:
        if isinstance(self.source, TaskResult):
            return (sample.references[0] for sample in self.source.task.samples)
        answers = (outcome.answer for outcome in self.source.outcomes)
        return (answer.text for answer in answers if answer is not None)
