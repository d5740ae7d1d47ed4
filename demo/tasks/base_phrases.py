"""Phrases put together from parts, for the pretraining text.

A short list of fixed phrases would be learnt by heart; tens of thousands of combinations have to
be copied, which is the skill that adapters build on.
"""

import random

from demo.tasks.base_words import (
    ACTIONS,
    ADJECTIVES,
    COLOURS,
    FAULTS,
    GOODS,
    REMEDIES,
    SUBJECTS,
    THINGS,
    article,
    made_up_word,
)
from demo.tasks.rows import phrases

NOUNS = phrases(
    """table|chair|stove|engine|window|roof|wire|button|lid|strap|pedal|shelf|drawer|tap|pipe|lock
    |hinge|bulb|plug|cable|fan|filter|spring|belt|zip|pocket|collar|sleeve|heel|sole|rug|tray|jug
    |cup|bowl|spoon|brush|bucket|ladder|rope|net|oar|sail|tyre|saddle|bell|card|stamp|envelope
    |folder|pencil|ruler|globe|poster|flag|mask|doll|puzzle|ball|bat|racket|helmet|glove|coat|hat
    |boot|sock|tie|ring|necklace|watch|lens|tripod|stand|hook|nail|hammer|saw|drill|spade|rake
    |hose|pot|seed|bulb holder|hedge|gate|fence|brick|tile|panel|board|beam|step|rail|counter
    |till|scale|barrel|crate|sack|trolley|van|tram|boat|wagon|cart|sledge|tunnel|lantern|candle
    |match|kiln"""
)
PARTS = phrases(
    """handle|cover|edge|bottom|top|corner|left side|right side|front|back|inside|middle|tip|rim
    |surface|frame|base|joint|seam|switch|screen|cord|knob|label"""
)
DAMAGES = phrases(
    """cracked|bent|loose|torn|scratched|missing|stuck|worn|wet|sticky|dirty|burnt|dented|broken
    |faded|rusty|split|too tight|too short|crooked|blunt|mouldy|soft|twisted"""
)
VERBS = phrases(
    """repair|send|check|replace|order|collect|clean|sell|move|count|paint|open|close|test|weigh
    |measure|bring|carry|hide|draw|borrow|rent|store|inspect|adjust|polish|wrap|label|photograph
    |deliver|buy|find|examine|pack|unpack|cut|shorten|glue|oil|dry|heat|cool|insure|hang|sort"""
)
LATERS = phrases(
    """today|this week|at once|next month|after lunch|before noon|for nothing|at our cost|by boat
    |by hand|again|in the shop|at the depot|with care|in two days|over the weekend"""
)
NOISES = phrases(
    """rattles|squeaks|hums|shakes|slips|leaks|smokes|wobbles|buzzes|clicks|drips|sticks"""
)
WHENS = phrases(
    """when I touch it|when it rains|after an hour|at night|in the cold|when I sit down
    |each time I move it|under load|near the window|when the door opens|in the sun|on stairs"""
)
TOPIC_NOUNS = phrases(
    """plan|price|list|contract|visit|repair|order|search|report|prize|course|delay|opening|sale
    |survey|design|budget line|schedule|rehearsal|inspection"""
)


def noun(rng: random.Random) -> str:
    """A thing with or without a property; one in eight is a nonsense word."""
    kind = rng.random()
    if kind < 0.12:
        return made_up_word(rng)
    base = rng.choice(NOUNS + GOODS + THINGS)
    if kind < 0.4:
        return f"{rng.choice(ADJECTIVES + COLOURS)} {base}"
    if kind < 0.5:
        return f"{rng.choice(NOUNS)} {rng.choice(PARTS)}"
    return base


def fault(rng: random.Random) -> str:
    """What is wrong with a thing, in the third person: "has a bent rim"."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(FAULTS)
    if kind == 1:
        return f"has {article(rng.choice(DAMAGES).removeprefix('too '))} {rng.choice(PARTS)}"
    if kind == 2:
        return f"{rng.choice(NOISES)} {rng.choice(WHENS)}"
    if kind == 3:
        return f"came with {article(noun(rng))} instead of {article(noun(rng))}"
    if kind == 4:
        return f"is {rng.choice(DAMAGES)} at the {rng.choice(PARTS)}"
    if kind == 5:
        return f"has no {rng.choice(NOUNS + PARTS)}"
    return f"does not {rng.choice(VERBS)} the {rng.choice(NOUNS)}"


def action(rng: random.Random) -> str:
    """Something to do, bare infinitive: "polish the brass bell"."""
    if rng.random() < 0.2:
        return rng.choice(ACTIONS)
    verb, thing = rng.choice(VERBS), noun(rng)
    determiner = rng.choice(("the", "the", "your", "another", "a second"))
    later = f" {rng.choice(LATERS)}" if rng.random() < 0.3 else ""
    return f"{verb} {determiner} {thing}{later}"


def remedy(rng: random.Random) -> str:
    """What a shop offers to do, bare infinitive."""
    if rng.random() < 0.3:
        return rng.choice(REMEDIES)
    return action(rng)


def subject(rng: random.Random) -> str:
    """Something to talk about: "the rope ladder", "the survey of the old bridge"."""
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(SUBJECTS)
    if kind < 0.5:
        return f"the {noun(rng)}"
    if kind < 0.75:
        return f"the {rng.choice(NOUNS)} {rng.choice(TOPIC_NOUNS)}"
    return f"the {rng.choice(TOPIC_NOUNS)} of the {noun(rng)}"
