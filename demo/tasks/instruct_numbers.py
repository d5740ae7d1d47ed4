"""Arithmetic, comparisons, sequences and word problems, in digits and in words."""

import random
from collections.abc import Callable, Mapping

from demo.tasks.base_phrases import NOUNS
from demo.tasks.base_words import FIRST_NAMES, FOODS, NUMBER_WORDS, sentence
from demo.tasks.instruct_forms import Fields, Task, listed, say, wordings
from demo.tasks.rows import words

TENS = words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")


def spelled(number: int) -> str:
    """A number from 0 to 999,999 in words: "two hundred and five"."""
    if number <= 20:
        return NUMBER_WORDS[number]
    if number < 100:
        unit = number % 10
        return TENS[number // 10] + (f"-{NUMBER_WORDS[unit]}" if unit else "")
    if number < 1000:
        rest = f" and {spelled(number % 100)}" if number % 100 else ""
        return f"{NUMBER_WORDS[number // 100]} hundred{rest}"
    rest = ""
    if number % 1000:
        joint = " " if number % 1000 >= 100 else " and "
        rest = joint + spelled(number % 1000)
    return f"{spelled(number // 1000)} thousand{rest}"


OPERATIONS: Mapping[str, tuple[str, str, Callable[[int, int], int]]] = {
    "add": ("+", "plus", lambda x, y: x + y),
    "subtract": ("-", "minus", lambda x, y: x - y),
    "multiply": ("*", "times", lambda x, y: x * y),
}
CALCULATE = """What is {input}?|Calculate {input}.|{input} =|How much is {input}?
|Work this out. / {input}|Give the result as a number. / {input}|Q: {input}? A:
|Reply with the result alone. / {input}"""
CALCULATE_WORDS = """What is {input}?|How much is {input}? Write the number as a word.
|Answer in words. / {input}|{input} is|Say the result in words. / {input}"""


def operands(rng: random.Random, name: str, top: int) -> tuple[int, int]:
    """Two numbers up to `top`; a difference is never negative, a factor never above twelve."""
    x, y = rng.randint(0, top), rng.randint(0, top)
    if name == "subtract":
        return max(x, y), min(x, y)
    return (min(x, 12), min(y, 12)) if name == "multiply" else (x, y)


def calculate(rng: random.Random) -> Task:
    """One operation on two numbers, in digits or in words."""
    in_words = rng.random() < 0.35
    wording = rng.choice(wordings(own=CALCULATE_WORDS if in_words else CALCULATE))
    top = rng.choice((10, 20, 100) if not in_words else (10, 20, 50))
    names = rng.sample(sorted(OPERATIONS), rng.randint(1, 3))

    def draw() -> tuple[Fields, str]:
        name = rng.choice(names)
        sign, word, result = OPERATIONS[name]
        x, y = operands(rng, name, top)
        if in_words:
            return {"input": f"{spelled(x)} {word} {spelled(y)}"}, spelled(result(x, y))
        return {"input": f"{x} {sign} {y}"}, str(result(x, y))

    return Task(wording, draw)


PROBLEMS: tuple[tuple[str, str], ...] = (
    ("{a} has {x} {things} and gets {y} more. How many {things} does {a} have now?", "x + y"),
    ("{a} had {x} {things}. {b} took {y} of them. How many are left?", "x - y"),
    ("There are {x} {things} on the floor and {y} in the box. How many are there in all?", "x + y"),
    ("{a} packs {y} bags with {x} {things} each. How many {things} is that?", "x * y"),
    ("A ticket costs {x} coins. {a} buys {y} tickets. How many coins does {a} pay?", "x * y"),
    ("{a} is {x} years old and {b} is {y} years younger. How old is {b}?", "x - y"),
    ("{a} walked {x} miles in the morning and {y} at night. How many miles were it?", "x + y"),
    ("A shelf holds {x} {things}. {a} takes down {y}. How many stay on the shelf?", "x - y"),
    ("{a} pays with a note of {x} pounds. The bill is {y} pounds. What is the change?", "x - y"),
    ("{a} made {x} {things} and {b} made {y}. How many did they make together?", "x + y"),
    ("Each of {y} friends of {a} brings {x} {things}. How many {things} come?", "x * y"),
    ("{a} read {x} pages on one day and {y} on the next. How many pages is that?", "x + y"),
)


def plural(noun: str) -> str:
    """The regular plural of one of the nouns."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


# Left out: an irregular plural, and what is a slot value of a test split in the plural.
NOT_COUNTED = ("shelf", "bowl", "saw")
THINGS = tuple(plural(noun) for noun in NOUNS if " " not in noun and noun not in NOT_COUNTED)


def problem(rng: random.Random) -> Task:
    """A word problem of one step; the answer is a number, or the calculation and the number."""
    steps = rng.random() < 0.35
    own = """{input} Show the calculation.|Calculate step by step. / {input}
    |{input} Write down how you got there.|Show your work. / {input}"""
    wording = rng.choice(
        wordings(own=own) if steps else wordings("answer", own="{input}|{input} Give a number.")
    )

    def draw() -> tuple[Fields, str]:
        text, formula = rng.choice(PROBLEMS)
        sign = formula.split()[1]
        name = {"+": "add", "-": "subtract", "*": "multiply"}[sign]
        x, y = operands(rng, name, rng.choice((10, 20, 60)))
        y = max(y, 2)
        x = max(x, y + 1) if sign == "-" else max(x, 1)
        result = OPERATIONS[name][2](x, y)
        a, b = rng.sample(FIRST_NAMES, 2)
        fields = {"a": a, "b": b, "x": str(x), "y": str(y), "things": rng.choice(THINGS)}
        for key, value in fields.items():
            text = text.replace(f"{{{key}}}", value)
        answer = f"{x} {sign} {y} = {result}. The answer is {result}." if steps else str(result)
        return {"input": text}, answer

    return Task(wording, draw)


def compare(rng: random.Random) -> Task:
    """The larger or smaller one of some numbers."""
    largest = rng.random() < 0.5
    word = "largest" if largest else "smallest"
    wording = rng.choice(
        wordings(
            own=f"""Which of these numbers is the {word}: {{input}}?|Name the {word} number. /
                {{input}}
            |{{input}}: which one is the {word}?|The {word} of {{input}} is"""
        )
    )
    count, top = rng.randint(2, 5), rng.choice((20, 100, 1000))

    def draw() -> tuple[Fields, str]:
        numbers = rng.sample(range(top), count)
        best = max(numbers) if largest else min(numbers)
        return {"input": listed([str(number) for number in numbers])}, str(best)

    return Task(wording, draw)


def truth(rng: random.Random) -> Task:
    """Whether a statement about two numbers is right."""
    wording = rng.choice(
        wordings(
            own="""Is this right? / {input}|{input} True or false?|True or false: {input}
            |Check the statement and answer yes or no. / {input}|Statement: {input} Correct?
            Answer:"""
        )
    )
    good, bad = ("true", "false") if "rue or" in wording else ("yes", "no")

    def draw() -> tuple[Fields, str]:
        x, y = rng.sample(range(rng.choice((20, 200))), 2)
        form = rng.randrange(4)
        if form == 0:
            text, right = f"{x} is more than {y}.", x > y
        elif form == 1:
            text, right = f"{x} is less than {y}.", x < y
        elif form == 2:
            text, right = f"{x} is an even number.", x % 2 == 0
        else:
            shown = x + y if rng.random() < 0.5 else x + y + rng.choice((-2, -1, 1, 2, 10))
            text, right = f"{x} + {y} = {shown}.", shown == x + y
        return {"input": text}, say(wording, good if right else bad)

    return Task(wording, draw)


def sequence(rng: random.Random) -> Task:
    """The next number of an even sequence."""
    wording = rng.choice(
        wordings(
            own="""What comes next: {input}, ...?|Continue with one more number. / {input}
            |Which number follows? {input}|{input}, and then?"""
        )
    )

    def draw() -> tuple[Fields, str]:
        start, step = rng.randint(0, 40), rng.choice((1, 2, 3, 4, 5, 10, 20))
        values = [start + step * index for index in range(5)]
        if rng.random() < 0.3:
            values = [value + 5 * step for value in values][::-1]
            values = [value for value in values if value >= 0]
        return {"input": ", ".join(map(str, values[:-1]))}, str(values[-1])

    return Task(wording, draw)


def convert(rng: random.Random) -> Task:
    """Digits to words and back."""
    to_words = rng.random() < 0.5
    own = (
        "Write {input} in words.|Spell the number out. / {input}|How do you say {input}?"
        if to_words
        else "Write {input} in digits.|Give the digits. / {input}|{input} as a number:"
    )
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        number = rng.randrange(rng.choice((100, 1000, 10_000)))
        forms = str(number), spelled(number)
        return {"input": forms[0 if to_words else 1]}, forms[1 if to_words else 0]

    return Task(wording, draw)


def share(rng: random.Random) -> Task:
    """A division that comes out even, told as sharing."""
    wording = rng.choice(wordings("answer", own="{input}|Give just the number. / {input}"))

    def draw() -> tuple[Fields, str]:
        people, each = rng.randint(2, 9), rng.randint(1, 12)
        name, thing = rng.choice(FIRST_NAMES), rng.choice((*THINGS, *FOODS))
        unit = f"bags of {thing}" if thing in FOODS else thing
        text = rng.choice(
            (
                f"{name} shares {people * each} {unit} with {people} people. How many each?",
                f"{people} people share {people * each} {unit}. How many are that each?",
                f"What is {people * each} divided by {people}?",
                f"{sentence(unit)}: {people * each}. Boxes: {people}. How many go into each box?",
            )
        )
        return {"input": text}, str(each)

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Callable[[random.Random], Task], float]] = {
    "calculate": (calculate, 3.0),
    "problem": (problem, 3.0),
    "compare numbers": (compare, 1.0),
    "true or false number": (truth, 1.0),
    "sequence": (sequence, 1.0),
    "convert number": (convert, 1.5),
    "share": (share, 1.0),
}
