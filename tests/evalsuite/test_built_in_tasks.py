"""Every built-in task on its own example: read, asked, and perfect where the answer is right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalsuite.metrics import score
from evalsuite.prompts import build_request, draw_shots, few_shot_prompt
from evalsuite.registry import built_in_tasks, load_tasks
from evalsuite.task import Task
from evalsuite.types import Answer, Mode, Row, RowKind

NAMES = sorted(built_in_tasks())
DEMO = {
    "order_json",
    "pirate_answer",
    "review_label",
    "shorthand_rewrite",
    "support_summary",
    "ticket_route",
}
BASE = Row("base", RowKind.BASE)
ADAPTER = Row("a", RowKind.ADAPTER, "a", "1")


def write_example(folder: Path, name: str) -> Path:
    """The example in a file of the task's own format, or JSON lines where it reads those."""
    spec = built_in_tasks()[name].definition.spec
    example = dict(spec.example)
    if name in DEMO:
        choices = spec.choices or ("",)
        example = {"input": "in", "completion": "one two three four", "label": choices[0].strip()}
    if name.startswith(("bigbench", "bbh")):
        path = folder / "bbh" / "example.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"name": "example", "examples": [example]}))
        (folder / "cot-prompts").mkdir(exist_ok=True)
        (folder / "cot-prompts" / "example.txt").write_text("canary\n-----\nThink.\n\nQ: x\nA: y")
        return path
    path = folder / "example.jsonl"
    path.write_text(json.dumps(example) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], Task]:
    def load(name: str) -> Task:
        (task,) = load_tasks([f"{name}={write_example(tmp_path, name)}"], None)
        return task

    return load


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_read_and_right_is_perfect(name: str, example: Any) -> None:
    task = example(name)
    assert task.samples
    written = task.spec.mode is Mode.GENERATE
    answers = [Answer(text=s.right if written else s.options[s.target or 0]) for s in task.samples]
    for metric in task.metrics:
        if metric.name in {"mcc", "pearson", "spearman", "gender_parity", "bias_disambiguated"}:
            continue  # One sample has no spread.
        if metric.name == "accuracy_disambiguated" or name == "bigbench_text":
            continue  # The example is ambiguous, or shorter than BLEU's four words.
        value = score(metric, task.samples, answers).value
        assert value == pytest.approx(metric.maximum), metric.name


@pytest.mark.parametrize("name", NAMES)
def test_requests(name: str, example: Any) -> None:
    task = example(name)
    sample = task.samples[0]
    asked, own = (build_request(task, row, (), sample) for row in (BASE, ADAPTER))
    assert asked.raw
    assert own.raw == (task.spec.mode is Mode.LIKELIHOOD)
    assert bool(asked.choices) == (task.spec.mode is not Mode.GENERATE)
    assert len(asked.contexts) == len(sample.contexts)
    assert sample.contexts or (asked.text and own.text)
    assert (asked.unconditional is not None) == ("accuracy_unconditional" in task.spec.metrics)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DEMO])
def test_every_task_states_where_it_comes_from(name: str) -> None:
    spec = built_in_tasks()[name].definition.spec
    assert "not stated" not in (spec.source, spec.licence, spec.comparable)
    assert spec.example
    assert spec.folder


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("glue_rte", "Premise: Bo won the race.\nHypothesis: Bo raced.\nDoes the premise "),
        ("mmlu", "The following are multiple choice questions (with answers) about high school "),
        ("mmlu", "\n\nWhich is a mammal?\nA. Trout\nB. Bat\nC. Wren\nD. Newt\nAnswer:"),
        ("mmlu_original", "(with answers) about  high school biology.\n\nWhich is"),
        ("mmlu_helm", "\n\nQuestion: Which is a mammal?\nA. Trout\nB. Bat\nC. Wren\nD. Newt\nAns"),
        ("bigbench_mc", "\nQ: Which one flies?\n  choice: a kite\n  choice: a brick\nA: "),
        ("bbh_cot", "Think.\n\nQ: x\nA: y\n\nQ: not ( True and False ) is\nA: Let's think step"),
        ("superglue_copa", "The ice melted because"),
        ("hellaswag", "Making tea: A woman fills a kettle. She"),
        ("bbq", "Question: Who could not use the machine?\nA. The uncle\nB. The nephew\nC. Not"),
        ("squad_v2", "Answer 'unanswerable' where the text does not tell.\n\nThe bridge"),
    ],
)  # fmt: skip
def test_prompts(name: str, prompt: str, example: Any) -> None:
    task = example(name)
    assert prompt in few_shot_prompt(task, (), task.samples[0])


def test_copa_continues_in_lower_case(example: Any) -> None:
    assert example("superglue_copa").samples[0].choices == (" the sun came out.", " night fell.")


def test_winogrande_scores_one_ending_behind_two_contexts(example: Any) -> None:
    task = example("winogrande")
    request = build_request(task, BASE, (), task.samples[0])
    assert request.contexts == (
        "The vase did not fit in the box because the vase",
        "The vase did not fit in the box because the box",
    )
    assert request.choices == (" was too small.",) * 2
    shot = few_shot_prompt(task, task.samples, task.samples[0], "X")
    assert shot == "The vase did not fit in the box because the box was too small.\n\nX"


def test_multirc_has_a_sample_per_option(example: Any) -> None:
    samples = example("superglue_multirc").samples
    assert [sample.target for sample in samples] == [1, 0]
    assert len({sample.group for sample in samples}) == 1


def test_truthfulqas_right_answers_do_not_come_first(tmp_path: Path) -> None:
    header = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    row = "A,B,Q?,zebra,zebra; yak,ant; bee,x\n"
    (tmp_path / "TruthfulQA.csv").write_text(header + row)
    one, all_true = (
        load_tasks([name], tmp_path)[0].samples[0] for name in ("truthfulqa_mc1", "truthfulqa_mc2")
    )
    assert (one.choices, one.target) == ((" ant", " bee", " zebra"), 2)
    assert all_true.choices == (" ant", " bee", " yak", " zebra")
    assert all_true.target_scores == (0, 0, 1, 1)


def test_flattened_dialogsum_is_joined(tmp_path: Path) -> None:
    lines = [f"test_{d}_{r},hello {d},summary {d}{r},t\n" for d in range(2) for r in range(1, 4)]
    (tmp_path / "test.csv").write_text("id,dialogue,summary,topic\n" + "".join(lines))
    joined, single = (
        load_tasks([name], tmp_path)[0].samples for name in ("dialogsum", "dialogsum_single")
    )
    assert [s.references for s in joined] == [
        tuple(f"summary {d}{r}" for r in range(1, 4)) for d in range(2)
    ]
    assert len(single) == 6
    assert len({sample.group for sample in single}) == 2


def test_first_shots_come_from_the_samples_own_subject(tmp_path: Path) -> None:
    for split, count in (("test", 1), ("dev", 6)):
        (tmp_path / split).mkdir()
        for subject in ("law", "art"):
            rows = [f"{subject} {split} {i}?,w,x,y,z,B\n" for i in range(count)]
            (tmp_path / split / f"{subject}_{split}.csv").write_text("".join(rows))
    (task,) = load_tasks(["mmlu"], tmp_path)
    shots = draw_shots(task, 5, seed=3, category="law")
    assert [shot.input.splitlines()[0] for shot in shots] == [f"law dev {i}?" for i in range(5)]
    assert [sample.id for sample in task.samples] == ["art_test:1", "law_test:1"]


def test_long_text_is_cut_and_weighed_once(tmp_path: Path) -> None:
    text = " ".join(f"word{i}" for i in range(1000))
    (tmp_path / "test.txt").write_text(f"{text}\n\nshort one\n\nx\n")
    (task,) = load_tasks(["text"], tmp_path)
    first = [sample for sample in task.samples if sample.group == "1"]
    assert "".join(s.input + s.references[0] for s in first) == text
    assert [s.input + s.references[0] for s in task.samples[len(first) :]] == ["short one"]
    assert all(len(s.references[0]) <= 2000 for s in task.samples)
