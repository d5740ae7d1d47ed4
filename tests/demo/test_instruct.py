"""The instruction text: answers right by another way, chat form whole, recipe fit for the base."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest

from demo.tasks import instruct
from demo.tasks.base_text import texts as first_stage
from demo.tasks.instruct import KINDS, texts
from demo.tasks.instruct_pairs import CAUSES, SAME, senses
from demo.tasks.instruct_reading import UNTOLD
from demo.tasks.instruct_subjects import passage, subjects
from demo.tasks.instruct_talk import dialogue, dialogues
from demo.tasks.rows import words
from trainer import corpus
from trainer.pretrain_config import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEXT = r"(?:(?!<\|).)+"
CHAT = re.compile(
    rf"(<\|system\|>{TEXT}<\|end\|>)?(<\|user\|>{TEXT}<\|end\|><\|assistant\|>{TEXT}<\|end\|>)+",
    re.DOTALL,
)
UNITS = words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen 
    fifteen sixteen seventeen eighteen nineteen"""
)
TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")


def examples(kind: str, num: int = 300) -> Iterator[tuple[str, str]]:
    """Prompts with answers of one kind, each in a wording of its own."""
    rng = random.Random(f"test {kind}")
    for _ in range(num):
        yield KINDS[kind][0](rng).example()


def number_of(text: str) -> int:
    """The number that digits or words stand for."""
    if text.isdigit():
        return int(text)
    whole, part = 0, 0
    for word in re.split(r"[ -]", text.lower()):
        if word in UNITS:
            part += UNITS.index(word)
        elif word in TENS:
            part += 10 * TENS.index(word) + 20
        elif word == "hundred":
            part *= 100
        elif word == "thousand":
            whole, part = 1000 * part, 0
        else:
            assert word == "and", text
    return whole + part


def test_same_seed_gives_the_same_distinct_documents() -> None:
    made = list(texts(seed=3, num=3000))
    assert made == list(texts(seed=3, num=3000))
    assert len(set(made)) == 3000
    assert len(set(made) & set(texts(seed=4, num=1000))) < 20


def test_every_document_is_a_whole_conversation_or_has_no_control_token() -> None:
    made = list(texts(seed=5, num=4000))
    chats = [text for text in made if any(token in text for token in CONTROL)]
    assert 0.65 < len(chats) / len(made) < 0.85
    assert all(CHAT.fullmatch(text) for text in chats)
    turns = Counter(text.count("<|user|>") for text in chats)
    assert sum(turns[count] for count in (2, 3, 4)) > 0.3 * len(chats)
    assert 0.15 < sum("<|system|>" in text for text in chats) / len(chats) < 0.4
    shots = [text for text in made if "\n\nQ: " in text or "\n\nQuestion: " in text]
    assert len(shots) > 0.02 * len(made)


def test_control_tokens_are_read_as_control_tokens() -> None:
    made = list(texts(seed=6, num=200))
    tokenizer = corpus.train_tokenizer(made, vocab_size=400, context=1024)
    ids = corpus.encode(tokenizer, made).tolist()
    joined = "".join(made)
    for token in CONTROL:
        assert ids.count(tokenizer.convert_tokens_to_ids(token)) == joined.count(token) > 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_fills_its_wording_and_answers(kind: str) -> None:
    seen = set()
    for prompt, answer in examples(kind, 100):
        assert answer.strip() == answer != ""
        assert not re.search(r"\{(?!\")|<\w+>|\{\{", prompt + answer), (prompt, answer)
        seen.add((prompt, answer))
    assert len(seen) > 70


def test_sums_are_right() -> None:
    signs = {"+": "+", "-": "-", "*": "*", "plus": "+", "minus": "-", "times": "*"}
    for prompt, answer in examples("calculate"):
        found = re.search(r"([a-z0-9-]+) ([-+*]|plus|minus|times) ([a-z0-9-]+)", prompt)
        assert found
        x, y = number_of(found[1]), number_of(found[3])
        right = {"+": x + y, "-": x - y, "*": x * y}[signs[found[2]]]
        assert number_of(answer) == right, (prompt, answer)


def test_numbers_in_words_are_the_digits() -> None:
    for prompt, answer in examples("convert number"):
        number = answer if answer.isdigit() else re.search(r"\d+", prompt)[0]  # type: ignore[index]
        text = prompt if answer.isdigit() else answer
        said = re.search(
            rf"((?:{'|'.join([*UNITS, *TENS, 'hundred', 'thousand', 'and', '[ -]'])})+)"
            r"(?: in digits\.| as a number:)?$",
            text,
        )
        assert said, text
        assert number_of(said[1].strip()) == int(number)


def test_comparisons_and_sequences_are_right() -> None:
    for prompt, answer in examples("compare numbers"):
        numbers = [int(number) for number in re.findall(r"\d+", prompt)]
        assert int(answer) == (max(numbers) if "largest" in prompt else min(numbers))
    for prompt, answer in examples("sequence"):
        *_, before, last = [int(number) for number in re.findall(r"\d+", prompt)]
        assert int(answer) == 2 * last - before


def test_dates_are_the_calendar_s() -> None:
    for prompt, answer in examples("weekday"):
        known, asked = (
            datetime.strptime(found, "%d %B %Y") for found in re.findall(r"\d+ \w+ \d{4}", prompt)
        )
        assert known.strftime("is a %A.") in prompt
        assert asked.strftime("%A") == answer
    forms = ("%Y-%m-%d", "%d/%m/%Y", "%d %B %Y", "%B %d, %Y")
    shown = r"\d+-\d+-\d+|\d+/\d+/\d+|\d+ \w+ \d{4}|\w+ \d+, \d{4}"

    def read(text: str) -> date:
        for form in forms:
            try:
                return datetime.strptime(text, form).date()
            except ValueError:
                continue
        raise AssertionError(text)

    for prompt, answer in examples("date form"):
        assert read(re.search(shown, prompt)[0]) == read(answer)  # type: ignore[index]
        assert answer not in prompt
    for prompt, answer in examples("earlier date"):
        first, second = (read(found) for found in re.findall(r"\d+ \w+ \d{4}", prompt))
        early = "earlier" in prompt or "comes first" in prompt
        assert read(answer) == (min(first, second) if early else max(first, second))


def test_lists_are_sorted_reversed_and_counted() -> None:
    checked: Counter[str] = Counter()
    for prompt, answer in examples("change list", 900):
        lines = prompt.split("\n\n")
        if len(lines) != 2 or "," not in lines[1]:
            continue
        lead, values = lines[0], lines[1].split(", ")
        if "alphabet" in lead.lower():
            assert answer.split(", ") == sorted(values, key=str.lower)
            checked["sorted"] += 1
        elif "backwards" in lead:
            assert answer.split(", ") == values[::-1]
            checked["reversed"] += 1
        elif "Count" in lead:
            assert number_of(answer) == len(values)
            checked["counted"] += 1
        elif "numbered" in lead:
            assert [line.partition(". ")[2] for line in answer.splitlines()] == values
            checked["numbered"] += 1
    assert min(checked[name] for name in ("sorted", "reversed", "counted", "numbered")) > 5
    for prompt, answer in examples("sort numbers"):
        numbers = [int(number) for number in re.findall(r"\d+", prompt)]
        down = "largest to the smallest" in prompt
        assert [int(number) for number in answer.split(", ")] == sorted(numbers, reverse=down)


def test_json_is_valid_and_stands_in_the_text() -> None:
    for prompt, answer in examples("JSON"):
        found = json.loads(answer)
        assert ", ".join(found) in prompt
        for value in found.values():
            assert value is None or str(value).lower() in prompt.lower()
        assert (None in found.values()) == ("Use null" in prompt)


def test_what_a_passage_tells_stands_in_it_and_the_rest_does_not() -> None:
    rng = random.Random(8)
    for _ in range(300):
        made = passage(rng)
        told = {told.fact.key for told in made.told}
        assert all(told.value.lower() in made.text.lower() for told in made.told)
        assert told.isdisjoint(left.fact.key for left in made.untold)
        assert made.untold
    answers = [answer for _, answer in examples("passage question", 1000)]
    assert 0.12 < answers.count(UNTOLD) / len(answers) < 0.28


def test_tables_are_well_formed() -> None:
    for _, facts in subjects().values():
        assert all("{s}" in fact.claim and "{v}" in fact.claim for fact in facts)
        assert all("{v}" in line for fact in facts for line in fact.sentences)
        assert not any("{v}" in question for fact in facts for question in fact.questions)
    for word, both in senses().items():
        assert all(re.search(rf"\b{word}\b", line) for lines in both for line in lines)
        assert not set(both[0]) & set(both[1])
    assert all(len(group) == 3 for group in SAME)
    assert all(cause and effect for cause, effect in CAUSES)
    assert len(dialogues()) == 7


def test_dialogue_answers_stand_in_the_dialogue() -> None:
    rng = random.Random(9)
    for _ in range(300):
        text, summary, turns = dialogue(rng)
        for _, answer in turns:
            for word in re.findall(r"\w+", answer):
                assert word.lower() in {"on", "the"} or word.lower() in text.lower()
        assert summary.endswith(".")


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("yes or no", ("yes", "no")),
        ("same meaning", ("yes", "no")),
        ("word sense", ("yes", "no")),
        ("answers question", ("yes", "no")),
        ("acceptable", ("yes", "no")),
        ("sentiment", ("positive", "negative")),
    ],
)
def test_labels_are_balanced(kind: str, labels: tuple[str, str]) -> None:
    count = Counter(answer.lower().rstrip(".") for _, answer in examples(kind, 600))
    share = count[labels[0]] / (count[labels[0]] + count[labels[1]])
    assert 0.4 < share < 0.6


def test_letters_name_the_right_answer_evenly() -> None:
    count = Counter(answer for _, answer in examples("lettered choice", 800) if len(answer) == 1)
    assert set(count) >= set("ABCD")
    assert min(count[letter] for letter in "ABCD") > 0.15 * sum(count[each] for each in "ABCD")


def test_glossaries_are_followed() -> None:
    for prompt, answer in examples("glossary"):
        table = dict(re.findall(r"(?=\b(\w+)(?: = |: | -> )(\w+))", prompt))
        back = {value: key for key, value in table.items()}
        asked = [back[word] for word in answer.split()]
        assert " ".join(asked) in prompt


def test_recipe_goes_on_from_the_first_stage() -> None:
    first, second = (read_recipe(RECIPES / f"nano{name}.yaml") for name in ("", "-instruct"))
    assert replace(first.model, copying_heads=False) == second.model
    assert {source.name for source in second.data.sources} <= {
        source.name for source in first.data.sources
    }
    weights = {made.name: made.weight for made in second.data.generated}
    natural = sum(source.weight for source in second.data.sources)
    assert weights["instructions"] == 0.5
    assert abs(natural - 0.25) < 1e-9
    assert abs(sum(weights.values()) + natural - 1) < 1e-9
    for made in second.data.generated:
        assert len(list(corpus.generate(made.factory, made.seed, 5))) == 5


def test_first_stage_and_instructions_share_no_document() -> None:
    assert not set(texts(21, 2000)) & set(first_stage(11, 2000))


def test_command_line_prints_every_kind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["instruct"])
    instruct.main()
    shown = capsys.readouterr().out
    assert all(f"[{name}] <|" in shown for name in KINDS)
