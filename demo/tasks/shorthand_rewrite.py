"""A note in shorthand -> the full sentence.

Shared between train and test because they define the task: the abbreviations, weekdays, clock
times, and one sentence frame per kind of note. Names, topics, things and places come from
separate pools; so does the layout of the note (order of its parts, punctuation, which
abbreviations it uses).
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

from demo.tasks.rows import Row, Split, phrases, words

NAME = "shorthand_rewrite"

DAYS = {
    "mon": "Monday",
    "tue": "Tuesday",
    "wed": "Wednesday",
    "thu": "Thursday",
    "fri": "Friday",
    "sat": "Saturday",
    "sun": "Sunday",
}

SENTENCES: Mapping[str, str] = {
    "meeting": "There is a meeting with {name} on {day} at {time} about the {topic}.",
    "call": "Please call {name} on {day} at {time} about the {topic}.",
    "send": "Please send the {thing} to {name} by {day}.",
    "cancelled": "The appointment with {name} on {day} at {time} has been cancelled.",
    "delivery": "The {thing} will be delivered to {place} on {day} at {time}.",
    "remind": "Please remind {name} to bring the {thing} on {day}.",
}


@dataclass(frozen=True)
class ShorthandPools:
    """Values and layouts of one split; `{d}` is the short weekday, `{t}` the short time."""

    names: tuple[str, ...]
    qualities: tuple[str, ...]
    topics: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    meeting: tuple[str, ...]
    call: tuple[str, ...]
    send: tuple[str, ...]
    cancelled: tuple[str, ...]
    delivery: tuple[str, ...]
    remind: tuple[str, ...]


TRAIN = ShorthandPools(
    names=words(
        """Anna Ben Carol Daniel Eva Fred Gina Harry Isabel James Kate Liam Mary Nick Owen Pam
        Richard Sarah Tom Vicky Will Jenny Mark Lucy Steve Julia Edward Alex Donna Eric Monica
        Ray Cathy Neil Joyce Max Linda Ian Nancy Roger"""
    ),
    qualities=phrases(
        """new|annual|first|final|weekly|local|urgent|joint|monthly|early|revised|open|winter|north
        |staff|project"""
    ),
    topics=phrases(
        """budget|office move|sales plan|website|training day|client visit|staff party|rent
        |safety rules|logo|survey|holiday plan|tax form|job advert|price list|parking permit
        |lease|charity run|trade fair|press release|user test|data backup|road map|team lunch
        |insurance|audit|exhibition|newsletter|bus route|heating"""
    ),
    things=phrases(
        """invoice|contract|spare keys|printer paper|meeting notes|blue folder|test results|tickets
        |floor plan|sample kit|receipts|signed form|laptop|name badges|water bottles|guest list
        |first aid box|projector|cake|map|travel card|extension cord|quarterly report|large table
        |brochures|passport copy|tool kit|poster|order form|coffee cups"""
    ),
    places=phrases(
        """Leeds|York|Bristol|Oxford|Dublin|Cardiff|Boston|Denver|Seattle|Austin|Toronto|Sydney
        |Berlin|Lyon|Madrid|Vienna|Oslo|Prague|Athens|Geneva"""
    ),
    meeting=phrases(
        """mtg w/ {name} {d} {t} re {topic}|{d} {t} mtg w/ {name} re {topic}
        |mtg {d} {t} w/ {name}, {topic}|{topic} mtg w/ {name} {d} {t}
        |mtg re {topic} {d} {t} w/ {name}|{d} mtg {t}: {name}, re {topic}"""
    ),
    call=phrases(
        """call {name} {d} {t} re {topic}|{d} {t} call {name} re {topic}
        |pls call {name} re {topic}, {d} {t}|call {name} re {topic} {d} {t}
        |{d}: call {name} {t}, {topic}|re {topic}: call {name} {d} {t}"""
    ),
    send=phrases(
        """send {name} {thing} by {d}|pls send {thing} to {name} by {d}|{thing} to {name} by {d} pls
        |by {d}: send {thing} to {name}|pls send {name} {thing}, {d}
        |send {thing} -> {name}, by {d}"""
    ),
    cancelled=phrases(
        """appt w/ {name} {d} {t} cxld|cxld: appt {name} {d} {t}|{d} {t} appt w/ {name} cxld
        |{name} appt cxld, {d} {t}|appt {d} {t} w/ {name} - cxld|cxld appt w/ {name}, was {d} {t}"""
    ),
    delivery=phrases(
        """dlvry {thing} to {place} {d} {t}|{thing} dlvry {d} {t} {place}
        |{d} {t} dlvry: {thing}, {place}|dlvry {d} {t} {place}: {thing}
        |{place} dlvry {d} {t}, {thing}|dlvry {place} {thing} {d} {t}"""
    ),
    remind=phrases(
        """rmnd {name} bring {thing} {d}|pls rmnd {name}: {thing} {d}|{d} rmnd {name} bring {thing}
        |rmnd {name} re {thing}, {d}|rmnd {name} {d} bring {thing}|{thing} {d}, pls rmnd {name}"""
    ),
)

TEST = ShorthandPools(
    names=words(
        """Arnold Bonnie Claude Deborah Evelyn Gerald Holly Jasper Kirsten Lionel Miriam Nigel
        Phoebe Rowena Sylvia Trevor Vivian Walter Heather Douglas"""
    ),
    qualities=phrases("further|yearly|autumn|public|private|delayed|south|draft"),
    topics=phrases(
        """garden project|wage deal|film night|roof work|school trip|phone system|market report
        |book club|loan offer|dress code|food menu|board vote|fire alarm|river walk|car pool
        |music show"""
    ),
    things=phrases(
        """bank letter|visitor passes|cloth bag|webcam|lunch bags|door code|photo album|wall paint
        |paper plates|seating chart|step stool|song book|gift box|work plan|flower pots|cash box"""
    ),
    places=phrases("London|Paris|Turin|Chicago|Dallas|Derby|Milan|Lisbon|Hull|Perth"),
    meeting=phrases(
        """{name} mtg {d} {t} re {topic}|re {topic}: mtg {d} {t}, {name}
        |{d}, {t}: mtg {name} - {topic}"""
    ),
    call=phrases(
        """{d} call {name} re {topic} {t}|call {d} {t}: {name}, re {topic}
        |{t} {d} pls call {name} - {topic}"""
    ),
    send=phrases(
        """{name}: pls send {thing} by {d}|send by {d}: {thing}, {name}
        |pls send {thing}, {name}, {d}"""
    ),
    cancelled=phrases(
        """{d} appt {name} {t}: cxld|appt cxld: {d} {t}, {name}|{name}, {d} {t} appt, cxld"""
    ),
    delivery=phrases(
        """{d} dlvry {place} {t}: {thing}|dlvry {thing}, {place}, {d} {t}
        |{thing}: dlvry to {place}, {d} {t}"""
    ),
    remind=phrases(
        """{d}: rmnd {name}, bring {thing}|rmnd {name}, {thing}, {d}
        |pls rmnd {name} bring {thing}, {d}"""
    ),
)

POOLS: Mapping[str, ShorthandPools] = {"train": TRAIN, "validation": TRAIN, "test": TEST}


def pool_values(split: Split) -> dict[str, tuple[str, ...]]:
    """All pools of a split by name, for the disjointness check."""
    pools = POOLS[split]
    return {field.name: getattr(pools, field.name) for field in fields(pools)}


def make(rng: random.Random, split: Split) -> Row:
    """One note of a random kind with its sentence."""
    pools = POOLS[split]
    kind = rng.choice(sorted(SENTENCES))
    layouts = getattr(pools, kind)
    at = rng.randrange(len(layouts))
    short_day = rng.choice(sorted(DAYS))
    hour, minute = rng.randint(1, 12), rng.choice(("", "", ":15", ":30", ":45"))
    half = rng.choice(("am", "pm"))
    topic, thing = rng.choice(pools.topics), rng.choice(pools.things)
    if rng.random() < 0.4:
        topic = f"{rng.choice(pools.qualities)} {topic}"
    values = {
        "name": rng.choice(pools.names),
        "topic": topic,
        "thing": thing,
        "place": rng.choice(pools.places),
        "day": DAYS[short_day],
        "time": f"{hour}{minute} {half}",
    }
    slots = {key: value for key, value in values.items() if f"{{{key}}}" in SENTENCES[kind]}
    return Row(
        input=layouts[at].format(d=short_day, t=f"{hour}{minute}{half}", **values),
        completion=SENTENCES[kind].format(**values),
        template_id=f"{'test' if split == 'test' else 'train'}:{kind}/{at}",
        slots=slots,
    )
