"""Lists: sorting, counting, picking, and copying."""

import random
from collections.abc import Callable, Mapping

from demo.tasks.base_phrases import NOUNS, noun
from demo.tasks.base_words import COLOURS, NUMBER_WORDS, made_up_word, people, town
from demo.tasks.instruct_forms import Fields, Kind, Task, wordings
from demo.tasks.instruct_words import CATEGORIES, PLURALS, apart

ORDINALS = ("first", "second", "third", "fourth", "fifth")


def plain_words(rng: random.Random, count: int) -> list[str]:
    """Different single words, all of one kind."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.sample(NOUNS, count)
    if kind == 1:
        pool = sorted({word for part in CATEGORIES.values() for word in part})
        return rng.sample(pool, count)
    make = made_up_word if kind == 2 else town
    found: list[str] = []
    while len(found) < count:
        value = make(rng)
        if value not in found:
            found.append(value)
    return found


def phrases_of(rng: random.Random, count: int) -> list[str]:
    """Different words, names or phrases, all of one kind."""
    if rng.random() < 0.6:
        return plain_words(rng, count)
    if rng.random() < 0.5:
        return people(rng, count)
    return rng.sample(sorted({noun(rng) for _ in range(count + 4)}), count)


def numbers(rng: random.Random, count: int) -> list[str]:
    """Different numbers as text."""
    return [str(number) for number in rng.sample(range(rng.choice((30, 100, 1000))), count)]


Change = tuple[str, Callable[[random.Random, list[str]], str]]
CHANGES: Mapping[str, Change] = {
    "alphabet": (
        """Sort these by the alphabet. / {input}|Put the words in alphabetical order: {input}
        |Alphabetical order, please. / {input}|{input} / Sorted from A to Z:""",
        lambda rng, values: ", ".join(sorted(values, key=str.lower)),
    ),
    "reverse": (
        """Write the list backwards. / {input}|Reverse the order of this list: {input}
        |Start with the last one and end with the first. / {input}|{input} / In reverse order:""",
        lambda rng, values: ", ".join(reversed(values)),
    ),
    "count": (
        """How many entries does this list have? {input}|Count the items. / {input}
        |{input} / Number of entries:|How many are there? / {input}""",
        lambda rng, values: NUMBER_WORDS[len(values)],
    ),
    "copy": (
        """Repeat this list. / {input}|Copy the line below. / {input}|Say after me: {input}
        |Write this once more, without changes. / {input}|{input} / The same again:""",
        lambda rng, values: ", ".join(values),
    ),
    "first": (
        """What is the first entry? {input}|Name the first one. / {input}|First of {input}:
        |Which one stands at the beginning of the list? / {input}""",
        lambda rng, values: values[0],
    ),
    "last": (
        """What is the last entry? {input}|Name the last one. / {input}|Last of {input}:
        |Which one stands at the end of the list? / {input}""",
        lambda rng, values: values[-1],
    ),
    "without": (
        """Leave out the first entry. / {input}|Write the list without its first entry: {input}
        |{input} / Without the first:""",
        lambda rng, values: ", ".join(values[1:]),
    ),
    "numbered": (
        """Make a numbered list. / {input}|Number these. / {input}|{input} / As a numbered list:""",
        lambda rng, values: "\n".join(f"{at}. {value}" for at, value in enumerate(values, 1)),
    ),
    "bullets": (
        """One per line, with a dash. / {input}|Turn this into a list with dashes: {input}
        |Write each on a line of its own, with a dash in front. / {input}""",
        lambda rng, values: "\n".join(f"- {value}" for value in values),
    ),
    "and": (
        """Join these with commas and a final "and". / {input}|Make a phrase of this list: {input}
        |List these as one would in a sentence. / {input}""",
        lambda rng, values: f"{', '.join(values[:-1])} and {values[-1]}",
    ),
    "longest": (
        """Which of these words has the most letters? {input}|Name the longest word. / {input}
        |The longest of {input} is""",
        lambda rng, values: max(values, key=len),
    ),
    "upper": (
        """Write all of these in capital letters. / {input}|Capital letters, please: {input}
        |{input} / In capitals:""",
        lambda rng, values: ", ".join(values).upper(),
    ),
}


def change(rng: random.Random) -> Task:
    """One change to a list."""
    name = rng.choice(sorted(CHANGES))
    own, apply = CHANGES[name]
    families = ("order",) if name == "alphabet" and rng.random() < 0.3 else ()
    wording = rng.choice(wordings(*families, own="" if families else own))
    low, high = rng.choice(((2, 4), (3, 6), (5, 9)))

    def draw() -> tuple[Fields, str]:
        count = rng.randint(low, high)
        values = plain_words(rng, count) if name in ("alphabet", "longest") else []
        while (
            name == "longest" and sorted(map(len, values))[-2:] == [len(max(values, key=len))] * 2
        ):
            values = plain_words(rng, count)
        values = values or phrases_of(rng, count)
        return {"input": ", ".join(values)}, apply(rng, values)

    return Task(wording, draw)


def sort_numbers(rng: random.Random) -> Task:
    """Numbers from small to large or back."""
    down = rng.random() < 0.4
    way = "the largest to the smallest" if down else "the smallest to the largest"
    wording = rng.choice(
        wordings(
            own=f"""Sort these numbers from {way}. / {{input}}|Order from {way}: {{input}}
            |{{input}} / Sorted from {way}:"""
        )
    )
    count = rng.randint(3, 6)

    def draw() -> tuple[Fields, str]:
        values = numbers(rng, count)
        return {"input": ", ".join(values)}, ", ".join(sorted(values, key=int, reverse=down))

    return Task(wording, draw)


def position(rng: random.Random) -> Task:
    """The entry at a place, or beside another entry."""
    wording = rng.choice(wordings("answer", own="{input}|{input} Name it."))

    def draw() -> tuple[Fields, str]:
        values = phrases_of(rng, rng.randint(4, 7))
        at = rng.randrange(len(values) - 1)
        shown = ", ".join(values)
        form = rng.randrange(3)
        if form == 0:
            at = min(at, len(ORDINALS) - 1)
            return {"input": f"{shown}. Which is the {ORDINALS[at]} one?"}, values[at]
        if form == 1:
            return {"input": f"{shown}. What comes after {values[at]}?"}, values[at + 1]
        return {"input": f"{shown}. What comes before {values[at + 1]}?"}, values[at]

    return Task(wording, draw)


def pick(rng: random.Random) -> Task:
    """All entries that are of one category, or have one property."""
    wording = rng.choice(
        wordings(own="{input}|Pick from the list. / {input}|{input} Write them down in order.")
    )

    def draw() -> tuple[Fields, str]:
        form = rng.randrange(4)
        if form == 0:
            wanted, other = apart(rng, 2)
            good = rng.sample(CATEGORIES[wanted], rng.randint(1, 3))
            bad = rng.sample(CATEGORIES[other], 3)
            values = rng.sample(good + bad, len(good) + len(bad))
            question, keep = f"Which of these is of the kind {wanted}", good
        elif form == 1:
            values = plain_words(rng, 5)
            letter = rng.choice(values)[0].lower()
            keep = [value for value in values if value[0].lower() == letter]
            question = f'Which of these begin with "{letter}"'
        elif form == 2:
            values = numbers(rng, 5)
            limit = int(rng.choice(values))
            keep = [value for value in values if int(value) >= limit]
            question = f"Which of these numbers are {limit} or more"
        else:
            things = rng.sample(NOUNS, 4)
            hues = [rng.choice(COLOURS[:4]) for _ in things]
            values = [f"{hue} {thing}" for hue, thing in zip(hues, things, strict=True)]
            keep = [value for value in values if value.startswith(f"{hues[0]} ")]
            question = f"Which of these things are {hues[0]}"
        found = ", ".join(value for value in values if value in keep)
        return {"input": f"{question}: {', '.join(values)}?"}, found

    return Task(wording, draw)


def odd_one(rng: random.Random) -> Task:
    """The one word that is of another kind than the rest."""
    wording = rng.choice(
        wordings(
            own="""Which word does not belong with the others? {input}|Find the odd one out. /
                {input}
            |One of these does not fit: {input}. Which?|The odd one among {input}:"""
        )
    )

    def draw() -> tuple[Fields, str]:
        common, other = apart(rng, 2)
        odd = rng.choice(CATEGORIES[other])
        values = [*rng.sample(CATEGORIES[common], rng.randint(3, 4)), odd]
        return {"input": ", ".join(rng.sample(values, len(values)))}, odd

    return Task(wording, draw)


def letters(rng: random.Random) -> Task:
    """Letters of one word: spelling, first, last, how many; or its plural."""
    forms: Mapping[str, tuple[str, Callable[[str], str]]] = {
        "spell": ('Spell "{input}".|Spell the word. / {input}', lambda word: "-".join(word)),
        "first": ('What is the first letter of "{input}"?', lambda word: word[0]),
        "last": ('What is the last letter of "{input}"?', lambda word: word[-1]),
        "count": ('How many letters does "{input}" have?', lambda word: str(len(word))),
        "back": ('Write "{input}" backwards.|Letters reversed. / {input}', lambda word: word[::-1]),
        "plural": ('What is the plural of "{input}"?|More than one {input}:', PLURALS.__getitem__),
    }
    name = rng.choice(sorted(forms))
    own, apply = forms[name]
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        if name == "plural":
            word = rng.choice(sorted(PLURALS))
        else:
            word = rng.choice(NOUNS).split()[0] if rng.random() < 0.6 else made_up_word(rng)
        return {"input": word}, apply(word)

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "change list": (change, 6.0),
    "sort numbers": (sort_numbers, 1.0),
    "position": (position, 2.0),
    "pick": (pick, 2.0),
    "odd one": (odd_one, 1.0),
    "letters": (letters, 1.5),
}
