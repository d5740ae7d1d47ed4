"""Plain knowledge and what stands in the prompt: facts, glossaries, codes, lettered choices."""

import random
from collections.abc import Callable, Mapping

from demo.tasks.base_phrases import NOUNS
from demo.tasks.base_words import ADJECTIVES, COLOURS, FIRST_NAMES, article, made_up_word, town
from demo.tasks.instruct_forms import Fields, Kind, Task, fill, wordings
from demo.tasks.instruct_numbers import spelled
from demo.tasks.instruct_reading import lettered
from demo.tasks.instruct_words import (
    CAPITALS,
    CATEGORIES,
    OPPOSITES,
    PLAIN_FACTS,
    PLURALS,
    SYNONYMS,
    VERBS,
    apart,
)

Asked = tuple[str, str, tuple[str, ...]]
"""A question, its answer, and wrong answers of the same sort."""


def opposite(rng: random.Random) -> Asked:
    """The opposite of a word."""
    pair = rng.choice(OPPOSITES)
    one, other = rng.sample(pair, 2)
    wrong = tuple(rng.choice(words) for words in rng.sample(OPPOSITES, 8) if words != pair)
    ask = rng.choice(("What is the opposite of {}?", "Which word means the opposite of {}?"))
    return ask.format(one), other, wrong


def synonym(rng: random.Random) -> Asked:
    """A word of the same meaning."""
    pair = rng.choice(SYNONYMS)
    near = {word for words in SYNONYMS if set(words) & set(pair) for word in words}
    wrong = tuple(words[0] for words in rng.sample(SYNONYMS, 10) if words[0] not in near)
    return f"Which word means nearly the same as {pair[0]}?", pair[1], wrong


def category(rng: random.Random) -> Asked:
    """What kind of thing something is, or an example of a kind."""
    names = apart(rng, 6)
    word = rng.choice(CATEGORIES[names[0]])
    if rng.random() < 0.5:
        ask = rng.choice(("What kind of thing is {}?", "To which group does the word {} belong?"))
        return ask.format(word), names[0], tuple(names[1:])
    wrong = tuple(rng.choice(CATEGORIES[name]) for name in names[1:])
    return f"Which of these is {article(names[0])}?", word, wrong


def capital(rng: random.Random) -> Asked:
    """Capitals and countries."""
    countries = rng.sample(sorted(CAPITALS), 6)
    cities = [CAPITALS[country] for country in countries]
    if rng.random() < 0.5:
        return f"What is the capital of {countries[0]}?", cities[0], tuple(cities[1:])
    return f"Of which country is {cities[0]} the capital?", countries[0], tuple(countries[1:])


def plain(rng: random.Random) -> Asked:
    """A fact of daily life."""
    facts = rng.sample(PLAIN_FACTS, 6)
    return (
        facts[0][0],
        facts[0][1],
        tuple(answer for _, answer in facts[1:] if answer != facts[0][1]),
    )


def grammar(rng: random.Random) -> Asked:
    """A plural or a form of a verb."""
    if rng.random() < 0.4:
        word = rng.choice(sorted(PLURALS))
        plural = PLURALS[word]
        wrong = tuple(form for form in (word + "s", word + "es", word + "en") if form != plural)
        return f"What is the plural of {word}?", plural, wrong
    (base, third, past, participle, ing), _ = rng.choice(VERBS)
    wrong = tuple(dict.fromkeys(form for form in (base, third, participle, ing) if form != past))
    return f"What is the past tense of {base}?", past, wrong


def number(rng: random.Random) -> Asked:
    """A small sum with its neighbours as wrong answers."""
    x, y = rng.randint(1, 30), rng.randint(1, 30)
    form = spelled if rng.random() < 0.5 else str
    near = tuple(form(x + y + step) for step in rng.sample((1, 2, 3, 5, 10), 4))
    return f"What is {form(x)} plus {form(y)}?", form(x + y), near


ASKED: tuple[Callable[[random.Random], Asked], ...] = (
    opposite,
    synonym,
    category,
    capital,
    plain,
    grammar,
    number,
)


def choice(rng: random.Random) -> Task:
    """A question with lettered answers; the letter is the answer, or the answer's text."""
    own = """{question} {options} Answer:|{question} / {options} / Answer:|Question: {question} /
        {options} / Letter:
    |Reply with the letter of the right answer. / {question} / {options}"""
    family = rng.random() < 0.4
    wording = rng.choice(wordings("choose") if family else wordings(own=own))
    wording = wording.replace("} {options} ", "}\n{options}\n")
    text = family and "hich?" not in wording
    makers = ASKED if rng.random() < 0.5 else (rng.choice(ASKED),)

    def draw() -> tuple[Fields, str]:
        asked, answer, wrong = rng.choice(makers)(rng)
        options = list(dict.fromkeys((answer, *wrong)))[:4]
        letter, lines = lettered(rng, options)
        if text:
            lines = "\n".join(line.replace(line[:2], "-", 1) for line in lines.splitlines())
        return {"question": asked, "options": lines}, answer if text else letter

    return Task(wording, draw)


def knowledge(rng: random.Random) -> Task:
    """A question of plain knowledge, answered from memory."""
    wording = rng.choice(wordings("answer", own="{input}|{input}|Answer briefly. / {input}"))
    makers = tuple(make for make in ASKED if make not in (category, number))

    def draw() -> tuple[Fields, str]:
        asked, answer, _ = rng.choice(makers)(rng)
        return {"input": asked}, answer

    return Task(wording, draw)


def glossary(rng: random.Random) -> Task:
    """A line translated word by word with the glossary in the prompt."""
    count = rng.randint(4, 8)
    source = rng.sample([word for word in NOUNS + ADJECTIVES + COLOURS if " " not in word], count)
    target = list(dict.fromkeys(made_up_word(rng) for _ in range(2 * count)))[:count]
    back = rng.random() < 0.4
    if back:
        source, target = target, source
    table = dict(zip(source, target, strict=True))
    mark = rng.choice((" = ", ": ", " -> "))
    entries = rng.choice((", ", "\n")).join(f"{key}{mark}{table[key]}" for key in source)
    language = town(rng)
    own = f"""Translate with this glossary: <entries> / {{input}}|Glossary: <entries> / Translate:
        {{input}}
    |{"From" if back else "Into"} {language}, where <entries> / {{input}} / Translation:"""
    wording = rng.choice(wordings(own=own)).replace("<entries>", entries)

    def draw() -> tuple[Fields, str]:
        chosen = rng.sample(source, rng.randint(1, min(4, count)))
        return {"input": " ".join(chosen)}, " ".join(table[word] for word in chosen)

    return Task(wording, draw)


def lookup(rng: random.Random) -> Task:
    """Entries of a table in the prompt: by key, or the key of a value."""
    count = rng.randint(3, 7)
    keys = rng.sample(FIRST_NAMES, count)
    what = rng.choice(("colour", "number", "town", "thing"))
    makers: Mapping[str, Callable[[], str]] = {
        "colour": lambda: rng.choice(COLOURS),
        "number": lambda: str(rng.randint(10, 9999)),
        "town": lambda: town(rng),
        "thing": lambda: rng.choice(NOUNS),
    }
    values: list[str] = []
    while len(values) < count:
        if (value := makers[what]()) not in values:
            values.append(value)
    table = "\n".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True))
    own = """<table> / {question}|Table: / <table> / {question}|Use this table. / <table> /
        {question}"""
    wording = rng.choice(wordings(own=own)).replace("<table>", table)

    def draw() -> tuple[Fields, str]:
        key, value = rng.choice(list(zip(keys, values, strict=True)))
        if rng.random() < 0.5:
            return {"question": f"Which {what} belongs to {key}?"}, value
        return {"question": f"Whose {what} is {value}?"}, key

    return Task(wording, draw)


def replace(rng: random.Random) -> Task:
    """One word of a sentence exchanged, as the instruction says."""
    old, new = rng.sample(NOUNS, 2)
    own = f"""Replace "{old}" by "{new}". / {{input}}|Write {new} where it says {old}: {{input}}
    |Put {new} in place of {old}. / {{input}}"""
    wording = rng.choice(wordings(own=own))
    frames = (
        "{name} took the {word} to {town}.",
        "Is the {word} of {name} still in {town}?",
        "{name} painted the {word} {hue}.",
        "Nobody in {town} has a {word} like {name}.",
        "The {hue} {word} belongs to {name}.",
    )

    def draw() -> tuple[Fields, str]:
        values = {"name": rng.choice(FIRST_NAMES), "town": town(rng), "hue": rng.choice(COLOURS)}
        text = fill(rng.choice(frames), values)
        return {"input": text.replace("{word}", old)}, text.replace("{word}", new)

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "lettered choice": (choice, 5.0),
    "knowledge": (knowledge, 2.0),
    "glossary": (glossary, 4.0),
    "lookup": (lookup, 2.0),
    "replace": (replace, 1.0),
}
