"""Perturbed tasks: what changes, what stays, and what is made of the scores."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.__main__ import main
from evalsuite.aspects.robustness import worst_case
from evalsuite.errors import InputError
from evalsuite.metrics import MetricOptions, build_metrics, score
from evalsuite.names import TaskName
from evalsuite.perturbations import built_in, perturbation
from evalsuite.perturbations.edits import swaps
from evalsuite.prompts import draw_shots
from evalsuite.registry import load_tasks, with_perturbations
from evalsuite.types import Answer, ChoiceScore, Mode, Sample, Scores

CASES = {
    "lowercase": ("He SAID no.", "he said no."),
    "uppercase": ("He said no.", "HE SAID NO."),
    "contractions": ("I do not know. It is late.", "I don't know. It's late."),
    "dialect": ("They are not with the others.", "Dey ain't wit da others."),
    "gender": (
        "He gave HIS son a hat; the woman saw.",
        "She gave HER daughter a hat; the woman saw.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str) -> None:
    before, after = CASES[name]
    assert built_in()[name].edit(before, Random(0)) == after


def test_swaps_take_whole_words_only() -> None:
    edit = built_in()["gender"].edit
    assert edit("The sheriff heard himself; he'd hem.", Random(0)) == (
        "The sheriff heard herself; he'd hem."
    )


def test_swaps_leave_letters_of_other_alphabets() -> None:
    """A long s and a dotted I, which `re` takes for others where it ignores case."""
    edit = built_in()["gender"].edit
    assert edit("ſhe ſaw; HİM.", Random(0)) == "ſhe ſaw; HİM."
    assert swaps({"it is": ["it's"], "skin": ["hide"]})("İt is \u212a sKin", Random(0)) == (
        "İt is \u212a hide"
    )


@given(st.text(alphabet="abcde fgh.\n", max_size=200), st.integers(0, 50))
def test_spaces_and_typos_keep_the_words_count(text: str, seed: int) -> None:
    spaced = built_in()["spaces"].edit(text, Random(seed))
    assert spaced.split() == text.split()
    assert spaced.count("\n") == text.count("\n")
    slipped = built_in()["typos"].edit(text, Random(seed))
    assert len(slipped.split()) == len(text.split())
    for old, new in zip(text.split(), slipped.split(), strict=True):
        assert new[0] == old[0]
        assert abs(len(new) - len(old)) <= sum(map(str.isalpha, old)) / 4


def test_typos_hit_a_tenth_of_the_words() -> None:
    words = ["keyboard"] * 5000
    found = built_in()["typos"].edit(" ".join(words), Random(1)).split()
    assert sum(word != "keyboard" for word in found) / 5000 == pytest.approx(0.1, abs=0.015)


def test_fairness_changes_references_and_robustness_does_not() -> None:
    sample = Sample("1", "He is with them.", (" his",), (" his", " their"), 0, completion=" his")
    fair = built_in()["gender"](sample)
    assert (fair.input, fair.choices, fair.references) == (
        "She is with them.",
        (" her", " their"),
        (" her",),
    )
    robust = built_in()["uppercase"](sample)
    assert (robust.choices, robust.references) == (sample.choices, sample.references)
    # Choices that could no longer be told apart stay.
    twins = Sample("1", "x", (" he",), (" he", " she"), 0)
    assert built_in()["gender"](twins).choices == (" he", " she")


def test_samples_change_equally_and_contexts_alike() -> None:
    text = "somewhere another keyboard wonders " * 8
    by = built_in()["typos"]
    sample = Sample("7", "", ("x",), ("x", "x"), 0, contexts=(text + "left", text + "right"))
    found = by(sample)
    assert found == by(sample)
    assert found.contexts[0].split()[:-1] == found.contexts[1].split()[:-1]
    assert by(Sample("8", text, ("x",))).input != by(Sample("7", text, ("x",))).input


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mmlu", TaskName("mmlu")),
        ("mmlu+typos@stratified:5:1", TaskName("mmlu", "typos", "", "@stratified:5:1")),
        ("mmlu+a/w.yaml=data/x+y.csv", TaskName("mmlu", "a/w.yaml", "data/x+y.csv")),
        ("mmlu=hf:cais/mmlu:all:test", TaskName("mmlu", "", "hf:cais/mmlu:all:test")),
    ],
)
def test_names(text: str, expected: TaskName) -> None:
    assert TaskName.parse(text) == expected
    assert str(expected) == text


def test_a_plus_in_a_path_is_no_perturbation(tmp_path: Path) -> None:
    path = tmp_path / "a+b.yaml"
    path.write_text("")
    assert TaskName.parse(str(path)) == TaskName(str(path))


def test_shots_and_training_rows_stay_those_of_the_original(make_tasks: Any) -> None:
    files = make_tasks()
    plain, changed = load_tasks([str(files.mood), f"{files.mood}+uppercase"], None)
    assert (plain.name, changed.name) == ("mood", "mood+uppercase")
    assert changed.samples[0].input == plain.samples[0].input.upper()
    assert changed.samples[0].choices == plain.samples[0].choices
    assert draw_shots(plain, 3, 5) == draw_shots(changed, 3, 5)
    assert list(changed.train) == list(plain.train)
    assert "perturbed:uppercase@1" in changed.signature()


def test_letters_are_put_before_the_options_after_the_change(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"input": "Is it SO?", "label": " YES"}\n')
    (tmp_path / "t.yaml").write_text(
        'name: t\ndata: t.jsonl\ntemplate: "{{ input }}"\nmode: letter\n'
        'choices: [" YES", " NO"]\nmetrics: [accuracy]\n'
    )
    (task,) = load_tasks([f"{tmp_path / 't.yaml'}+lowercase"], None)
    assert task.samples[0].input == "is it so?\nA. YES\nB. NO"


def test_texts_that_are_weighed_are_not_perturbed(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("Some prose.\n")
    name = f"text={tmp_path / 'prose.txt'}"
    assert with_perturbations([name, "mmlu=x"], ["typos"]) == (name, "mmlu=x", "mmlu+typos=x")
    with pytest.raises(InputError, match="it has no inputs for 'typos' to change"):
        load_tasks([f"text+typos={tmp_path / 'prose.txt'}"], None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\n", "swaps: field required"),
        ("name: x\nswaps: {}\n", "swaps: dictionary should have at least 1 item"),
        ("name: x\nswaps: {A: [b]}\n", "'A' must be a word in lower case"),
        ("name: x\nswaps: {a: [b]}\nfamily: other\n", "family: input should be"),
        ("name: x\nswaps: {a: [b]}\nprobability: 2\n", "probability: input should be less"),
        ("name: x\nswap: {a: [b]}\n", "swap"),
        ("{", "not YAML"),
    ],
)
def test_wrong_word_lists(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        perturbation(str(path))


def test_unknown_perturbations() -> None:
    with pytest.raises(InputError, match=r"no perturbation 'typo', .* did you mean 'typos'"):
        perturbation("typo")
    with pytest.raises(InputError, match=r"gone\.yaml: cannot be read"):
        perturbation("gone.yaml")


def scores(values: list[float | None]) -> Scores:
    samples = [Sample(str(i), "in", (" a",), (" a", " b"), 0) for i in range(len(values))]
    answers = [
        None
        if value is None
        else Answer(choices=tuple(ChoiceScore(x, 1, 1, 1) for x in (value, 0.5)))
        for value in values
    ]
    (metric,) = build_metrics(["accuracy"], Mode.CHOICE, MetricOptions(), samples)
    return score(metric, samples, answers)


def test_worst_case_by_hand() -> None:
    one, two = scores([1.0, 1.0, 0.0, None, 1.0]), scores([0.0, 1.0, 1.0, 1.0, 1.0])
    worst = worst_case([one, two])
    assert worst is not None
    assert worst.scored.tolist() == [True, True, True, False, True]
    assert worst.value == pytest.approx(2 / 4)
    assert worst_case([one]) is not None
    assert worst_case([scores([None])]) is None


def test_worst_case_of_an_error_is_the_largest() -> None:
    samples = [Sample(str(i), "in", (" a",), (" a", " b"), 0) for i in range(3)]
    (metric,) = build_metrics(["brier"], Mode.CHOICE, MetricOptions(), samples)
    sure = [Answer(choices=tuple(ChoiceScore(x, 1, 1, 1) for x in (2.0, 0.0))) for _ in samples]
    lost = [Answer(choices=tuple(ChoiceScore(x, 1, 1, 1) for x in (0.0, 2.0))) for _ in samples]
    worst = worst_case([score(metric, samples, sure), score(metric, samples, lost)])
    assert worst is not None
    assert worst.value == pytest.approx(2 * (1 / (1 + math.exp(-2))) ** 2)


def test_a_run_with_perturbations(server: Any, make_tasks: Any, tmp_path: Path) -> None:
    files = make_tasks()
    words = tmp_path / "words.yaml"
    # Numbers 1 and 2 are other inputs under the swap, whose right answers the server knows.
    words.write_text('name: other\nfamily: fairness\nreferences: false\nswaps: {"mood": [tone]}\n')
    server.gold = files.gold | {
        text.replace("mood-", "tone-"): right for text, right in files.gold.items()
    }
    out = tmp_path / "out"
    command = ["run", "--server", server.address, "--adapters", "base,gold,half", "--shots", "0"]
    command += ["--tasks", str(files.mood), "--out", str(out)]
    assert main([*command, "--perturb", f"lowercase,{words}"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["tasks"]) == ["mood"]
    found = report["robustness"]["mood"]
    assert list(found["perturbations"]) == ["lowercase", "other"]
    assert found["perturbations"]["other"]["family"] == "fairness"
    rows = found["rows"]
    assert list(rows) == ["base", "gold", "half"]
    gold = rows["gold"]["perturbation"]
    assert (gold["lowercase"]["value"], gold["other"]["change"]) == (1.0, 0.0)
    records = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    per = {
        name: np.array(
            [r["scores"]["accuracy"] for r in records if (r["task"], r["row"]) == (name, "half")]
        )
        for name in ("mood", "mood+lowercase", "mood+other")
    }
    half = rows["half"]
    assert half["original"] == per["mood"].mean()
    assert half["perturbation"]["other"]["value"] == per["mood+other"].mean()
    assert half["perturbation"]["lowercase"]["change"] == 0.0
    worst = np.minimum(per["mood"], per["mood+other"]).mean()
    assert 0 < worst < 1
    assert half["worst"]["fairness"]["value"] == pytest.approx(worst)
    assert half["worst"]["fairness"]["p"] is None
    assert half["worst"]["robustness"]["value"] == per["mood"].mean()
    # Read back without a server: the same numbers, on the page and in Markdown too.
    before = (out / "report.json").read_bytes()
    assert main(["report", "--out", str(out)]) == 0
    assert (out / "report.json").read_bytes() == before
    assert "## Robustness and fairness: mood (accuracy)" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert 'id="robustness"' in page
    assert "mood+other" in page
    matrix = json.loads((out / "matrix.json").read_text())
    assert list(matrix["tasks"]) == ["mood"]


def test_perturb_needs_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(tmp_path), "--perturb", "typos"]) == 2
    assert "--perturb: needs --server" in capsys.readouterr().err
