"""Every published data set in the test-data folder: counts, the perfect score, and chance.

Needs UNDERSTUDY_TEST_DATA, a folder whose `data/` holds the sets; without it these tests are
skipped. None of the data are in this repository.
"""

import os
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evalsuite.metrics import score
from evalsuite.prompts import draw_shots, few_shot_prompt
from evalsuite.registry import load_tasks
from evalsuite.task import Task
from evalsuite.types import Answer, Mode, Sample

FOLDER = os.environ.get("UNDERSTUDY_TEST_DATA")
DATA = Path(FOLDER or "nowhere") / "data"
pytestmark = pytest.mark.skipif(FOLDER is None, reason="needs UNDERSTUDY_TEST_DATA")


@dataclass(frozen=True)
class Case:
    """A task on a data set, and the counts of samples and training rows."""

    task: str
    num_samples: int
    num_train: int = 0
    stated: str = ""
    """As SOURCE.md of `folder` has the count."""
    folder: str = ""

    @property
    def name(self) -> str:
        return self.task.replace("DATA/", "")


def cases() -> list[Case]:
    few = "superglue/fewglue"
    return [
        Case("dialogsum", 500, 12_460, "test 500", "dialogsum"),
        Case("dialogsum_single", 1_500, 12_460, "3 refs each", "dialogsum"),
        Case("dialogsum=DATA/dialogsum/dialogsum.dev.jsonl", 500, 12_460, "dev 500", "dialogsum"),
        Case("samsum=DATA/samsum_test", 819, 0, "test 819", "samsum_test"),
        Case("glue_cola", 527 + 516, 8_551, "CoLA 8,551+527+516", "glue"),
        Case("glue_sst2=DATA/glue/sst2/test.tsv", 872, 0, "872 (872 = official dev)", "glue"),
        Case("glue_sst2", 6_735, 60_614, "SST-2 60,614+6,735", "glue"),
        Case("glue_sst2=DATA/glue/sst2/stsa.binary.test", 1_821),
        Case("glue_mrpc", 1_725, 4_077, "4,077 unique id pairs", "glue"),
        Case("glue_stsb", 1_500, 5_749, "STS-B 5,749/1,500/1,379", "glue"),
        Case("glue_stsb=DATA/glue/stsb/stsb-de-test.csv", 1_379),
        Case("glue_stsb=DATA/glue/stsb/stsb-fr-dev.csv", 1_500),
        Case("glue_wnli=DATA/glue/wnli/test.tsv", 71, 0, "WNLI 565/70/71", "glue"),
        Case("glue_wnli", 70, 565, "WNLI 565/70/71", "glue"),
        Case("glue_rte=DATA/superglue/rte/val.jsonl", 277),
        Case("superglue_rte", 277, 2_490, "RTE 2,490/277", "superglue"),
        Case("superglue_cb", 56, 250, "CB 250/56", "superglue"),
        Case(f"superglue_copa=DATA/{few}/COPA/train.jsonl", 32, 0, "FewGLUE 32 train", "superglue"),
        Case(f"superglue_multirc=DATA/{few}/MultiRC/train.jsonl", -1),
        Case(f"superglue_record=DATA/{few}/ReCoRD/train.jsonl", 32),
        Case(f"superglue_wic=DATA/{few}/WiC/train.jsonl", 32),
        Case(f"superglue_wsc=DATA/{few}/WSC/train.jsonl", 32),
        Case(f"superglue_cb=DATA/{few}/CB/train.jsonl", 32),
        Case(f"superglue_rte=DATA/{few}/RTE/train.jsonl", 32),
        Case(f"boolq=DATA/{few}/BoolQ/train.jsonl", 32),
        Case("mmlu", 14_042, 285, "test 14,042; dev 285", "mmlu"),
        Case("mmlu_original", 14_042, 285, "57 subjects", "mmlu"),
        Case("mmlu_helm", 14_042, 285, "57 subjects", "mmlu"),
        Case("bbh", 6_511, 0, "27 files, 6,511 examples", "bbh"),
        Case("bbh_cot=DATA/bbh/bbh/navigate.json", 250),
        Case("gsm8k", 1_319, 7_473, "train 7,473; test 1,319", "gsm8k"),
        Case("truthfulqa_mc1", 817, 0, "817", "truthfulqa"),
        Case("truthfulqa_mc2", 817, 0, "817", "truthfulqa"),
        Case("bbq", 11_956, 0, "11,956 examples", "bbq"),
    ]  # fmt: skip


CASES = cases()


@cache
def load(name: str) -> Task:
    (task,) = load_tasks([name.replace("DATA", str(DATA))], DATA)
    return task


def gold(task: Task, sample: Sample) -> Answer:
    """What a perfect model answers."""
    written = task.spec.mode is Mode.GENERATE
    return Answer(text=sample.right if written else sample.options[sample.target or 0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counts(case: Case) -> None:
    task = load(case.task)
    if case.num_samples >= 0:
        assert len(task.samples) == case.num_samples
    held_out = {sample.input for sample in task.samples}
    if task.spec.shots.held_out:
        assert not held_out & {sample.input for sample in task.train}
    else:
        assert len(task.train) == case.num_train
    # Training rows whose input is a test input too are left out; few are.
    assert case.num_train * 0.97 <= len(task.train) <= case.num_train
    assert len({sample.id for sample in task.samples}) == len(task.samples)
    if case.stated:
        assert case.stated in (DATA / case.folder / "SOURCE.md").read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gold_is_perfect(case: Case) -> None:
    task = load(case.task)
    answers = [gold(task, sample) for sample in task.samples]
    for metric in task.metrics:
        value = score(metric, task.samples, answers).value
        if metric.name == "bias_disambiguated":
            # There the right answer follows the stereotype half the time.
            assert value == pytest.approx(0, abs=0.1)
        else:
            assert value == pytest.approx(metric.maximum, abs=1e-9), metric.name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shuffled_gold_is_about_chance(case: Case) -> None:
    """Right answers dealt out at random: their expected score, within five standard errors."""
    task = load(case.task)
    samples = list(task.samples)
    metric = task.metrics[0]
    rng = random.Random(0)
    if task.spec.mode is Mode.GENERATE:
        dealt = rng.sample(samples, len(samples))
        answers = [gold(task, other) for other in dealt]
        value = score(metric, samples, answers).value
        expected = expected_text_score(task, samples)
        assert value == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(len(samples)))
        assert value < 0.5
        return
    targets = [sample.target or 0 for sample in samples]
    draw = rng.sample(targets, len(targets))
    answers = [
        Answer(text=sample.options[target % len(sample.options)])
        for sample, target in zip(samples, draw, strict=True)
    ]
    value = score(metric, samples, answers).value
    if metric.name == "mcc":
        assert value == pytest.approx(0, abs=5 / np.sqrt(len(samples)))
        return
    shares = np.bincount(targets) / len(targets)
    expected = float((shares**2).sum())
    if metric.name == "f1":
        expected = float(shares[1])
    elif metric.name == "target_mass":
        expected = float(np.mean([np.mean(sample.target_scores) for sample in samples]))
    elif len({len(sample.choices) for sample in samples}) > 1:
        expected = float(np.mean([1 / len(sample.choices) for sample in samples]))
    slack = 5 * np.sqrt(0.25 / len(samples))
    assert value == pytest.approx(expected, abs=slack + (0.1 if metric.name == "token_f1" else 0))


def expected_text_score(task: Task, samples: list[Sample]) -> float:
    """Another seed's draw: dealt answers score alike whatever the seed."""
    rng = random.Random(1)
    answers = [gold(task, other) for other in rng.sample(samples, len(samples))]
    return score(task.metrics[0], samples, answers).value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prompts(case: Case) -> None:
    task = load(case.task)
    for sample in (task.samples[0], task.samples[-1]):
        prompt = few_shot_prompt(task, task.train[:1], sample)
        assert prompt.endswith(task.prompt(sample))
        if task.train:
            assert task.train[0].right in prompt


def test_every_data_set_is_covered() -> None:
    """A folder without a case is a data set that nobody reads."""
    folders = {path.name for path in DATA.iterdir()}
    named = {case.folder for case in CASES} | {
        found[1] for case in CASES if (found := re.search(r"DATA/([^/]+)", case.task))
    }
    assert folders <= named


def test_subjects_of_mmlu() -> None:
    task = load("mmlu")
    assert len({sample.category for sample in task.samples}) == 57
    sample = next(s for s in task.samples if s.category == "abstract_algebra")
    shots = [shot for shot in task.train if shot.category == "abstract_algebra"][:2]
    prompt = few_shot_prompt(task, shots, sample)
    assert prompt.startswith(
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    )
    assert prompt.count("\nAnswer:") == 3
    assert re.search(r"\nAnswer: [A-D]\n\n", prompt)
    for subject in {sample.category for sample in task.samples}:
        assert len(draw_shots(task, 5, 0, subject)) == 5


def test_dialogsum_has_three_references() -> None:
    assert {len(sample.references) for sample in load("dialogsum").samples} == {3}
    assert {len(sample.references) for sample in load("dialogsum_single").samples} == {1}


def test_mrpc_has_no_pair_twice() -> None:
    pairs = [sample.input for sample in load("glue_mrpc").train]
    assert len(pairs) <= 4_077


def test_reasoned_answers_are_found_in_every_task_of_bbh() -> None:
    """Answers with brackets, lists and full stops come out as the worked examples end in them."""
    read = 0
    for prompt in sorted((DATA / "bbh" / "cot-prompts").glob("*.txt")):
        (task,) = load_tasks([f"bbh_cot={DATA}/bbh/bbh/{prompt.stem}.json"], None)
        answers = [gold(task, sample) for sample in task.samples]
        assert score(task.metrics[0], task.samples, answers).value == 1, prompt.stem
        shown = re.findall(r"So the answer is (.*?)\.?\n", task.samples[0].fields["cot"] + "\n")
        assert len(shown) == 3, prompt.stem
        read += 1
    assert read >= 20
