"""SuperGLUE (Wang et al. 2019) beside BoolQ, on the labelled validation sets of its archive."""

from collections.abc import Callable, Iterator
from typing import Any

from evalsuite.data import DataRow
from evalsuite.samples import Convert
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample

_VALIDATION = (
    "SuperGLUE's test labels are hidden, so only validation-set numbers compare; published ones "
    "come mostly from fine-tuned classifiers. "
)
_NO_YES = (" no", " yes")
_TRUTH = ("false", "true")
_CAUSES = {"cause": "because", "effect": "so"}


def _spec(
    name: str, folder: str, metrics: tuple[str, ...], template: str, **fields: Any
) -> TaskSpec:
    values: dict[str, Any] = {
        "folder": "superglue",
        "data": (f"{folder}/val.jsonl", f"{folder.lower()}/val.jsonl"),
        "train": (f"{folder}/train.jsonl", f"{folder.lower()}/train.jsonl"),
        "mode": Mode.CHOICE,
        "source": "https://super.gluebenchmark.com",
        "licence": "research use; see the task's own paper",
        "comparable": _VALIDATION,
    }
    return TaskSpec(
        name=f"superglue_{name}", metrics=metrics, template=template, **{**values, **fields}
    )


def _labelled(
    text: Callable[[DataRow], str], labels: tuple[str, ...], choices: tuple[str, ...]
) -> Convert:
    def convert(row: DataRow) -> Iterator[Sample]:
        target = row.label("label", labels)
        # Winogender's pairs are one question in two genders.
        group = str(row["pair_id"]) if "pair_id" in row else ""
        yield Sample(row.id, text(row), (choices[target],), choices, target, group)

    return convert


def _premise(row: DataRow) -> str:
    first, second = row.text("premise", "sentence1"), row.text("hypothesis", "sentence2")
    return f"Premise: {first}\nHypothesis: {second}"


def _wic(row: DataRow) -> str:
    return (
        f"Sentence 1: {row.text('sentence1')}\nSentence 2: {row.text('sentence2')}\n"
        f"Word: {row.text('word')}"
    )


def _wsc(row: DataRow) -> str:
    # The archive nests the spans, Hugging Face's rows do not.
    spans = row.mapping("target") if "target" in row else row
    return (
        f"Text: {row.text('text')}\nPronoun: {spans.text('span2_text')}\n"
        f"Name: {spans.text('span1_text')}"
    )


def _copa(row: DataRow) -> Iterator[Sample]:
    """The premise goes on with the connective; a choice continues it in lower case."""
    kind = row.text("question")
    if kind not in _CAUSES:
        row.label("question", tuple(_CAUSES))
    choices = tuple(
        f" {text[:1].lower()}{text[1:]}" for text in (row.text("choice1"), row.text("choice2"))
    )
    target = row.index("label", 2)
    premise = row.text("premise").strip().removesuffix(".")
    yield Sample(
        row.id, f"{premise} {_CAUSES[kind]}", (choices[target],), choices, target, category=kind
    )


def _multirc(row: DataRow) -> Iterator[Sample]:
    """One sample per answer option; those of a paragraph are one group."""
    passage = row.mapping("passage")
    text = passage.text("text")
    for question in passage.mappings("questions"):
        asked = question.text("question")
        for answer in question.mappings("answers"):
            target = answer.index("label", 2)
            yield Sample(
                id=f"{row.id}.{question['idx']}.{answer['idx']}",
                input=f"{text}\n\nQuestion: {asked}\nAnswer: {answer.text('text')}",
                references=(_NO_YES[target],),
                choices=_NO_YES,
                target=target,
                group=row.id,
                fields={"question": asked},
            )


def _record(row: DataRow) -> Iterator[Sample]:
    """The entities of the passage as choices; answers are compared as texts."""
    passage = row.mapping("passage")
    text = passage.text("text")
    spans = [(span["start"], span["end"]) for span in passage.mappings("entities")]
    entities = tuple(dict.fromkeys(text[start : end + 1] for start, end in spans))
    for query in row.mappings("qas"):
        answers = tuple(dict.fromkeys(answer.text("text") for answer in query.mappings("answers")))
        right = [index for index, entity in enumerate(entities) if entity in answers]
        yield Sample(
            id=f"{row.id}.{query['idx']}",
            input=text.replace("\n@highlight\n", "\n") + f"\n\n{query.text('query')}",
            references=answers,
            choices=tuple(f" {entity}" for entity in entities),
            target=right[0] if right else None,
            group=row.id,
        )


_ENTAILMENT = ("entailment", "not_entailment")
_THREE = ("entailment", "contradiction", "neutral")
_YES_NO = (" yes", " no")
_IS_RIGHT = "{{ input }}\nIs this answer right?"
_ENTAILS = "{{ input }}\nDoes the premise entail the hypothesis? Answer:"

TASKS = (
    Definition(
        _spec(
            "cb",
            "CB",
            ("accuracy", "f1_macro"),
            "{{ input }}\nIs the hypothesis true, false or unclear?",
            choices=(" true", " false", " unclear"),
            comparable=_VALIDATION + "The benchmark takes the mean of accuracy and macro F1.",
            example={
                "premise": "Mia doubts that the shop is open.",
                "hypothesis": "The shop is open.",
                "label": "neutral",
                "idx": 0,
            },
        ),
        _labelled(_premise, _THREE, (" true", " false", " unclear")),
    ),
    Definition(
        _spec(
            "copa",
            "COPA",
            ("accuracy", "accuracy_per_char"),
            "{{ input }}",
            licence="BSD-2-Clause",
            example={
                "premise": "The ice melted.",
                "choice1": "The sun came out.",
                "choice2": "Night fell.",
                "question": "cause",
                "label": 0,
                "idx": 0,
            },
        ),
        _copa,
    ),
    Definition(
        _spec(
            "multirc",
            "MultiRC",
            ("f1", "question_exact_match", "accuracy"),
            _IS_RIGHT,
            choices=_NO_YES,
            comparable=_VALIDATION + "f1 is F1a, pooled over all options; question_exact_match is "
            "EM, keyed by paragraph and question. lm-evaluation-harness's default is the plain "
            "accuracy of options.",
            example={
                "idx": 0,
                "passage": {
                    "text": "Jo fed the cat at six.",
                    "questions": [
                        {
                            "idx": 0,
                            "question": "Who was fed?",
                            "answers": [
                                {"idx": 0, "text": "The cat", "label": 1},
                                {"idx": 1, "text": "Jo", "label": 0},
                            ],
                        }
                    ],
                },
            },
        ),
        _multirc,
    ),
    Definition(
        _spec(
            "record",
            "ReCoRD",
            ("token_f1", "squad_exact_match"),
            "{{ input }}\n\nWhat @placeholder stands for:",
            comparable=_VALIDATION + "Entities are scored behind a question, not within the query, "
            "so numbers of harnesses that fill them in do not compare.",
            example={
                "idx": 0,
                "passage": {
                    "text": "Rome beat Turin 2-0.",
                    "entities": [{"start": 0, "end": 3}, {"start": 10, "end": 14}],
                },
                "qas": [
                    {
                        "idx": 0,
                        "query": "@placeholder lost.",
                        "answers": [{"start": 10, "end": 14, "text": "Turin"}],
                    }
                ],
            },
        ),
        _record,
    ),
    Definition(
        _spec(
            "rte",
            "RTE",
            ("accuracy",),
            _ENTAILS,
            choices=_YES_NO,
            example={
                "premise": "Bo won the race.",
                "hypothesis": "Bo raced.",
                "label": "entailment",
                "idx": 0,
            },
        ),
        _labelled(_premise, _ENTAILMENT, _YES_NO),
    ),
    Definition(
        _spec(
            "wic",
            "WiC",
            ("accuracy",),
            "{{ input }}\nDoes the word mean the same in both sentences? Answer:",
            choices=_NO_YES,
            licence="CC-BY-NC-4.0",
            example={
                "word": "bank",
                "sentence1": "The bank was closed.",
                "sentence2": "We sat on the bank.",
                "label": False,
                "idx": 0,
            },
        ),
        _labelled(_wic, _TRUTH, _NO_YES),
    ),
    Definition(
        _spec(
            "wsc",
            "WSC",
            ("accuracy",),
            "{{ input }}\nDoes the pronoun stand for the name? Answer:",
            choices=_NO_YES,
            licence="CC-BY-4.0",
            example={
                "text": "Ida called Eva because she was late.",
                "idx": 0,
                "label": True,
                "target": {
                    "span1_text": "Ida",
                    "span1_index": 0,
                    "span2_text": "she",
                    "span2_index": 4,
                },
            },
        ),
        _labelled(_wsc, _TRUTH, _NO_YES),
    ),
    Definition(
        _spec(
            "axb",
            "AX-b",
            ("mcc", "accuracy"),
            _ENTAILS,
            choices=_NO_YES,
            train=None,
            data=("AX-b/AX-b.jsonl", "axb/AX-b.jsonl", "AX-b.jsonl"),
            example={
                "sentence1": "All birds sing.",
                "sentence2": "Some birds sing.",
                "label": "entailment",
                "idx": 0,
            },
        ),
        _labelled(_premise, ("not_entailment", "entailment"), _NO_YES),
    ),
    Definition(
        _spec(
            "axg",
            "AX-g",
            ("accuracy", "gender_parity"),
            _ENTAILS,
            choices=_NO_YES,
            train=None,
            data=("AX-g/AX-g.jsonl", "axg/AX-g.jsonl", "AX-g.jsonl"),
            comparable="Accuracy and gender parity over pairs, as in SuperGLUE.",
            example={
                "premise": "The nurse greeted the boy and she left.",
                "hypothesis": "The nurse left.",
                "label": "entailment",
                "pair_id": 7,
                "idx": 0,
            },
        ),
        _labelled(_premise, ("not_entailment", "entailment"), _NO_YES),
    ),
)
