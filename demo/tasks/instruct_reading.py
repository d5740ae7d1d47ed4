"""Tasks on a passage: questions, claims, choices, titles, facts as JSON, summaries."""

import json
import random
from collections.abc import Mapping, Sequence

from demo.tasks.base_words import sentence
from demo.tasks.instruct_forms import Fields, Kind, Task, listed, say, wordings
from demo.tasks.instruct_subjects import Passage, Told, passage, subjects

UNTOLD = "The text does not say."


def answered(rng: random.Random, text: Passage) -> tuple[str, str]:
    """A question about the passage with its answer, one in five without one in the text."""
    if rng.random() < 0.2:
        return rng.choice(text.untold).question(rng), UNTOLD
    told = rng.choice(text.told)
    return told.question(rng), f"{sentence(told.value)}."


def question(rng: random.Random) -> Task:
    """A question about a passage; the answer stands in it word for word, or not at all."""
    own = """{passage} / {question}|Text: {passage} / Question: {question}
    |Answer from the text. / {passage} / {question}
    |If the text has no answer, say so. / {passage} / {question}
    |Read this: {passage} / Now tell me: {question}|{question} / Text: {passage}"""
    wording = rng.choice(wordings("answer_passage", own=own))
    least, most = rng.choice(((1, 3), (3, 5), (4, 7)))

    def draw() -> tuple[Fields, str]:
        text = passage(rng, least, most)
        asked, answer = answered(rng, text)
        return {"passage": text.text, "question": asked}, answer

    return Task(wording, draw)


def verdict(rng: random.Random, text: Passage) -> tuple[str, str]:
    """A claim about the passage's subject, and "yes", "no" or "maybe"."""
    form = rng.random()
    if form < 0.36:
        return rng.choice(text.told).claim(), "yes"
    if form < 0.72:
        told = rng.choice(text.told)
        return told.claim(told.other(rng)), "no"
    return rng.choice(text.untold).claim(), "maybe"


LABELS: Mapping[str, tuple[str, str, str]] = {
    "yes, no or maybe": ("yes", "no", "maybe"),
    "true, false or unclear": ("true", "false", "unclear"),
    "entailment, contradiction or neutral": ("entailment", "contradiction", "neutral"),
    "certain, excluded or possible": ("certain", "excluded", "possible"),
    "right, wrong or not said": ("right", "wrong", "not said"),
}


def entailment(rng: random.Random) -> Task:
    """Whether a claim follows from a text: three labels that stand in the prompt."""
    options = rng.choice(sorted(LABELS))
    own = f"""{{premise}} / Claim: {{hypothesis}} / Is the claim {options}?
    |Does the claim follow from the text? Answer {options}. / Text: {{premise}} / Claim:
    {{hypothesis}}
    |Premise: {{premise}} / Hypothesis: {{hypothesis}} / {sentence(options)}? Answer:
    |Answer with {options}. / {{premise}} / So is this the case: {{hypothesis}}"""
    wording = rng.choice(wordings(own=own))
    labels = dict(zip(("yes", "no", "maybe"), LABELS[options], strict=True))
    least, most = rng.choice(((1, 1), (1, 2), (2, 4)))

    def draw() -> tuple[Fields, str]:
        text = passage(rng, least, most, fillers=0)
        claim, label = verdict(rng, text)
        return {"premise": text.text, "hypothesis": claim}, say(wording, labels[label])

    return Task(wording, draw)


def yes_no(rng: random.Random) -> Task:
    """Whether a text supports a claim: yes or no."""
    own = """{premise} / Is it true that {low}?|{premise} / Does this mean that {low}? Answer:
    |Answer yes or no. / {premise} / Is it so that {low}?
    |Premise: {premise} Hypothesis: {hypothesis} Does the one follow from the other? Answer:
    |Text: {premise} Statement: {hypothesis} Supported? Answer:"""
    wording = rng.choice(wordings(own=own))
    least, most = rng.choice(((1, 2), (3, 6)))

    def draw() -> tuple[Fields, str]:
        text = passage(rng, least, most)
        told = rng.choice(text.told)
        right = rng.random() < 0.5
        claim = told.claim(None if right else told.other(rng))
        low = claim.removesuffix(".")
        if not low.startswith(told.subject):
            low = low[0].lower() + low[1:]
        fields = {"premise": text.text, "hypothesis": claim, "low": low}
        return fields, say(wording, "yes" if right else "no")

    return Task(wording, draw)


def contains_answer(rng: random.Random) -> Task:
    """Whether one sentence answers a question."""
    own = """Question: {first} Sentence: {second} Does the sentence answer the question? Answer:
    |Is "{first}" answered here? / {second}|{second} / Does this tell us the answer to: {first}
    |Answer yes or no: is the question answered? / {first} / {second} / Answer:"""
    wording = rng.choice(wordings(own=own))

    def draw() -> tuple[Fields, str]:
        text = passage(rng, 1, 1, fillers=0)
        right = rng.random() < 0.5
        asked = rng.choice(text.told if right else text.untold)
        fields = {"first": asked.question(rng), "second": text.text}
        return fields, say(wording, "yes" if right else "no")

    return Task(wording, draw)


def choice(rng: random.Random) -> Task:
    """A question about a passage with lettered answers; the letter is asked for."""
    own = """{passage} / {question} / {options} / Answer:|{passage} / {question} {options} / Which
        letter?
    |Reply with the letter. / {passage} / {question} / {options}"""
    wording = rng.choice(wordings(own=own))
    whole = rng.random() < 0.25
    if whole:
        wording = f"Give the letter and the answer.\n\n{wording}"

    def draw() -> tuple[Fields, str]:
        text = passage(rng, 2, 5)
        told = rng.choice(text.told)
        values = [told.value]
        while len(values) < 4:
            if (value := told.other(rng)) not in values:
                values.append(value)
        letter, options = lettered(rng, values)
        fields = {"passage": text.text, "question": told.question(rng), "options": options}
        return fields, f"{letter}. {told.value}" if whole else letter

    return Task(wording, draw)


def lettered(rng: random.Random, values: Sequence[str]) -> tuple[str, str]:
    """The values in a new order as lines "A. ..."; and the letter of the first one given."""
    order = rng.sample(values, len(values))
    lines = [f"{letter}. {value}" for letter, value in zip("ABCDEF", order, strict=False)]
    return "ABCDEF"[order.index(values[0])], "\n".join(lines)


def key_style(rng: random.Random) -> str:
    """How the keys of a record are written."""
    return rng.choice(("plain", "plain", "upper", "camel", "the"))


def styled(key: str, style: str) -> str:
    """A key such as `rest_day` in the given style."""
    if style == "upper":
        return key.upper()
    if style == "camel":
        first, *rest = key.split("_")
        return first + "".join(part.capitalize() for part in rest)
    return f"the_{key}" if style == "the" else key


def record(facts: Sequence[Told], style: str, missing: Sequence[Told] = ()) -> dict[str, object]:
    """Values by key: whole numbers as numbers, what was not told as None."""
    found: dict[str, object] = {
        styled(told.fact.key, style): int(told.value) if told.value.isdigit() else told.value
        for told in facts
    }
    return {**found, **{styled(told.fact.key, style): None for told in missing}}


def to_json(rng: random.Random) -> Task:
    """The facts of a passage as a JSON object with the keys asked for."""
    own = """Extract {keys} as JSON. / {input}|{input} / Give a JSON object with the keys {keys}.
    |Answer with JSON, keys {keys}. / {input}|Text: {input} / JSON with {keys}:
    |Read the text and fill in this record: {keys}. Use JSON. / {input}
    |Turn the text into a JSON object. Keys: {keys}. / {input}"""
    wording = rng.choice(wordings(own=own))
    style, lost = key_style(rng), rng.random() < 0.3
    if lost:
        wording = f"Use null for what the text does not say.\n\n{wording}"

    def draw() -> tuple[Fields, str]:
        text = passage(rng, 2, 6)
        facts = rng.sample(text.told, rng.randint(1, min(4, len(text.told))))
        values = record(facts, style, text.untold[:1] if lost else ())
        return {"input": text.text, "keys": ", ".join(values)}, json.dumps(values)

    return Task(wording, draw)


def fields(rng: random.Random) -> Task:
    """The values of named fields, one per line."""
    wording = rng.choice(wordings("extract_fields"))

    def draw() -> tuple[Fields, str]:
        text = passage(rng, 2, 5)
        facts = rng.sample(text.told, rng.randint(1, min(3, len(text.told))))
        names = [told.fact.key.replace("_", " ") for told in facts]
        answer = "\n".join(f"{name}: {told.value}" for name, told in zip(names, facts, strict=True))
        return {"input": text.text, "fields": listed(names, "and")}, answer

    return Task(wording, draw)


def all_facts(rng: random.Random) -> Task:
    """Every fact of a passage as "key: value" lines, or a passage's claims from such lines."""
    back = rng.random() < 0.5
    wording = rng.choice(wordings("describe" if back else "extract"))

    def draw() -> tuple[Fields, str]:
        text = passage(rng, 1, 4, fillers=0)
        lines = [f"name: {text.subject}"]
        lines += [f"{told.fact.key.replace('_', ' ')}: {told.value}" for told in text.told]
        data = "\n".join(lines)
        claims = " ".join(told.claim() for told in text.told)
        return ({"input": data}, claims) if back else ({"input": text.text}, data)

    return Task(wording, draw)


def title(rng: random.Random) -> Task:
    """A passage's subject as its title, its values as keywords, or the kind it deals with."""
    family = rng.choice(("title", "keywords", "ask", "classify_among", "summarize", "simplify"))
    wording = rng.choice(wordings(family))
    kinds = sorted(subjects())

    def draw() -> tuple[Fields, str]:
        text = passage(rng, 2, 4, fillers=3)
        values = {"input": text.text, "labels": ", ".join(kinds)}
        if family == "title":
            return values, sentence(text.subject)
        if family == "keywords":
            return values, ", ".join([text.subject, *(told.value for told in text.told)])
        if family == "ask":
            return values, rng.choice(text.told).question(rng)
        if family == "classify_among":
            return values, text.kind
        return values, " ".join(told.claim() for told in text.told)

    return Task(wording, draw)


KINDS: Mapping[str, tuple[Kind, float]] = {
    "passage question": (question, 6.0),
    "entailment": (entailment, 4.0),
    "yes or no": (yes_no, 3.0),
    "answers question": (contains_answer, 1.0),
    "passage choice": (choice, 2.0),
    "JSON": (to_json, 4.0),
    "fields": (fields, 1.5),
    "facts": (all_facts, 2.0),
    "title": (title, 3.0),
}
