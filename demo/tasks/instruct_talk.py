"""Dialogues to sum up, and conversations: about a text, with a described character, by a rule."""

import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import yaml

from demo.tasks import base_notes
from demo.tasks.base_phrases import action, noun, subject
from demo.tasks.base_words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    HOBBIES,
    JOBS,
    PLACES,
    article,
    clock,
    people,
    sentence,
    town,
)
from demo.tasks.instruct_forms import Fields, Kind, Task, wordings
from demo.tasks.instruct_knowledge import ASKED
from demo.tasks.instruct_reading import answered
from demo.tasks.instruct_subjects import POOLS, passage
from demo.tasks.instruct_words import CATEGORIES
from demo.tasks.rows import phrases

Turns = list[tuple[str, str]]
Talk = tuple[str, Turns]
"""What the system is told ("" for nothing), and what user and assistant say in turn."""


@cache
def dialogues() -> Mapping[str, tuple[tuple[tuple[str, ...], ...], str, tuple[str, ...]]]:
    """Per kind of dialogue: alternatives of each line, summary, questions with answers."""
    path = Path(__file__).with_name("instruct_dialogues.yaml")
    found = {}
    for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        lines = tuple(tuple(line.split(" / ")) for line in entry["lines"])
        found[name] = (lines, entry["summary"], tuple(entry["questions"]))
    return found


def dialogue(rng: random.Random) -> tuple[str, str, Turns]:
    """A dialogue, its summary, and questions with their answers."""
    lines, summary, questions = dialogues()[rng.choice(sorted(dialogues()))]
    a, b, c = people(rng, 3)
    place, place2 = rng.sample(PLACES, 2)
    act, act2 = action(rng), action(rng)
    slots = {
        "a": a,
        "b": b,
        "c": c,
        "place": place,
        "place2": place2,
        "act": act,
        "act2": act2,
        "day": rng.choice(DAYS),
        "time": clock(rng),
        "topic": subject(rng),
        "thing": noun(rng),
        "a_thing": article(noun(rng)),
        "food": rng.choice(FOODS),
        "drink": rng.choice(CATEGORIES["drink"]),
        "price": POOLS["price"](rng),
        "street": POOLS["street"](rng),
        "side": rng.choice(("left", "right")),
        "colour": rng.choice(COLOURS),
        "town": town(rng),
        "a_job": article(rng.choice(JOBS)),
        "pet": rng.choice(ANIMALS),
    }
    shown = []
    for choices in lines:
        speaker, _, text = rng.choice(choices).partition(": ")
        shown.append(f"{slots[speaker]}: {sentence(text.format(**slots))}")
    asked = [line.format(**slots).split(" = ") for line in questions]
    turns = [(question, f"{sentence(answer)}.") for question, answer in asked]
    return "\n".join(shown), summary.format(**slots), turns


def summarise(rng: random.Random) -> Task:
    """A dialogue and what it comes to, in one sentence."""
    own = """Summarise this dialogue in one sentence. / {dialogue}|{dialogue} / What did they agree
        on?
    |What happened here? / {dialogue}|{dialogue} / Sum this up."""
    wording = rng.choice(wordings("summarize_dialogue", own=own))
    shop = rng.random() < 0.25

    def draw() -> tuple[Fields, str]:
        if shop:
            make = rng.choice((base_notes.shop_talk, base_notes.favour_talk))
            text, _, summary = make(rng).rpartition("\n\n")
        else:
            text, summary, _ = dialogue(rng)
        return {"dialogue": text}, summary

    return Task(wording, draw)


def dialogue_question(rng: random.Random) -> Task:
    """A question about a dialogue."""
    own = "{passage} / {question}|Answer from the conversation. / {passage} / {question}"
    wording = rng.choice(wordings("answer_passage", own=own))

    def draw() -> tuple[Fields, str]:
        text, _, turns = dialogue(rng)
        question, answer = rng.choice(turns)
        return {"passage": text, "question": question}, answer

    return Task(wording, draw)


def about_text(rng: random.Random) -> Talk:
    """A text, then several questions about it, one per turn; the text may be the system's."""
    if rng.random() < 0.35:
        text, summary, turns = dialogue(rng)
        turns = [*rng.sample(turns, len(turns)), ("Sum it up in one sentence.", summary)]
    else:
        made = passage(rng, 3, 7, fillers=2)
        text = made.text
        turns = list(dict(answered(rng, made) for _ in range(4)).items())
    if rng.random() < 0.3:
        return f"Answer questions about this text.\n\n{text}", turns
    (question, answer), *rest = turns
    lead = rng.choice(("{}\n\n{}", "Here is a text.\n\n{}\n\n{}", "Read this.\n{}\n{}"))
    return "", [(lead.format(text, question), answer), *rest]


OPENERS = phrases("You are {}.|Play {}.|Answer as {}.|Speak as if you were {}.|Be {}.")


def character(rng: random.Random) -> Talk:
    """Somebody who is described answers questions about himself or herself."""
    name, friend = people(rng, 2)
    job, home, food = rng.choice(JOBS), town(rng), rng.choice(FOODS)
    hobby, pet, thing = rng.choice(HOBBIES), article(rng.choice(ANIMALS)), noun(rng)
    likes = [
        (f"lives in {home}", "Where do you live?", f"I live in {home}."),
        (f"likes {food}", "What do you like to eat?", f"I like {food}."),
        (f"enjoys {hobby}", "What do you enjoy?", f"I enjoy {hobby}."),
        (f"has {pet}", "Do you have an animal?", f"Yes, I have {pet}."),
        (f"is a friend of {friend}", "Who is your friend?", f"{friend} is my friend."),
        (f"always carries the {thing}", "What do you carry?", f"I always carry the {thing}."),
    ]
    chosen = rng.sample(likes, rng.randint(2, 4))
    told = ", ".join(part for part, _, _ in chosen[:-1]) + f" and {chosen[-1][0]}"
    opener = rng.choice(OPENERS).format(f"{name}, {article(job)}")
    system = f"{opener} {name.split()[0]} {told}."
    greeting = rng.choice(("Hello!", "Good morning.", "Nice to meet you.", "Hi there."))
    turns = [
        ("Who are you?", f"I am {name}, {article(job)}."),
        ("What is your name?", f"My name is {name}."),
        ("What is your job?", f"I am {article(job)}."),
        (greeting, f"{greeting} I am {name}, {article(job)} from {home}."),
    ]
    if not any(part.startswith("lives") for part, _, _ in chosen):
        turns.pop()
    asked = [(question, answer) for _, question, answer in chosen]
    mixed = [*rng.sample(turns, 2), *asked]
    return system, rng.sample(mixed, rng.randint(2, len(mixed)))


Rule = tuple[str, Callable[[str], str]]
ENDINGS = phrases(
    """ahoy|my friend|as the sea is my witness|by my beard|if you please|dear guest|over and out
    |said the owl|yes indeed|and that is that|trust me|so say the stars|beep|your majesty"""
)


def rule(rng: random.Random) -> Rule:
    """A manner of speaking: what the system says, and what it makes of an answer."""
    ending = rng.choice(ENDINGS)
    name = people(rng, 1)[0]
    return rng.choice(
        (
            (f'End every answer with "{ending}".', lambda text: f"{text}, {ending}."),
            (
                f'Begin every answer with "{sentence(ending)}".',
                lambda t: f"{sentence(ending)}: {t}.",
            ),
            ("Answer in capital letters.", lambda text: f"{text.upper()}."),
            ("You are always in doubt.", lambda text: f"I am not sure, but I think it is {text}."),
            ("You are in a hurry. Use as few words as you can.", lambda text: text),
            (f"Address the user as {name}.", lambda text: f"{name}, it is {text}."),
            ("Be very polite.", lambda text: f"With pleasure. The answer is {text}. Thank you."),
            ("You are very excited about everything.", lambda t: f"{sentence(t)}! How wonderful!"),
            ("Put every answer in quotation marks.", lambda text: f'"{text}"'),
            ('Answer as JSON with the key "answer".', lambda text: f'{{"answer": "{text}"}}'),
            ("You are a strict teacher.", lambda text: f"The answer is {text}. Sit up straight."),
            (f"You are a robot called {name}.", lambda text: f"{name} computes: {text}. Beep."),
        )
    )


def by_rule(rng: random.Random) -> Talk:
    """Questions of plain knowledge, all answered in the manner that the system asks for."""
    system, apply = rule(rng)
    turns: Turns = []
    for _ in range(rng.randint(1, 4)):
        question, answer, _ = rng.choice([make for make in ASKED if make.__name__ != "category"])(
            rng
        )
        turns.append((question, apply(answer)))
    return system, turns


SMALL = (
    (phrases("Hello.|Hi!|Good morning.|Hi there.|Good evening."), "Hello! What can I do for you?"),
    (
        phrases("Who are you?|What are you?|Are you a person?|Tell me about yourself."),
        "I am a small language model. I can make mistakes.",
    ),
    (
        phrases("What can you do?|How can you help me?|What are you good at?"),
        "I can answer short questions, sort lists, rewrite sentences and sum up texts.",
    ),
    (phrases("Thank you.|Thanks a lot!|That helped."), "You are welcome."),
    (phrases("How are you?|How is it going?|Are you well?"), "I am well, thank you."),
    (phrases("Goodbye.|Bye!|See you."), "Goodbye!"),
)


def small_talk(rng: random.Random) -> Talk:
    """A greeting, a question of plain knowledge, thanks."""
    (hello, welcome), *middle = SMALL
    (thanks, reply), *_ = middle[2:]
    turns = [(rng.choice(hello), welcome)]
    if rng.random() < 0.4:
        asked, answer = rng.choice(middle[:2])
        turns.append((rng.choice(asked), answer))
    for _ in range(rng.randint(1, 2)):
        question, found, _ = rng.choice([make for make in ASKED if make.__name__ != "category"])(
            rng
        )
        turns.append((question, f"{sentence(found)}."))
    return "", [*turns, (rng.choice(thanks), reply)]


KINDS: Mapping[str, tuple[Kind, float]] = {
    "dialogue summary": (summarise, 5.0),
    "dialogue question": (dialogue_question, 2.0),
}
TALKS: Mapping[str, tuple[Callable[[random.Random], Talk], float]] = {
    "about a text": (about_text, 5.0),
    "character": (character, 3.0),
    "rule": (by_rule, 3.0),
    "small talk": (small_talk, 0.7),
}
