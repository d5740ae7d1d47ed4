"""Days, months, dates and times of the day."""

import datetime
import random
from collections.abc import Callable, Mapping

from demo.tasks.base_words import ACTIONS, DAYS, FIRST_NAMES, MONTHS, NUMBER_WORDS
from demo.tasks.instruct_forms import Fields, Kind, Task, say, wordings

FIRST = datetime.date(1990, 1, 1)
NUM_DAYS = 18_000


def date(rng: random.Random) -> datetime.date:
    """A day between 1990 and 2039."""
    return FIRST + datetime.timedelta(days=rng.randrange(NUM_DAYS))


def long_date(day: datetime.date) -> str:
    """ "3 March 2021"."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def neighbour(rng: random.Random) -> Task:
    """The day or month before, after, or some steps from another."""
    wording = rng.choice(wordings("answer", own="{input}|Answer with one word. / {input}"))

    def draw() -> tuple[Fields, str]:
        cycle, unit = rng.choice(((DAYS, "day"), (MONTHS, "month")))
        at, steps = rng.randrange(len(cycle)), rng.randint(1, 5)
        before = rng.random() < 0.4
        found = cycle[(at + (-steps if before else steps)) % len(cycle)]
        side = "before" if before else "after"
        if steps == 1:
            text = rng.choice(
                (
                    f"Which {unit} comes just {side} {cycle[at]}?",
                    f"What is the {unit} {side} {cycle[at]}?",
                )
            )
        else:
            text = rng.choice(
                (
                    f"Which {unit} is {NUMBER_WORDS[steps]} {unit}s {side} {cycle[at]}?",
                    f"It is {cycle[at]}. What {unit} {'was' if before else 'will'} it "
                    f"{'' if before else 'be '}{NUMBER_WORDS[steps]} {unit}s "
                    f"{'ago' if before else 'from now'}?",
                )
            )
        return {"input": text}, found

    return Task(wording, draw)


def weekday(rng: random.Random) -> Task:
    """The weekday of a date, given that of another date nearby."""
    wording = rng.choice(wordings("answer", own="{input}|Name the weekday. / {input}"))

    def draw() -> tuple[Fields, str]:
        known = date(rng)
        asked = known + datetime.timedelta(days=rng.choice((1, 2, 3, 7, 7, 14, -1, -7)))
        shown, wanted = long_date(known), long_date(asked)
        text = f"{shown} is a {DAYS[known.weekday()]}. Which day of the week is {wanted}?"
        return {"input": text}, DAYS[asked.weekday()]

    return Task(wording, draw)


def rewrite_date(rng: random.Random) -> Task:
    """A date from one form into another, always the same two forms."""
    forms: Mapping[str, Callable[[datetime.date], str]] = {
        "YYYY-MM-DD": lambda day: day.isoformat(),
        "DD/MM/YYYY": lambda day: f"{day.day:02}/{day.month:02}/{day.year}",
        "day, month and year": long_date,
        "month, day and year": lambda day: f"{MONTHS[day.month - 1]} {day.day}, {day.year}",
    }
    source, target = rng.sample(sorted(forms), 2)
    wording = rng.choice(
        wordings(
            own=f"""Write the date as {target}. / {{input}}|{{input}} as {target}:
            |Change this date to the form {target}: {{input}}
            |Every date should be written as {target}. / {{input}}"""
        )
    )

    def draw() -> tuple[Fields, str]:
        day = date(rng)
        return {"input": forms[source](day)}, forms[target](day)

    return Task(wording, draw)


def earlier(rng: random.Random) -> Task:
    """The earlier or later one of two dates."""
    first = rng.random() < 0.5
    word = "earlier" if first else "later"
    wording = rng.choice(
        wordings(
            own=f"""Which date is {word}: {{input}}?|Name the {word} date. / {{input}}
            |{{input}}: which of the two comes {"first" if first else "last"}?"""
        )
    )

    def draw() -> tuple[Fields, str]:
        day = date(rng)
        other = day + datetime.timedelta(days=rng.choice((-1, 1)) * rng.randint(1, 900))
        found = min(day, other) if first else max(day, other)
        return {"input": f"{long_date(day)} or {long_date(other)}"}, long_date(found)

    return Task(wording, draw)


def hour(minutes: int) -> str:
    """Minutes since midnight as "14:05"."""
    return f"{minutes // 60 % 24}:{minutes % 60:02}"


def times(rng: random.Random) -> Task:
    """A time some minutes or hours later, or how long something took."""
    wording = rng.choice(wordings("answer", own="{input}|Work out the time. / {input}"))

    def draw() -> tuple[Fields, str]:
        start = rng.randrange(6 * 60, 18 * 60, 5)
        length = rng.choice((5, 10, 15, 20, 30, 45, 60, 120, 180))
        name, act = rng.choice(FIRST_NAMES), rng.choice(ACTIONS)
        span = f"{length} minutes" if length < 60 else f"{length // 60} hours"
        span = span.replace("1 hours", "1 hour")
        end = start + length
        if rng.random() < 0.7:
            text = rng.choice(
                (
                    f"{name} starts to {act} at {hour(start)} and needs {span}. When is it done?",
                    f"It is {hour(start)}. What time is it in {span}?",
                    f"The train leaves at {hour(start)} and takes {span}. When does it arrive?",
                )
            )
            return {"input": text}, hour(end)
        text = (
            f"{name} began to {act} at {hour(start)} and was done at {hour(end)}. How long was it?"
        )
        return {"input": text}, span

    return Task(wording, draw)


def opening(rng: random.Random) -> Task:
    """Whether a shop is open at some time, by its opening hours."""
    wording = rng.choice(
        wordings(own="{input} Answer yes or no.|{input}|Answer yes or no. / {input} / Answer:")
    )

    def draw() -> tuple[Fields, str]:
        opens, closes = rng.randint(6, 11), rng.randint(14, 21)
        asked = rng.randint(5, 22) * 60 + rng.choice((15, 30, 45))
        place = rng.choice(("shop", "office", "bank", "museum", "library", "bakery", "zoo", "pool"))
        text = rng.choice(
            (
                f"The {place} is open from {opens}:00 to {closes}:00. Is it open at {hour(asked)}?",
                f"Opening hours of the {place}: {opens}:00 to {closes}:00. Can I come at "
                f"{hour(asked)}?",
            )
        )
        return {"input": text}, say(wording, "yes" if opens * 60 <= asked < closes * 60 else "no")

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "neighbour": (neighbour, 2.0),
    "weekday": (weekday, 1.0),
    "date form": (rewrite_date, 1.5),
    "earlier date": (earlier, 1.0),
    "time": (times, 1.0),
    "opening hours": (opening, 1.0),
}
