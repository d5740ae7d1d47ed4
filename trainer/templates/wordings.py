"""Which wording each example gets.

Training over several wordings of a task, as FLAN does (Wei et al., arXiv 2109.01652, section 2.1;
Longpre et al., arXiv 2301.13688, section 3), makes an adapter depend less on one of them. One of
them travels with the adapter, the first: validation, test and serving use no other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.data import Example, learnt_turns
from understudy.prompt import PromptTemplate


@dataclass(frozen=True)
class Wording:
    """One template and the name it is reported by."""

    name: str
    template: PromptTemplate


@dataclass(frozen=True)
class Inverted:
    """A wording that gives the completion and asks for one of the columns."""

    name: str
    template: PromptTemplate
    asks_for: str
    """The column to learn."""


@dataclass(frozen=True)
class Wordings:
    """The wordings of a run; all read the same columns."""

    all: tuple[Wording, ...]
    """The first travels with the adapter."""
    inverted: tuple[Inverted, ...] = ()
    inverted_share: float = 0.0
    """Share of the training examples that get an inverted wording."""

    @property
    def serving(self) -> PromptTemplate:
        """The template that travels with the adapter."""
        return self.all[0].template

    @property
    def is_single(self) -> bool:
        """Whether every example gets the same wording."""
        return len(self.all) == 1 and not self.inverted_share

    def report(self, num_by_wording: Mapping[str, int]) -> list[dict[str, Any]]:
        """Name, text and number of training examples of each wording, the serving one first."""
        wordings: tuple[Wording | Inverted, ...] = self.all + self.inverted
        return [
            {
                "name": wording.name,
                "template": wording.template.template,
                "num_examples": num_by_wording.get(wording.name, 0),
            }
            for wording in wordings
        ]

    def reword(self, examples: Sequence[Example], seed: int) -> list[tuple[Example, str]]:
        """Each example in its own wording, with that wording's name.

        Decided by a seeded hash of the example's content alone, so that rows added or moved change
        no other row's wording. `examples` are rendered with the first wording.
        """
        if self.is_single:
            return [(example, self.all[0].name) for example in examples]
        return [self._reworded(example, seed) for example in examples]

    def _reworded(self, example: Example, seed: int) -> tuple[Example, str]:
        digest = hashlib.sha256(f"wording/{seed}\0{example.content}".encode()).digest()
        turn, number = (int.from_bytes(digest[i : i + 8], "big") for i in (0, 8))
        if turn < self.inverted_share * 2**64:
            chosen = self.inverted[number % len(self.inverted)]
            if str(example.values[chosen.asks_for]).strip():
                return _invert(example, chosen), chosen.name
        wording = self.all[number % len(self.all)]
        template, values = wording.template, example.values
        turns = learnt_turns(template, values, example.where) if example.learnt else ()
        return replace(example, prompt=template.render(values), learnt=turns), wording.name


def _invert(example: Example, wording: Inverted) -> Example:
    values = dict(example.values)
    learnt = values.pop(wording.asks_for)
    assert isinstance(learnt, str)
    prompt = wording.template.render({**values, "completion": example.completion})
    return replace(example, prompt=prompt, completion=learnt)
