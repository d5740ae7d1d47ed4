"""Texts of known topic, requests of known intent, opinions of known mood; and their labels."""

import random
from collections.abc import Mapping

from demo.tasks import base_opinions, base_reviews
from demo.tasks.base_phrases import action, noun
from demo.tasks.base_words import (
    DAYS,
    FOODS,
    GOODS,
    MONTHS,
    NUMBER_WORDS,
    clock,
    person,
    sentence,
    town,
)
from demo.tasks.instruct_forms import Fields, Kind, Task, listed, say, wordings
from demo.tasks.instruct_rewrite import forms_of
from demo.tasks.rows import phrases

# Per topic: who, and what they did; any of the first goes with any of the second.
TOPICS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sport": (
        phrases(
            "the goalkeeper|the home team|a young swimmer|the tennis champion|our coach|a runner"
        ),
        phrases(
            """won the final|lost the last match|trained hard for the race|scored twice
            |broke the club record|was cheered by the fans|will play in the cup on {day}"""
        ),
    ),
    "weather": (
        phrases("the storm|heavy rain|thick fog|a warm wind|the first snow|a cold front"),
        phrases(
            """will reach {town} on {day}|is expected in the hills|kept temperatures low
            |moved in from the sea|brought hail and thunder|will last until {day}"""
        ),
    ),
    "food": (
        phrases(
            "the cook|a baker in {town}|the chef|my grandmother|the kitchen team|a food writer"
        ),
        phrases(
            """fried {food} with garlic|baked a pie with {food}|served hot soup and {food}
            |added salt, pepper and {food}|shared a recipe for {food}|tasted the new sauce"""
        ),
    ),
    "travel": (
        phrases(
            "the tourists|a group of hikers|two passengers|the travel agent|our guide|a family"
        ),
        phrases(
            """booked a hotel in {town}|missed the flight to {town}|showed their passports
            |packed a suitcase for {town}|visited the old ruins|looked for a cheap hostel"""
        ),
    ),
    "money": (
        phrases("the bank|a local company|the owner of the firm|an investor|the shareholders"),
        phrases(
            """raised interest rates|reported higher profits|sold shares for {n} million
            |asked for a loan|cut the price of bonds|paid its debts by {day}"""
        ),
    ),
    "health": (
        phrases("the doctor|a nurse in {town}|the patient|the hospital|a dentist|the clinic"),
        phrases(
            """treated a fever|warned of the flu|took a blood test|prescribed pills for the pain
            |recovered from an operation|opened a new ward for the ill"""
        ),
    ),
    "music": (
        phrases("the choir|a young violinist|the band|the pianist|an orchestra|the singer"),
        phrases(
            """played a slow waltz|recorded a new album|sang the second verse|tuned the strings
            |gave a concert in {town}|wrote a tune for two voices"""
        ),
    ),
    "school": (
        phrases(
            "the teacher|a class of nine-year-olds|the pupils|the head of the school|a student"
        ),
        phrases(
            """handed in the homework|passed the exam|learned to spell|forgot the lesson
            |studied for a maths test|wrote an essay about {town}"""
        ),
    ),
    "science": (
        phrases("a physicist|the research team|an astronomer|the laboratory|a chemist|biologists"),
        phrases(
            """measured the speed of particles|discovered a distant planet|tested the theory
            |published the results of an experiment|studied cells under a microscope"""
        ),
    ),
    "politics": (
        phrases("the minister|parliament|the mayor of {town}|the opposition|voters|the council"),
        phrases(
            """passed a new law|called an election for {month}|debated the tax reform
            |signed a treaty|promised more votes for towns|resigned after the vote"""
        ),
    ),
    "farming": (
        phrases("the farmer|a shepherd near {town}|the farm workers|the owner of the herd"),
        phrases(
            """brought in the harvest|milked the cows|ploughed the field|sowed wheat in {month}
            |fed the pigs|sold the hay to a neighbouring farm"""
        ),
    ),
    "computers": (
        phrases("the programmer|a software firm|the new app|the server|a hacker|the update"),
        phrases(
            """deleted the old files|crashed after a bug|stored the data twice|changed the password
            |installed a program on the disk|slowed down the network"""
        ),
    ),
}
INTENTS: Mapping[str, tuple[str, ...]] = {
    "book a table": phrases(
        """a table for {n} at {time}, please|can we eat at your place on {day}|do you have room for
        {n} of us on {day}|reserve us a seat by the window for {time}|dinner for {n} on {day}"""
    ),
    "set an alarm": phrases(
        """wake me at {time}|I have to get up at {time} on {day}|ring the bell for me at {time}
        |alarm for {day} at {time}|make sure I am awake by {time}"""
    ),
    "ask about the weather": phrases(
        """will it rain in {town} on {day}|do I need a coat in {town}|how hot does it get on {day}
        |is there snow in {town}|what about the sun on {day}"""
    ),
    "play music": phrases(
        """play something by {name}|I want to hear a song about {food}|put on some jazz
        |turn on the band called {town}|next song, please, and louder"""
    ),
    "check the balance": phrases(
        """how much money is in my account|do I have {n} hundred left|what is on my savings account
        |can I afford the {thing} with what I have|tell me how rich I am"""
    ),
    "report a lost card": phrases(
        """my card is gone|somebody stole my bank card in {town}|block my card at once
        |I left my card at {town} station|I cannot find the card since {day}"""
    ),
    "track a parcel": phrases(
        """where is my parcel with the {thing}|my {thing} should have come on {day}
        |has the {thing} been sent off|when will the postman bring the {thing}"""
    ),
    "cancel an order": phrases(
        """I do not want the {thing} any more|please stop my order of {n} {food}
        |forget the {thing} I ordered|take the {thing} off my order"""
    ),
    "ask the way": phrases(
        """how do I get to {town}|which bus goes to {town}|is it far to {town} on foot
        |where do I turn to reach {town}|show me the road to {town}"""
    ),
    "say thanks": phrases(
        """thank you, {name}|that was very kind of you|I owe you one, {name}|many thanks for the
        {thing}|you helped me a lot on {day}"""
    ),
    "make a complaint": phrases(
        """the {thing} is a bad joke|I am angry about the {thing}|this is the worst {thing} of all
        |your people were rude on {day}|I waited {n} hours and nobody came"""
    ),
    "add to a list": phrases(
        """put {food} on my list|I have to remember to {act}|note down: {act}
        |we are out of {food}, write that down|add {n} {food} to what we need"""
    ),
}


def filled(rng: random.Random, text: str) -> str:
    """The text with its slots filled."""
    slots = {
        "day": rng.choice(DAYS),
        "month": rng.choice(MONTHS),
        "town": town(rng),
        "food": rng.choice(FOODS),
        "n": rng.choice(NUMBER_WORDS[2:]),
        "time": clock(rng),
        "name": person(rng),
        "thing": noun(rng),
        "act": action(rng),
    }
    return " ".join(text.format(**slots).split())


def on_topic(rng: random.Random, topic: str) -> str:
    """One or two sentences on a topic."""
    who, deeds = TOPICS[topic]
    lines = []
    for deed in rng.sample(deeds, rng.randint(1, 2)):
        lines.append(f"{sentence(filled(rng, f'{rng.choice(who)} {deed}'))}.")
    return " ".join(lines)


def request(rng: random.Random, intent: str) -> str:
    """What somebody says who has this intent."""
    text = filled(rng, rng.choice(INTENTS[intent]))
    return rng.choice((text, f"{sentence(text)}.", sentence(text)))


def topic(rng: random.Random) -> Task:
    """The topic of a text or the intent of a request, among labels or free."""
    table, make = rng.choice(((TOPICS, on_topic), (INTENTS, request)))
    labels = rng.sample(sorted(table), rng.randint(2, 6))
    what = "topic" if table is TOPICS else "intent"
    own = f"""{{input}} / Which {what} is it: {listed(labels)}?
    |Name the {what}. Options: {", ".join(labels)}. / {{input}}|{{input}} / Options:
    {", ".join(labels)} / {what}:
    |Classify by {what} ({", ".join(labels)}). / {{input}}"""
    families = ("classify_among",)
    if table is TOPICS and rng.random() < 0.3:
        families, own, labels = ("topic",), "", sorted(table)
    wording = rng.choice(wordings(*families, own=own))

    def draw() -> tuple[Fields, str]:
        label = rng.choice(labels)
        return {"input": make(rng, label), "labels": ", ".join(labels)}, label

    return Task(wording, draw)


def write_topic(rng: random.Random) -> Task:
    """A text on a given topic, or of a given mood."""
    family = rng.choice(("topic/inverted", "sentiment/inverted"))
    wording = rng.choice(wordings(family))

    def draw() -> tuple[Fields, str]:
        if family.startswith("topic"):
            label = rng.choice(sorted(TOPICS))
            return {"completion": label}, on_topic(rng, label)
        mood = rng.choice(("positive", "negative"))
        return {"completion": mood}, base_opinions.opinion(rng, mood, rng.choice(GOODS))

    return Task(wording, draw)


MOODS = (("positive", "negative"), ("good", "bad"), ("happy", "unhappy"), ("praise", "complaint"))


def sentiment(rng: random.Random) -> Task:
    """The mood of an opinion: two labels that stand in the prompt, or yes and no."""
    good, bad = rng.choice(MOODS)
    own = f"""{{input}} / Is this {good} or {bad}?|{good} or {bad}? {{input}}|{{input}} / {good} or
        {bad}:
    |Say whether this is {good} or {bad}. / {{input}}|Review: {{input}} / Answer {good} or {bad}:"""
    families: tuple[str, ...] = ()
    form = rng.random()
    if form < 0.4:
        families, own, good, bad = ("sentiment",), "", "positive", "negative"
    elif form < 0.6:
        good, bad = "yes", "no"
        own = """{input} / Did they like it?|Was the writer pleased? / {input}|{input} / Happy with
            it?
        |Would this person buy it again? Answer yes or no. / {input} / Answer:"""
    elif form < 0.7:
        families, own, good, bad = ("rate",), "", "5", "1"
    wording = rng.choice(wordings(*families, own=own))

    def draw() -> tuple[Fields, str]:
        mood = rng.choice(("positive", "negative"))
        text = (
            base_opinions.opinion(rng, mood, rng.choice(GOODS))
            if rng.random() < 0.75
            else base_reviews.opinion(rng, mood)
        )
        return {"input": text}, say(wording, good if mood == "positive" else bad)

    return Task(wording, draw)


def acceptable(rng: random.Random) -> Task:
    """Whether a sentence is well formed."""
    own = """{input} / Is this good English?|Is the grammar right? / {input}
    |Sentence: {input} / Is that acceptable? Answer:"""
    wording = rng.choice(wordings("acceptable", own=own))
    labels = ("correct", "incorrect") if "orrect or inc" in wording else ("yes", "no")

    def draw() -> tuple[Fields, str]:
        forms = forms_of(rng)
        text = forms[rng.choice(("past tense", "future with will", "present tense"))]
        if rng.random() < 0.5:
            return {"input": text}, say(wording, labels[0])
        parts = text[:-1].split()
        form = rng.randrange(3)
        if form == 0:
            parts[-2:] = reversed(parts[-2:])
        elif form == 1:
            at = rng.randrange(len(parts))
            parts[at:at] = ["the", "the"]
        else:
            word = rng.choice(("is", "are", "did", "was"))
            parts = forms["future with will"][:-1].replace(" will ", f" will {word} ").split()
        return {"input": " ".join(parts) + "."}, say(wording, labels[1])

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "topic": (topic, 5.0),
    "write": (write_topic, 1.0),
    "sentiment": (sentiment, 6.0),
    "acceptable": (acceptable, 1.5),
}
