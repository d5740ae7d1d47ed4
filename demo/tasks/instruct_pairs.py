"""Two texts beside each other: same meaning, sense of a word, cause and effect, who is meant."""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from demo.tasks.base_phrases import action, noun
from demo.tasks.base_words import DAYS, FOODS, clock, people, sentence, town
from demo.tasks.instruct_forms import Fields, Kind, Task, say, wordings
from demo.tasks.instruct_reading import lettered
from demo.tasks.instruct_words import HE_NAMES, SHE_NAMES
from demo.tasks.rows import phrases

# Each group says one thing in several ways.
SAME: tuple[tuple[str, ...], ...] = tuple(
    tuple(" ".join(group.split()).split(" = "))
    for group in phrases(
        """{a} gave the {thing} to {b}. = {b} got the {thing} from {a}. = It was {a} who gave {b}
        the
        {thing}.|{a} is older than {b}. = {b} is younger than {a}. = Of {a} and {b}, {a} is older.
        |{a} sold {b} the {thing}. = {b} bought the {thing} from {a}. = The {thing} went from {a} to
        {b} for money.|The train to {town} leaves at {time}. = At {time} the train to {town}
        departs.
        = {time} is when the train to {town} goes.|{a} taught {b} to cook. = {b} learned to cook
        from
        {a}. = It was {a} who taught {b} how to cook.|{a} wants {b} to {act}. = What {a} wants is
        that
        {b} should {act}. = {a} hopes that {b} will {act}.|{a} forgot to {act}. = {a} did not
        remember
        to {act}. = It slipped the mind of {a} to {act}.|{a} lives near {b}. = {b} lives near {a}.
        = The homes of {a} and {b} are close together.|The shop in {town} is closed on {day}. = On
        {day} the shop in {town} is not open. = You cannot buy anything in the shop in {town} on
        {day}.
        |{a} likes {food} more than {food2}. = {a} prefers {food} to {food2}. = Rather than
        {food2}, {a}
        eats {food}.|{a} lent {b} the {thing}. = {b} borrowed the {thing} from {a}. = The {thing}
        that
        {b} has belongs to {a}.|{a} arrived before {b}. = {b} arrived after {a}. = When {b} arrived,
        {a} was already there.|{a} is taller than {b}. = {b} is shorter than {a}. = {b} is not as
        tall
        as {a}.|Nobody but {a} saw the {thing}. = Only {a} saw the {thing}. = The {thing} was seen
        by
        {a} and by no one else."""
    )
)
# Slots whose values, swapped, give a sentence of another meaning.
SWAPS = (("a", "b"), ("food", "food2"))


def slots(rng: random.Random) -> dict[str, str]:
    """Values for the slots of the sentences here."""
    a, b = people(rng, 2)
    food, food2 = rng.sample(FOODS, 2)
    return {
        "a": a,
        "b": b,
        "thing": noun(rng),
        "act": action(rng),
        "town": town(rng),
        "time": clock(rng),
        "day": rng.choice(DAYS),
        "food": food,
        "food2": food2,
    }


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its slots filled, on one line, beginning with a capital letter."""
    return sentence(" ".join(text.format(**values).split()))


def pair(rng: random.Random, same: bool) -> tuple[str, str]:
    """Two sentences that say the same, or that differ in one value or in who does what."""
    group = rng.choice([group for group in SAME if "near" not in group[0] or same])
    first, second = rng.sample(group, 2)
    values = slots(rng)
    other = dict(values)
    if not same:
        keys = [
            key for key in values if f"{{{key}}}" in first and key not in ("a", "food", "food2")
        ]
        for one, two in SWAPS:
            if f"{{{two}}}" in first and (not keys or rng.random() < 0.6):
                other[one], other[two] = values[two], values[one]
        while other == values:
            key = rng.choice(keys)
            other[key] = slots(rng)[key]
    return fill(first, values), fill(second, other)


def same_meaning(rng: random.Random) -> Task:
    """Whether two sentences mean the same, or a number for how alike they are."""
    own = """{first} / {second} / Do both sentences mean the same? Answer:
    |Sentence 1: {first} Sentence 2: {second} Same meaning, yes or no?
    |Do these two mean the same? / {first} / {second}"""
    score = rng.random() < 0.15
    wording = rng.choice(wordings("similarity") if score else wordings("same_meaning", own=own))
    if score:
        wording = f"Give 5 for the same meaning and 0 for nothing in common.\n\n{wording}"

    def draw() -> tuple[Fields, str]:
        form = rng.random()
        if score and form < 0.33:
            first, second = pair(rng, True)[0], pair(rng, True)[1]
            return {"first": first, "second": second}, "0"
        same = form > 0.66 if score else form < 0.5
        first, second = pair(rng, same)
        if score:
            return {"first": first, "second": second}, "5" if same else "3"
        return {"first": first, "second": second}, say(wording, "yes" if same else "no")

    return Task(wording, draw)


def paraphrase(rng: random.Random) -> Task:
    """A sentence in other words."""
    wording = rng.choice(wordings("paraphrase"))

    def draw() -> tuple[Fields, str]:
        first, second = pair(rng, True)
        return {"input": first}, second

    return Task(wording, draw)


@cache
def senses() -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Words with sentences in each of their two senses."""
    path = Path(__file__).with_name("instruct_senses.yaml")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        word: (tuple(one.split(" / ")), tuple(two.split(" / ")))
        for word, (one, two) in found.items()
    }


def word_sense(rng: random.Random) -> Task:
    """Whether a word means the same in two sentences."""
    own = """{first} {second} Does "{word}" mean the same in both sentences?
    |Word: {word} / {first} / {second} / Same sense, yes or no?|{first} / {second} / Word: {word} /
    Does
    the word mean the same in both sentences? Answer:
    |Is "{word}" used in one sense or in two? Answer yes if it is one. / {first} / {second} /
    Answer:"""
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        word = rng.choice(sorted(senses()))
        one, two = rng.sample(senses()[word], 2)
        same = rng.random() < 0.5
        first, second = rng.sample(one, 2) if same else (rng.choice(one), rng.choice(two))
        values = {"word": word}
        for key, text in (("first", first), ("second", second)):
            values[key] = f"{fill(text, slots(rng))}."
        return values, say(wording, "yes" if same else "no")

    return Task(wording, draw)


# What happened, and what came of it.
CAUSES: tuple[tuple[str, str], ...] = tuple(
    (cause, effect)
    for line in phrases(
        """it rained all night > the river rose|{a} forgot the umbrella > {a} got wet|the alarm
        clock
        of {a} did not ring > {a} was late for work|{a} dropped the cup > the cup broke|the wind
        blew
        hard > the tree fell over|{a} ate too much cake > {a} felt sick|the fire was left to burn >
        the
        hut burned down|{a} studied hard > {a} passed the exam|{a} lost the key > {a} could not get
        into
        the house|the road was icy > the van slid into a ditch|nobody watered the plants > the
        plants
        died|{a} told a joke > everybody laughed|the shop cut its prices > more people came to buy
        |{a} ran for an hour > {a} was out of breath|the sun shone on the butter > the butter melted
        |the bridge was closed > the bus took another road|{a} shouted at the dog > the dog ran away
        |the battery was empty > the radio fell silent|{a} left the gate open > the sheep got out
        |{a} saved money for years > {a} could buy a house|the well ran dry > the village had no
        water
        |{a} baked bread > the kitchen smelled good|the baby was hungry > the baby cried|{a} won the
        race > {a} got a prize|the roof had a hole > water came into the room|{a} touched the hot
        pan >
        {a} burned a finger|the bees found the flowers > there was a lot of honey|the lights went
        out >
        {a} lit a candle|{a} spilled ink > the table cloth was blue|the tide came in > the sand
        castle
        was washed away"""
    )
    for cause, _, effect in (" ".join(line.split()).partition(" > "),)
)


def cause(rng: random.Random) -> Task:
    """The likelier one of two causes or effects, as a letter or in full."""
    effect = rng.random() < 0.5
    ask = "What came of it?" if effect else "Why was that?"
    lettered_form = rng.random() < 0.6
    own = (
        f"{{premise}}. {ask} / {{options}} / Answer:|{ask} / {{premise}}. / {{options}} / Letter:"
        if lettered_form
        else f"{{premise}}. {ask}|{ask} / {{premise}}.|{{premise}} {'so' if effect else 'because'}"
    )
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        one, other = rng.sample(CAUSES, 2)
        values = slots(rng)
        given, wanted = (one[0], one[1]) if effect else (one[1], one[0])
        right = " ".join(wanted.format(**values).split())
        wrong = " ".join(other[1 if effect else 0].format(**values).split())
        letter, options = lettered(rng, [sentence(right), sentence(wrong)])
        found = {"premise": fill(given, values), "options": options}
        bare = wording.endswith(("so", "because"))
        return found, letter if lettered_form else f"{right if bare else sentence(right)}."

    return Task(wording, draw)


MEANT = (
    ("{a} asked {b} for the {thing} because {p} needed it", "a"),
    ("{a} gave {b} the {thing} because {p} had asked for it", "b"),
    ("{a} thanked {b} because {p} had got help with the {thing}", "a"),
    ("{a} thanked {b} because {p} had been of help with the {thing}", "b"),
    ("{a} bought the {thing} from {b} because {p} wanted to have one", "a"),
    ("{a} bought the {thing} from {b} because {p} did not want it any more", "b"),
    ("{a} could not see the stage behind {b} because {p} was so tall", "b"),
    ("{a} could not lift {b} because {p} was too weak", "a"),
    ("{a} could not lift {b} because {p} was too heavy", "b"),
    ("{a} beat {b} in the race because {p} was faster", "a"),
    ("{a} beat {b} in the race because {p} was slower", "b"),
    ("{a} waited for {b} because {p} was late", "b"),
)


def meant(rng: random.Random) -> Task:
    """Whom a pronoun stands for: the name, or yes and no for one name."""
    check = rng.random() < 0.5
    own = (
        """{text}. Does "{p}" mean {name}?|Text: {text}. Pronoun: {p} Name: {name} Does the pronoun
        stand
        for the name? Answer:|{text}. / Is {name} the one called "{p}"? Answer yes or no:"""
        if check
        else """{text}. Who is "{p}"?|{text}. / Name the one that "{p}" stands for."""
    )
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        pool, pronoun = rng.choice(((SHE_NAMES, "she"), (HE_NAMES, "he")))
        a, b = rng.sample(pool, 2)
        text, who = rng.choice(MEANT)
        right = a if who == "a" else b
        name = rng.choice((a, b))
        shown = text.format(a=a, b=b, p=pronoun, thing=noun(rng))
        answer = say(wording, "yes" if name == right else "no") if check else f"{right}."
        return {"text": shown, "p": pronoun, "name": name}, answer

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "same meaning": (same_meaning, 3.0),
    "paraphrase": (paraphrase, 1.5),
    "word sense": (word_sense, 1.5),
    "cause": (cause, 1.5),
    "who is meant": (meant, 1.5),
}
