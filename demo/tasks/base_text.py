"""Generated English for pretraining the embedded base.

It teaches copying and looking up (a phrase read once is needed again), question answering over a
short passage, lists, rewrites, opinions with a verdict, dates, sums in words and simple
entailment. Only this package's `base_*` pools are used, never a pool or a template of a demo
task, and no demo prompt.
"""

import argparse
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping

from demo.tasks import base_notes, base_reviews
from demo.tasks.base_phrases import noun
from demo.tasks.base_words import (
    ADJECTIVES,
    ANIMALS,
    COLOURS,
    DAYS,
    FIRST_NAMES,
    FOODS,
    HOBBIES,
    JOBS,
    MONTHS,
    NUMBER_WORDS,
    PLACES,
    TIMES_OF_DAY,
    article,
    first_name,
    made_up_word,
    people,
    sentence,
    town,
)

CHAT_SHARE = 0.15  # of the questions and answers that are written with the control tokens


def facts(rng: random.Random) -> str:
    """A passage about one to three people, then questions whose answers stand in it."""
    names = people(rng, rng.randint(1, 3))
    lines: list[str] = []
    asked: list[tuple[str, str]] = []
    for name in names:
        home, job, food = town(rng), rng.choice(JOBS), rng.choice(FOODS)
        thing, colour, animal = noun(rng), rng.choice(COLOURS), rng.choice(ANIMALS)
        hobby, place, pet = rng.choice(HOBBIES), rng.choice(PLACES), first_name(rng)
        age = rng.randint(6, 90)
        options = [
            (f"{name} lives in {home}.", f"Where does {name} live?", f"In {home}."),
            (f"{name} is {article(job)}.", f"What is the job of {name}?", f"{sentence(job)}."),
            (f"{name} likes {food}.", f"What does {name} like to eat?", f"{sentence(food)}."),
            (f"{name} has lost the {thing}.", f"What did {name} lose?", f"The {thing}."),
            (
                f"{name} has a {colour} {animal} called {pet}.",
                f"What is the {animal} of {name} called?",
                f"{pet}.",
            ),
            (f"{name} enjoys {hobby}.", f"What does {name} enjoy?", f"{sentence(hobby)}."),
            (f"{name} is now at {place}.", f"Where is {name}?", f"At {place}."),
            (f"{name} is {age} years old.", f"How old is {name}?", f"{age}."),
            (f"The {thing} belongs to {name}.", f"Who owns the {thing}?", f"{name}."),
            (
                f"The {colour} door is where {name} works.",
                f"Who works behind the {colour} door?",
                f"{name}.",
            ),
        ]
        for line, question, answer in rng.sample(options, rng.randint(2, 4)):
            lines.append(line)
            asked.append((question, answer))
    if rng.random() < 0.5:
        rng.shuffle(lines)
    return " ".join(lines) + "\n\n" + questions(rng, asked)


def questions(rng: random.Random, asked: list[tuple[str, str]]) -> str:
    """Some of the questions with their answers, in one of several written forms."""
    chosen = rng.sample(asked, min(len(asked), rng.randint(2, 4)))
    if rng.random() < CHAT_SHARE:
        return "".join(
            f"<|user|>{question}<|end|><|assistant|>{answer}<|end|>" for question, answer in chosen
        )
    form = rng.choice(
        ("Question: {}\nAnswer: {}", "Q: {}\nA: {}", "{} {}", "- {}\n- {}", '"{}" "{}"')
    )
    return "\n".join(form.format(question, answer) for question, answer in chosen)


def repeats(rng: random.Random) -> str:
    """A list that is written out again, whole or in part."""
    count = rng.randint(3, 7)
    kind = rng.random()
    if kind < 0.4:
        words = [made_up_word(rng) for _ in range(count)]
    elif kind < 0.7:
        words = people(rng, count)
    elif kind < 0.85:
        words = [f"{rng.choice(ADJECTIVES)} {noun(rng)}" for _ in range(count)]
    else:
        words = [str(rng.randint(10, 99999)) for _ in range(count)]
    listed = ", ".join(words)
    form = rng.randrange(6)
    if form == 0:
        return f"The list: {listed}.\nThe same list once more: {listed}."
    if form == 1:
        return f"{listed}\n{listed}\n{listed}"
    if form == 2:
        return f"{listed}\nFirst: {words[0]}\nSecond: {words[1]}\nLast: {words[-1]}"
    if form == 3:
        index = rng.randrange(count - 1)
        return f"{listed}\nAfter {words[index]} comes {words[index + 1]}."
    if form == 4:
        lines = "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1))
        index = rng.randrange(count)
        return f"{lines}\nNumber {index + 1} is {words[index]}. All of them: {listed}."
    return (
        f'Say "{words[0]}". - "{words[0]}." Say "{words[1]} {words[2]}". - "{words[1]} {words[2]}."'
    )


def story(rng: random.Random) -> str:
    """A short story in which the people and things come back."""
    a, b = people(rng, 2)
    thing, place, other_place = noun(rng), *rng.sample(PLACES, 2)
    animal, food, home = rng.choice(ANIMALS), rng.choice(FOODS), town(rng)
    day, hobby = rng.choice(DAYS), rng.choice(HOBBIES)
    openings = (
        f"{a} lived in {home} and loved {hobby}.",
        f"Once there was {article(rng.choice(JOBS))} called {a}.",
        f"On {day} {a} went to {place}.",
        f"Everybody in {home} knew {a}.",
    )
    middles = (
        f'One day {a} could not find the {thing}. "Where is my {thing}?" asked {a}.',
        f"There {a} met {b}, who had {article(rng.choice(ADJECTIVES))} {animal}.",
        f"{b} gave {a} some {food}, because {a} was hungry.",
        f'"Let us go to {other_place}," said {b}. So they went to {other_place}.',
        f"The {animal} ran away with the {thing}, and {b} ran after the {animal}.",
        f"{a} asked {b} for help {rng.choice(TIMES_OF_DAY)}.",
        f"It began to rain, and {a} and {b} waited at {other_place}.",
    )
    endings = (
        f"In the end {b} found the {thing} and gave it back to {a}.",
        f"{a} thanked {b}, and they ate {food} together.",
        f"Since that day {a} and {b} have been friends.",
        f'"Here is your {thing}," said {b}. {a} was very happy.',
        f"Then {a} went home to {home}.",
    )
    parts = [rng.choice(openings), *rng.sample(middles, rng.randint(2, 4)), rng.choice(endings)]
    return " ".join(parts)


def sums(rng: random.Random) -> str:
    """Additions, subtractions and comparisons of small numbers, in words."""
    lines = []
    for _ in range(rng.randint(3, 6)):
        x, y = rng.randint(0, 10), rng.randint(0, 10)
        low, high = min(x, y), max(x, y)
        low_word, high_word = NUMBER_WORDS[low], NUMBER_WORDS[high]
        name, thing = rng.choice(FIRST_NAMES), rng.choice(FOODS)
        lines.append(
            rng.choice(
                (
                    f"{NUMBER_WORDS[x]} plus {NUMBER_WORDS[y]} is {NUMBER_WORDS[x + y]}.",
                    f"{high_word} minus {low_word} is {NUMBER_WORDS[high - low]}.",
                    f"{name} had {x} bags of {thing} and got {y} more. Now {name} has {x + y}.",
                    f"{high_word} is not less than {low_word}.",
                    f"{x} + {y} = {x + y}",
                )
            )
        )
    return "\n".join(sentence(line) for line in lines)


def dates(rng: random.Random) -> str:
    """Order of days and months."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        cycle = rng.choice((DAYS, MONTHS))
        at = rng.randrange(len(cycle))
        now, then = cycle[at], cycle[(at + 1) % len(cycle)]
        unit = "day" if cycle is DAYS else "month"
        lines.append(
            rng.choice(
                (
                    f"The {unit} after {now} is {then}.",
                    f"The {unit} before {then} is {now}.",
                    f"{now} is followed by {then}.",
                    f"If this {unit} is {now}, the next one is {then}.",
                )
            )
        )
    return "\n".join(lines)


def entailment(rng: random.Random) -> str:
    """A statement or two and whether another one follows."""
    a, b, c = people(rng, 3)
    word = rng.choice(("taller", "older", "faster", "stronger", "louder", "younger"))
    thing, place = noun(rng), rng.choice(PLACES)
    return rng.choice(
        (
            f"{a} is {word} than {b}. {b} is {word} than {c}. So {a} is {word} than {c}.",
            f"{a} is {word} than {b}. Is {b} {word} than {a}? No.",
            f"{a} is {word} than {b}. Who is {word}, {a} or {b}? {a}.",
            f"{a} gave the {thing} to {b}. Who has the {thing} now? {b}. Who had it before? {a}.",
            f"{a} and {b} are at {place}. Is {b} at {place}? Yes. "
            f"Is {c} at {place}? Nobody says so.",
            f"{a} took the {thing} to {place}. The {thing} is at {place}.",
            f"Either {a} or {b} has the {thing}. {a} does not have it. So {b} has the {thing}.",
        )
    )


KINDS: Mapping[str, tuple[Callable[[random.Random], str], float]] = {
    "facts": (facts, 0.17),
    "repeats": (repeats, 0.06),
    "story": (story, 0.09),
    "sums": (sums, 0.03),
    "dates": (dates, 0.02),
    "entailment": (entailment, 0.04),
    "shop_talk": (base_notes.shop_talk, 0.15),
    "favour_talk": (base_notes.favour_talk, 0.05),
    "notes": (base_notes.notes, 0.12),
    "short_forms": (base_notes.short_forms, 0.02),
    "records": (base_notes.records, 0.06),
    "letter": (base_notes.letter, 0.03),
    "review_prose": (base_reviews.review_prose, 0.15),
    "word_feelings": (base_reviews.word_feelings, 0.01),
}


def texts(seed: int, num: int) -> Iterator[str]:
    """Yields `num` documents; the same seed gives the same documents on any machine."""
    rng = random.Random(f"base_text:{seed}")
    makers = [maker for maker, _ in KINDS.values()]
    weights = [weight for _, weight in KINDS.values()]
    for _ in range(num):
        (maker,) = rng.choices(makers, weights)
        yield maker(rng)


def digest(documents: list[str]) -> str:
    """sha256 over the documents in order, each ended by a zero byte."""
    whole = hashlib.sha256()
    for document in documents:
        whole.update(document.encode() + b"\0")
    return whole.hexdigest()


def main() -> None:
    """Prints a few documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for document in texts(args.seed, args.num):
        print(document, end="\n\n---\n\n")


if __name__ == "__main__":
    main()
