"""One sentence turned into another: case, tense, spelling, tone, length, notes, other words."""

import random
import re
from collections.abc import Callable, Mapping

from demo.tasks.base_notes import NOTE_PAIRS, SHORT_FORMS
from demo.tasks.base_phrases import action, noun, subject
from demo.tasks.base_words import DAY_SHORT, DAYS, PLACES, clock, people, sentence, town
from demo.tasks.instruct_forms import Fields, Kind, Task, wordings
from demo.tasks.instruct_subjects import passage
from demo.tasks.instruct_words import HARD_SPELLINGS, VERBS
from demo.tasks.rows import phrases

WHENS = phrases(
    """every morning|on Monday|after work|in the rain|with a friend|at the harbour|in spring
    |before breakfast|without help|for the first time|in the old town|on the way home|at noon"""
)


def clause(rng: random.Random) -> tuple[str, tuple[str, ...], str]:
    """Who, the forms of a verb, and the rest: "Nell", (...), "a letter after work"."""
    forms, objects = rng.choice(VERBS)
    rest = rng.choice(objects)
    if rng.random() < 0.5 and " in " not in rest and " at " not in rest:
        rest = f"{rest} {rng.choice(WHENS)}"
    return people(rng, 1)[0], forms, rest


def stop(*parts: str) -> str:
    """The parts as a sentence with a stop."""
    return sentence(" ".join(parts)) + "."


def forms_of(rng: random.Random) -> Mapping[str, str]:
    """One clause in every tense and form."""
    who, (base, third, past, participle, ing), rest = clause(rng)
    return {
        "present tense": stop(who, third, rest),
        "past tense": stop(who, past, rest),
        "future with will": stop(who, "will", base, rest),
        "present perfect": stop(who, "has", participle, rest),
        "present continuous": stop(who, "is", ing, rest),
        "negative form": stop(who, "does not", base, rest),
        "question form": f"Does {who} {base} {rest}?",
        "form of an order": stop(base, rest),
        "form with must": stop(who, "must", base, rest),
        "form with can": stop(who, "can", base, rest),
    }


def tense(rng: random.Random) -> Task:
    """A sentence into another tense or form, always the same one."""
    names = sorted(forms_of(random.Random(0)))
    target = rng.choice(names)
    source = rng.choice([name for name in names if name not in (target, "form of an order")])
    own = f"""Put this into the {target}. / {{input}}|Rewrite in the {target}: {{input}}
    |{{input}} / In the {target}:|Use the {target}. / {{input}}|Change it to the {target}. /
    {{input}}"""
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        made = forms_of(rng)
        return {"input": made[source]}, made[target]

    return Task(wording, draw)


def line(rng: random.Random) -> str:
    """A sentence of any sort."""
    form = rng.random()
    if form < 0.4:
        return rng.choice(list(forms_of(rng).values()))
    if form < 0.7:
        return rng.choice(passage(rng, 1, 2, fillers=0).text.split(". ")).removesuffix(".") + "."
    return f"{people(rng, 1)[0]} should {action(rng)} before {rng.choice(DAYS)}."


CASES: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "upper": (
        """Write this in upper case. / {input}|In capital letters: {input}|SHOUT this: {input}
        |Use capital letters only. / {input}|{input} / In capitals:""",
        str.upper,
    ),
    "lower": (
        """Write this in lower case. / {input}|No capital letters, please. / {input}
        |{input} / In small letters:""",
        str.lower,
    ),
    "copy": (
        """Repeat this word for word. / {input}|Copy this: {input}|Say exactly this: {input}
        |Write the same sentence again. / {input}""",
        str,
    ),
    "quote": (
        """Put this in quotation marks. / {input}|Quote this sentence. / {input}""",
        lambda text: f'"{text}"',
    ),
    "exclaim": (
        """End this with an exclamation mark. / {input}|Make it sound loud: {input}""",
        lambda text: text[:-1] + "!",
    ),
    "title": (
        """Begin every word with a capital letter. / {input}|Write it like a headline: {input}""",
        lambda text: " ".join(sentence(word) for word in text.split()),
    ),
    "first word": (
        """What is the first word of this sentence? {input}|Just the first word. / {input}""",
        lambda text: text.split()[0],
    ),
    "last word": (
        """What is the last word of this sentence? {input}|Just the last word. / {input}""",
        lambda text: text[:-1].split()[-1],
    ),
    "count": (
        """How many words does this sentence have? {input}|Count the words. / {input}""",
        lambda text: str(len(text.split())),
    ),
    "twice": ("""Write this twice. / {input}|Say it two times: {input}""", lambda t: f"{t} {t}"),
}


def case(rng: random.Random) -> Task:
    """A sentence in another case, copied, quoted, counted."""
    own, apply = CASES[rng.choice(sorted(CASES))]
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        text = line(rng)
        return {"input": text}, apply(text)

    return Task(wording, draw)


def misspelt(rng: random.Random, text: str) -> str:
    """The text with one to three typing mistakes in its longer words."""
    parts = text.split(" ")
    # Names are left alone: nobody could tell how a made-up one is spelled.
    long = [at for at, word in enumerate(parts) if re.match(r"[a-z]{5}", word)]
    for at in rng.sample(long, min(len(long), rng.randint(1, 3))):
        word = parts[at]
        spot = rng.randint(1, len(word) - 3)
        form = rng.randrange(3)
        if form == 0:
            word = word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :]
        elif form == 1:
            word = word[:spot] + word[spot + 1 :]
        else:
            word = word[:spot] + word[spot] + word[spot:]
        parts[at] = word
    return " ".join(parts)


ROOTS = phrases(
    """I will {w} see you.|She could not find it {w}.|{w} is hard to say.|They talked about {w}.
    |He wrote the word {w} on the wall.|We never heard of {w}.|Nobody asked about {w} again."""
)


def correct(rng: random.Random) -> Task:
    """A sentence with mistakes, without them; sometimes the other way round."""
    own = """Correct the spelling. / {input}|Fix the typing mistakes: {input}|Spell this right. /
        {input}
    |{input} / Spelled correctly:|There are typing errors in this. Write it correctly. / {input}"""
    wording = rng.choice(wordings("correct", own=own))

    def draw() -> tuple[Fields, str]:
        if rng.random() < 0.25:
            word = rng.choice(sorted(HARD_SPELLINGS))
            text = rng.choice(ROOTS)
            wrong, right = text.replace("{w}", HARD_SPELLINGS[word]), text.replace("{w}", word)
            return {"input": sentence(wrong)}, sentence(right)
        forms = forms_of(rng)
        text = forms[rng.choice(sorted(forms))]
        return {"input": misspelt(rng, text)}, text

    return Task(wording, draw)


TONES = (
    ("Hey {a}, can you {act}?", "Dear {a}, could you please {act}? Thank you very much."),
    (
        "{a}, I need the {thing} by {day}.",
        "Dear {a}, I would be grateful for the {thing} by {day}.",
    ),
    ("Sorry, can't make it on {day}.", "I regret that I am unable to attend on {day}."),
    ("Thanks a lot for the {thing}!", "I would like to thank you for the {thing}."),
    ("What's up with the {thing}, {a}?", "Dear {a}, may I ask about the state of the {thing}?"),
    ("Tell me about {topic} asap.", "Please inform me about {topic} as soon as possible."),
    ("Bye, see you on {day}!", "I look forward to meeting you on {day}. Yours sincerely."),
    ("No idea where the {thing} is.", "I am afraid that I do not know where the {thing} is."),
    ("Let's meet at {time} in {place}.", "I would suggest a meeting at {time} in {place}."),
    ("You forgot to {act}, {a}.", "Dear {a}, it seems that nobody has had time to {act} yet."),
    ("{a} is mad about {topic}.", "{a} has expressed some concern about {topic}."),
    ("Don't {act} on {day}!", "You are kindly asked not to {act} on {day}."),
)
NOTES = tuple((short, full) for short, full in NOTE_PAIRS)
REQUESTS = (
    ("{act}", "I would like you to {act}, if you have the time."),
    ("{thing}, {day}", "Please bring me the {thing} when you come on {day}."),
    ("{a}: {topic}", "{a} wants to talk with you about {topic}."),
    ("{place} {time}", "We are going to meet in {place} at {time}."),
    ("no {thing} left", "There is no {thing} left, so somebody has to buy one."),
)


def style(rng: random.Random) -> Task:
    """Formal or casual; a note as a sentence or the other way round; short to long."""
    table, lead, back = rng.choice(
        (
            (TONES, "Make this formal", "Make this casual"),
            (NOTES, "Write this note as a full sentence", "Turn this into a short note"),
            (REQUESTS, "Make this longer and polite", "Say this in as few words as possible"),
        )
    )
    reverse = rng.random() < 0.3
    lead = back if reverse else lead
    own = f"{lead}. / {{input}}|{lead}: {{input}}|{{input}} / {lead}.|Text: {{input}} / {lead}:"
    family = () if reverse or rng.random() < 0.7 else ("rewrite",)
    wording = rng.choice(wordings(*family, own="" if family else own))

    def draw() -> tuple[Fields, str]:
        pair = rng.choice(table)
        source, target = (pair[1], pair[0]) if reverse else pair
        name, other = people(rng, 2)
        day = rng.choice(DAYS)
        slots = {
            "a": name,
            "name": name,
            "other": other,
            "day": day,
            "dayshort": DAY_SHORT[day],
            "clock": clock(rng),
            "time": clock(rng),
            "thing": noun(rng),
            "act": action(rng),
            "subject": subject(rng),
            "topic": subject(rng),
            "place": town(rng),
        }
        return {"input": source.format(**slots)}, target.format(**slots)

    return Task(wording, draw)


def expand(rng: random.Random) -> Task:
    """Short forms in a line written out."""
    own = """Write out the short forms. / {input}|Expand the abbreviations: {input}
    |{input} / Without abbreviations:"""
    wording = rng.choice(wordings(own=own))
    usable = [
        key for key in sorted(SHORT_FORMS) if key not in ("am", "pm", "re", "min", "hr", "sun")
    ]

    def draw() -> tuple[Fields, str]:
        chosen = rng.sample(usable, rng.randint(1, 3))
        frame = rng.choice(("ask {} about it", "{}, said {name}", "{name} wrote: {}", "{} at {at}"))
        name, at = people(rng, 1)[0], rng.choice(PLACES)
        short = frame.format(" ".join(chosen), name=name, at=at)
        full = frame.format(" ".join(SHORT_FORMS[key] for key in chosen), name=name, at=at)
        return {"input": short}, full

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "tense": (tense, 3.0),
    "case": (case, 3.0),
    "correct": (correct, 3.0),
    "style": (style, 4.0),
    "expand": (expand, 1.0),
}
