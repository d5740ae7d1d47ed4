"""ARC (Clark et al. 2018), easy and challenge: science questions with three to five options.

Reads the authors' JSON lines and Hugging Face's columns.
"""

from collections.abc import Iterator
from dataclasses import replace

from evalsuite.data import DataRow
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample


def convert(row: DataRow) -> Iterator[Sample]:
    """Options behind a space. Labels are letters or digits; the key names one of them."""
    if isinstance(row["question"], dict):
        stem = row.mapping("question")
        question = stem.text("stem")
        options = stem.mappings("choices")
        texts = tuple(option.text("text") for option in options)
        labels = tuple(option.text("label") for option in options)
    else:
        question, listed = row.text("question"), row.mapping("choices")
        texts, labels = listed.texts("text", least=2), listed.texts("label", least=2)
    key = row.text("answerKey")
    target = labels.index(key) if key in labels else row.label("answerKey", labels)
    choices = tuple(f" {text}" for text in texts)
    yield Sample(row.id, question, (choices[target],), choices, target)


_EXAMPLE = {
    "id": "1",
    "question": {
        "stem": "What melts ice?",
        "choices": [{"text": "heat", "label": "A"}, {"text": "cold", "label": "B"}],
    },
    "answerKey": "A",
}
_CHALLENGE = TaskSpec(
    name="arc_challenge",
    folder="arc",
    data=("ARC-Challenge/ARC-Challenge-Test.jsonl", "ARC-Challenge-Test.jsonl"),
    train=("ARC-Challenge/ARC-Challenge-Train.jsonl", "ARC-Challenge-Train.jsonl"),
    template="Question: {{ input }}\nAnswer:",
    metrics=("accuracy_per_char", "accuracy", "accuracy_per_byte", "accuracy_unconditional"),
    mode=Mode.CHOICE,
    source="https://allenai.org/data/arc",
    licence="CC-BY-SA-4.0",
    comparable="accuracy_per_char is lm-evaluation-harness's acc_norm, accuracy its acc; the old "
    "Open LLM Leaderboard gave acc_norm with 25 shots. Numbers with lettered options are others: "
    "see arc_challenge_letter.",
    example=_EXAMPLE,
)
TASKS = (
    Definition(_CHALLENGE, convert),
    Definition(
        replace(
            _CHALLENGE,
            name="arc_easy",
            data=("ARC-Easy/ARC-Easy-Test.jsonl", "ARC-Easy-Test.jsonl"),
            train=("ARC-Easy/ARC-Easy-Train.jsonl", "ARC-Easy-Train.jsonl"),
        ),
        convert,
    ),
    Definition(
        replace(
            _CHALLENGE,
            name="arc_challenge_letter",
            mode=Mode.LETTER,
            metrics=("accuracy",),
            comparable="The form of Llama 3's model cards: options in the prompt, letters scored; "
            "prompts differ in detail.",
        ),
        convert,
    ),
)
