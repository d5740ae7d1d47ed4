"""Dialogues with a report of them, and notes with the sentence they stand for.

Part of the pretraining text. It teaches to find a phrase in a text and to repeat it in another
sentence; the forms differ from those of the demo tasks.
"""

import random

from demo.tasks.base_phrases import action, fault, noun, remedy, subject
from demo.tasks.base_words import (
    DAY_SHORT,
    DAYS,
    MONTHS,
    clock,
    first_name,
    people,
    person,
    sentence,
    town,
)
from demo.tasks.rows import phrases

GREETINGS = phrases(
    """Good morning.|Hello there.|Hi.|Good day to you.|Hello!|Oh, hello.|Excuse me."""
)
FAULT_LINES = phrases(
    """The {thing} I got here {fault}.|My {thing} {fault}.|It is about my {thing}. It {fault}.
    |I have a {thing} from your shop and it {fault}.|Look, this {thing} {fault}.
    |The {thing} is not right. It {fault}.|You sold me a {thing} and now it {fault}."""
)
REMEDY_LINES = phrases(
    """I can {remedy}.|Then we will {remedy}.|Let me {remedy}.|No problem, I will {remedy}.
    |We could {remedy}, if you like.|What I can do is {remedy}.|Leave it to me, I shall {remedy}."""
)
FILLERS = phrases(
    """Oh dear.|That is a pity.|Thank you for telling me.|I see.|Is it still new?|It is quite new.
    |I was so looking forward to it.|What a nuisance.|Let me see.|Do you have the bill?
    |Yes, here it is.|No, I lost it.|That should not happen."""
)
THANKS = phrases(
    """Thank you.|That is kind of you.|Very well.|Wonderful.|Good, I will wait.|Thanks, goodbye."""
)
REPORTS = phrases(
    """{a} told {b} that the {thing} {fault}, so {b} said: we will {remedy}.
    |In short, the {thing} of {a} {fault} and {b} wants to {remedy}.
    |{b} is going to {remedy} because the {thing} {fault}.
    |To sum up: {a} is unhappy since the {thing} {fault}; {b} is willing to {remedy}.
    |What happened: the {thing} {fault}. What comes next: {b} must {remedy} for {a}."""
)


def shop_talk(rng: random.Random) -> str:
    """Two people talk about a faulty thing; a sentence then reports who said what."""
    a, b = people(rng, 2)
    slots = {
        "a": a,
        "b": b,
        "thing": noun(rng),
        "fault": fault(rng),
        "remedy": remedy(rng),
    }
    lines = [(a, f"{rng.choice(GREETINGS)} {rng.choice(FAULT_LINES)}"), (b, rng.choice(FILLERS))]
    if rng.random() < 0.5:
        lines += [(a, f"I paid {rng.randint(5, 90)} pounds for it."), (b, rng.choice(FILLERS))]
    lines[-1] = (b, f"{lines[-1][1]} {rng.choice(REMEDY_LINES)}")
    if rng.random() < 0.7:
        lines.append((a, rng.choice(THANKS)))
    if rng.random() < 0.3:
        talk = " ".join(f'"{line}" said {who}.' for who, line in lines)
    else:
        talk = "\n".join(f"{who}: {line}" for who, line in lines)
    return f"{talk}\n\n{rng.choice(REPORTS)}".format(**slots)


def favour_talk(rng: random.Random) -> str:
    """Two people share out errands; a report says who does what and when."""
    a, b = people(rng, 2)
    first, second = action(rng), action(rng)
    day, when = rng.choice(DAYS), clock(rng)
    line = rng.choice(
        (
            f"{a}: Could you {first} on {day}?\n{b}: Yes. And could you {second}?\n"
            f"{a}: Of course, at {when}.",
            f"{a}: Somebody has to {first}.\n{b}: I can do it on {day}, if you {second}.\n"
            f"{a}: All right, I will do that at {when}.",
            f"{b}: I shall {first} on {day}.\n{a}: Good. Then I will {second} at {when}.",
        )
    )
    report = rng.choice(
        (
            f"So {b} will {first} on {day}, and {a} will {second} at {when}.",
            f"{b} has to {first} on {day}. {a} has to {second} at {when}.",
            f"At {when} {a} is going to {second}. On {day} {b} is going to {first}.",
        )
    )
    return f"{line}\n\n{report}"


NOTE_PAIRS = (
    ("{thing} / {name} / {day} / {clock}", "{name} brings the {thing} on {day} at {clock}."),
    ("{name}, {dayshort}, {clock}: {act}", "On {day} at {clock}, {name} will {act}."),
    (
        "{dayshort}. {clock}. see {name}, {place}. subject: {subject}",
        "On {day} at {clock} we see {name} in {place} to talk about {subject}.",
    ),
    (
        "{name} -> {other}: {subject}, {dayshort}",
        "{name} writes to {other} about {subject} on {day}.",
    ),
    ("to do {dayshort}: {act} ({name})", "{name} is asked to {act} on {day}."),
    ("{subject}: ask {name} by {dayshort}", "We must ask {name} about {subject} by {day}."),
    (
        "lost: {thing}, {place}, {dayshort}, tell {name}",
        "The {thing} was lost in {place} on {day}; whoever finds it should tell {name}.",
    ),
    (
        "{name} + {other}, {clock}, {place}",
        "{name} and {other} are going to be in {place} at {clock}.",
    ),
    (
        "off: {subject} / {name} ill / new day {dayshort}",
        "{name} is ill, so the talk about {subject} has a new day: {day}.",
    ),
)
NOTE_LEADS = (
    ("Note: ", "\nWhat it means: "),
    ("", "\n= "),
    ("Jotted down: ", "\nIn full: "),
    ("On the card: ", "\nRead aloud: "),
    ("'", "' stands for '"),
)


def notes(rng: random.Random) -> str:
    """One to four terse notes, each followed by the full sentence it stands for."""
    lead, link = rng.choice(NOTE_LEADS)
    parts = []
    for _ in range(rng.randint(1, 4)):
        short, full = rng.choice(NOTE_PAIRS)
        day = rng.choice(DAYS)
        name, other = people(rng, 2)
        slots = {
            "name": name,
            "other": other,
            "day": day,
            "dayshort": DAY_SHORT[day],
            "clock": clock(rng),
            "thing": noun(rng),
            "act": action(rng),
            "subject": subject(rng),
            "place": town(rng),
        }
        end = "'" if lead == "'" else ""
        parts.append(f"{lead}{short}{link}{full}{end}".format(**slots))
    return "\n\n".join(parts)


SHORT_FORMS = {
    **{short: day for day, short in DAY_SHORT.items()},
    "mtg": "meeting",
    "appt": "appointment",
    "tmrw": "tomorrow",
    "pls": "please",
    "asap": "as soon as possible",
    "w/": "with",
    "w/o": "without",
    "re": "about",
    "conf": "conference",
    "dept": "department",
    "info": "information",
    "msg": "message",
    "pkg": "package",
    "thx": "thanks",
    "approx": "about",
    "min": "minutes",
    "hr": "hours",
    "am": "in the morning",
    "pm": "in the afternoon",
    "doc": "document",
    "qty": "quantity",
    "addr": "address",
    "govt": "government",
    "ref": "reference",
    "mgr": "manager",
    "b4": "before",
    "cust": "customer",
    "bday": "birthday",
}


def short_forms(rng: random.Random) -> str:
    """What some abbreviations stand for."""
    chosen = rng.sample(sorted(SHORT_FORMS), 6)
    form = rng.choice(
        ("'{}' is short for '{}'.", "{} = {}", "{} means {}.", "When I write {}, I mean {}.")
    )
    return "\n".join(form.format(short, SHORT_FORMS[short]) for short in chosen)


RECORDS = (
    (
        ("Name", "Town", "Wants", "Day"),
        "{0} from {1} wants the {2} on {3}.",
    ),
    (("Sender", "Goods", "Fault"), "{0} has sent back the {1} because it {2}."),
    (("Who", "Must", "When"), "{0} must {1} on {2}."),
    (("Guest", "Month", "From"), "In {1} our guest {0} comes from {2}."),
    (("Topic", "Speaker", "Time"), "{1} will speak about {0} at {2}."),
    (("Parcel", "For", "Answer"), "The {0} is for {1}, and our answer is that we will {2}."),
)


def records(rng: random.Random) -> str:
    """Two to four records with the same fields, each turned into the same kind of sentence."""
    fields, pattern = rng.choice(RECORDS)
    form = rng.choice(("line", "semicolon"))
    parts = []
    for _ in range(rng.randint(2, 4)):
        values = {
            "Name": person(rng),
            "Sender": person(rng),
            "Who": person(rng),
            "Guest": person(rng),
            "Speaker": person(rng),
            "For": person(rng),
            "Town": town(rng),
            "From": town(rng),
            "Wants": noun(rng),
            "Parcel": noun(rng),
            "Goods": noun(rng),
            "Fault": fault(rng),
            "Must": action(rng),
            "Topic": subject(rng),
            "Day": rng.choice(DAYS),
            "When": rng.choice(DAYS),
            "Month": rng.choice(MONTHS),
            "Time": clock(rng),
            "Answer": remedy(rng),
        }
        mark = "\n" if form == "line" else "; "
        shown = mark.join(f"{field}: {values[field]}" for field in fields)
        result = pattern.format(*(values[field] for field in fields))
        parts.append(f"{shown}\n{result}" if form == "line" else f"{shown} => {result}")
    return ("\n\n" if form == "line" else "\n").join(parts)


def letter(rng: random.Random) -> str:
    """A short letter that asks for something, and an answer that takes it up."""
    a, b = first_name(rng), first_name(rng)
    thing, act, day = noun(rng), action(rng), rng.choice(DAYS)
    topic = subject(rng)
    ask = rng.choice(
        (
            f"I am looking for my {thing}. Did I leave it with you on {day}?",
            f"would you {act} before {day}? I also have a question about {topic}.",
            f"on {day} we talk about {topic}. Please bring the {thing}.",
        )
    )
    reply = {
        "I": f"Yes, your {thing} has been here since {day}.",
        "w": f"Yes, I will {act} before {day}. What is your question about {topic}?",
        "o": f"I will be there on {day} to talk about {topic}, and I will bring the {thing}.",
    }[ask[0]]
    return f"Dear {b},\n{sentence(ask)}\nYours, {a}\n\nDear {a},\n{reply}\nYours, {b}"
