"""Passages about made-up people, places and things, with what they tell and what they leave out.

What can be said stands in `instruct_subjects.yaml`. A fact that a passage leaves out has a
question too, which the passage does not answer.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from demo.tasks.base_phrases import fault, noun
from demo.tasks.base_words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    HOBBIES,
    JOBS,
    MONTHS,
    NUMBER_WORDS,
    PLACES,
    SURNAME_STARTS,
    article,
    clock,
    first_name,
    person,
    sentence,
    surname,
    town,
)
from demo.tasks.instruct_words import HE_NAMES, SHE_NAMES
from demo.tasks.rows import phrases, words

MATERIALS = words("wood steel brass clay glass wool leather cotton tin copper paper stone wax felt")
WEATHERS = words("wet sunny foggy stormy mild icy windy warm cloudy dull")
TRANSPORTS = phrases(
    "by boat|on foot|by tram|on horseback|by bicycle|by night train|in an old van|by canoe"
)
GOODS = phrases(
    """rye bread|brown eggs|old maps|warm socks|plum cake|silver rings|painted cups|used books
    |garden tools|goat cheese|apple pie|wool hats|wooden toys|green tea|spare parts|blue glass"""
)
PLANTS = phrases(
    "tall roses|onions|wild herbs|red tulips|beans|sunflowers|plum trees|nettles|lilies|pumpkins"
)
STREETS = words("Street Road Lane Square Avenue Alley")
FILLERS = phrases(
    """That is what people say.|Not everybody knows this.|It has been so for a long time.
    |Nobody would have thought so.|At least that is how it was told.|Some find it strange.
    |The neighbours talk about it now and then.|There is more to tell, but not today.
    |A local paper wrote about it.|So much for the facts.|One may think of it what one likes.
    |All of this is well known here.|It may change one day.|Few people ever asked why."""
)

POOLS: Mapping[str, Callable[[random.Random], str]] = {
    "town": town,
    "a_job": lambda rng: article(rng.choice(JOBS)),
    "food": lambda rng: rng.choice(FOODS),
    "hobby": lambda rng: rng.choice(HOBBIES),
    "age": lambda rng: str(rng.randint(6, 90)),
    "animal": lambda rng: rng.choice(ANIMALS),
    "a_animal": lambda rng: article(f"{rng.choice(COLOURS)} {rng.choice(ANIMALS)}"),
    "the_thing": lambda rng: f"the {noun(rng)}",
    "name": person,
    "surname": surname,
    "month": lambda rng: rng.choice(MONTHS),
    "day": lambda rng: rng.choice(DAYS),
    "street": lambda rng: f"{rng.choice(SURNAME_STARTS)} {rng.choice(STREETS)}",
    "clock": clock,
    "goods": lambda rng: rng.choice(GOODS),
    "year": lambda rng: str(rng.randint(1780, 2015)),
    "small": lambda rng: rng.choice(NUMBER_WORDS[2:]),
    "place": lambda rng: rng.choice(PLACES),
    "price": lambda rng: f"{rng.randint(2, 95)} {rng.choice(('pounds', 'coins', 'dollars'))}",
    "big": lambda rng: str(rng.randint(3, 90) * 10),
    "transport": lambda rng: rng.choice(TRANSPORTS),
    "days": lambda rng: f"{rng.choice(NUMBER_WORDS[2:])} days",
    "weather": lambda rng: rng.choice(WEATHERS),
    "colour": lambda rng: rng.choice(COLOURS),
    "material": lambda rng: rng.choice(MATERIALS),
    "weight": lambda rng: f"{rng.randint(2, 80)} kilos",
    "fault": fault,
    "plants": lambda rng: rng.choice(PLANTS),
}


@dataclass(frozen=True)
class Fact:
    """A fact with `{s}` and `{v}` open; sentences, questions and claim end without a mark."""

    key: str
    pool: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    claim: str


@dataclass(frozen=True)
class Told:
    """A fact about one subject, with its value."""

    subject: str
    fact: Fact
    value: str

    def fill(self, text: str, value: str | None = None) -> str:
        """A sentence or claim with subject and value, or with another value."""
        filled = text.replace("{s}", self.subject).replace("{v}", value or self.value)
        return f"{sentence(filled)}."

    def question(self, rng: random.Random) -> str:
        """One of the fact's questions."""
        return rng.choice(self.fact.questions).replace("{s}", self.subject) + "?"

    def claim(self, value: str | None = None) -> str:
        """The fact in its plainest form, or the same claim with another value."""
        return self.fill(self.fact.claim, value)

    def other(self, rng: random.Random) -> str:
        """A wrong value of the same pool."""
        while (value := POOLS[self.fact.pool](rng)) == self.value:
            pass
        return value


@dataclass(frozen=True)
class Passage:
    """A text, what it tells in the order of its sentences, and what it does not tell."""

    kind: str
    subject: str
    text: str
    told: tuple[Told, ...]
    untold: tuple[Told, ...]


@cache
def subjects() -> Mapping[str, tuple[tuple[str, ...], tuple[Fact, ...]]]:
    """Per kind of subject: forms of its name, and its facts."""
    path = Path(__file__).with_suffix(".yaml")
    found = {}
    for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        facts = tuple(
            Fact(
                key.replace(" ", "_"),
                fact["pool"],
                tuple(fact["sentences"].split(" / ")),
                tuple(fact["questions"].split(" / ")),
                fact["claim"],
            )
            for key, fact in entry["facts"].items()
        )
        found[name] = (tuple(entry["forms"].split(" / ")), facts)
    return found


def subject(rng: random.Random, kind: str) -> tuple[str, str]:
    """A name for a subject of this kind, and its pronoun."""
    form = rng.choice(subjects()[kind][0])
    if kind == "person" and rng.random() < 0.7:
        pool, pronoun = rng.choice(((SHE_NAMES, "she"), (HE_NAMES, "he")))
        family = f" {surname(rng)}" if rng.random() < 0.4 else ""
        return rng.choice(pool) + family, pronoun
    name = first_name(rng) if "animal" in form or " of " in form else surname(rng)
    values = {
        "name": person(rng) if kind == "person" else name,
        "noun": rng.choice((noun, noun))(rng),
        "animal": rng.choice(ANIMALS),
    }
    return form.format(**values), "" if kind == "person" else "it"


def passage(rng: random.Random, least: int = 3, most: int = 6, fillers: int = 1) -> Passage:
    """A passage of `least` to `most` facts about one subject, with up to `fillers` idle lines."""
    kind = rng.choice(sorted(subjects()))
    about, pronoun = subject(rng, kind)
    facts = rng.sample(subjects()[kind][1], len(subjects()[kind][1]))
    # Every fact has another pool or value, so that no answer fits two questions.
    everything = [Told(about, fact, POOLS[fact.pool](rng)) for fact in facts]
    count = min(rng.randint(least, most), len(facts) - 1)
    lines: list[str] = []
    for told in everything[:count]:
        usable = [text for text in told.fact.sentences if lines or "{s}" in text]
        line = rng.choice(usable or [told.fact.claim])
        if lines and pronoun and rng.random() < 0.5:
            line = re.sub(r"^\{s\} ", f"{pronoun} ", line)
        lines.append(told.fill(line))
    for _ in range(rng.randint(0, fillers)):
        lines.insert(rng.randint(1, len(lines)), rng.choice(FILLERS))
    return Passage(
        kind, about, " ".join(lines), tuple(everything[:count]), tuple(everything[count:])
    )
