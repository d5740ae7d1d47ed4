"""What an instruction task is, and the wordings it is put in.

Wordings are the template library's (`trainer/templates/library`, read as data) or a module's own;
both hold `{field}` where a value goes.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from demo.tasks.base_words import sentence

LIBRARY = Path(__file__).resolve().parents[2] / "trainer" / "templates" / "library"
FIELD = re.compile(r"\{(\w+)\}")
TEST_WORD = "draft"  # a slot value of a test split, and in one wording of the library
LIBRARY_FIELD = re.compile(r"\{\{ (\w+) \}\}")

Fields = Mapping[str, str]
Draw = Callable[[], tuple[Fields, str]]


@dataclass(frozen=True)
class Task:
    """A wording, and how to draw what goes into it with the right answer.

    All draws of one task are of one form, so that some of them can be examples for the others.
    """

    wording: str
    draw: Draw

    def example(self) -> tuple[str, str]:
        """A prompt and its answer."""
        fields, answer = self.draw()
        return fill(self.wording, fields), answer

    def split_example(self) -> tuple[str, str, str]:
        """Instruction, prompt and answer. The instruction is "" where the wording has no lead."""
        fields, answer = self.draw()
        lead, gap, rest = self.wording.partition("\n\n")
        if not gap or FIELD.search(lead):
            return "", fill(self.wording, fields), answer
        return lead, fill(rest, fields), answer


Kind = Callable[[random.Random], Task]


def fill(wording: str, fields: Fields) -> str:
    """The wording with each `{field}` replaced; other braces stay as they are."""
    return FIELD.sub(lambda found: fields.get(found[1], found[0]), wording)


@cache
def library() -> Mapping[str, tuple[str, ...]]:
    """Wordings of the template library by family; the inverted ones under `family/inverted`."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(LIBRARY.glob("*.yaml")):
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            for key, part in ((name, "wordings"), (f"{name}/inverted", "inverted")):
                found[key] = tuple(
                    LIBRARY_FIELD.sub(r"{\1}", wording)
                    for wording in entry.get(part, ())
                    if TEST_WORD not in wording
                )
    return found


def wordings(*families: str, own: str = "") -> tuple[str, ...]:
    """The library's wordings of these families, then the own ones.

    `own` holds one wording per "|"; "/" with spaces around it stands for an empty line.
    """
    found = [wording for family in families for wording in library()[family]]
    parts = [" ".join(part.split()) for part in own.split("|")]
    return (*found, *(part.replace(" / ", "\n\n") for part in parts if part))


def say(wording: str, word: str) -> str:
    """A label as an answer: bare behind a colon, otherwise as a sentence of its own."""
    return word if wording.rstrip().endswith(":") else f"{sentence(word)}."


def listed(values: list[str] | tuple[str, ...], last: str = "or") -> str:
    """ "red, green or blue"."""
    if len(values) == 1:
        return values[0]
    return f"{', '.join(values[:-1])} {last} {values[-1]}"
