"""Calibration against uncertainty-calibration's and scikit-learn's values, and by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.aspects.calibration import (
    calibration_error,
    calibration_fields,
    equal_mass_edges,
    platt_scaled,
    selective_accuracies,
)
from evalsuite.errors import InputError
from evalsuite.types import Answer, ChoiceScore, Sample
from tests.evalsuite.scoring import close, value

ORACLE = json.loads((Path(__file__).parent / "oracles" / "calibration.json").read_text())
NAMES = ("ece", "ece_1_bin", "ece_equal_width", "ece_adaptive")
SELECTIVE = ("selective_accuracy_area", "selective_accuracy_10")


def asked(logprobs: list[list[float]], targets: list[int]) -> tuple[list[Sample], list[Answer]]:
    choices = tuple(f" {index}" for index in range(len(logprobs[0])))
    samples = [
        Sample(str(index), "in", (choices[target],), choices, target)
        for index, target in enumerate(targets)
    ]
    answers = [
        Answer(choices=tuple(ChoiceScore(logprob, 1, 1, 1) for logprob in row)) for row in logprobs
    ]
    return samples, answers


@pytest.mark.parametrize("case", ORACLE["cases"])
def test_as_the_libraries(case: dict[str, Any]) -> None:
    samples, answers = asked(case["logprobs"], case["targets"])
    found = calibration_fields(samples, answers)
    assert found is not None
    for name in (*NAMES, *SELECTIVE):
        if name in case:
            assert found[name] == close(case[name])
    assert found["brier"] == close(value("brier", samples, answers))
    assert found["accuracy"] == close(value("accuracy", samples, answers))
    lines = found["reliability"]
    num = sum(line["num_samples"] for line in lines)
    gaps = [line["num_samples"] * abs(line["confidence"] - line["accuracy"]) for line in lines]
    assert num == len(samples)
    assert found["ece"] == close(sum(gaps) / num)


@pytest.mark.parametrize("case", [case for case in ORACLE["cases"] if "platt" in case])
def test_platt_scaling_as_scikit_learn(case: dict[str, Any]) -> None:
    logprobs = np.array(case["logprobs"])
    shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    sure = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
    correct = (logprobs.argmax(axis=1) == case["targets"]).astype(float)
    assert platt_scaled(sure, correct) == pytest.approx(case["platt"], abs=1e-7)


def test_equal_confidences_share_a_bin() -> None:
    sure = np.array([0.5] * 15 + [0.9] * 5)
    assert equal_mass_edges(sure, 10).tolist() == [0.5, 0.9, 1.0]
    correct = np.array([1.0] * 9 + [0.0] * 6 + [1.0] * 5)
    # 15 samples 0.1 off and 5 samples 0.1 off.
    assert calibration_error(sure, correct, equal_mass_edges(sure, 10)) == close(0.1)


def test_selective_accuracy_of_the_surest() -> None:
    found = selective_accuracies(np.array([0.2, 0.9, 0.9, 0.4]), np.array([1.0, 0.0, 1.0, 1.0]))
    assert found.tolist() == pytest.approx([0.0, 0.5, 2 / 3, 0.75])


def test_a_true_confidence_is_told_from_a_false_one() -> None:
    rng = np.random.default_rng(5)
    sure = rng.uniform(0.5, 1, 400)
    right = rng.random(400) < sure
    for factor, is_true in ((1.0, True), (6.0, False)):
        odds = factor * np.log(sure / (1 - sure))
        rows = [[float(odd), 0.0] for odd in odds]
        samples, answers = asked(rows, [0 if one else 1 for one in right])
        found = calibration_fields(samples, answers)
        assert found is not None
        assert (found["p_calibrated"] > 0.05) is is_true
        assert (found["ece"] < 2 * found["ece_if_calibrated"]) is is_true


def test_unscored_samples_are_left_out_and_none_is_none() -> None:
    samples, answers = asked([[0.0, -1.0], [0.0, -1.0]], [0, 1])
    found = calibration_fields(samples, [answers[0], None])
    assert found is not None
    assert (found["num_samples"], found["accuracy"]) == (1, 1.0)
    assert found["ece"] == close(1 - 1 / (1 + math.exp(-1)))
    assert calibration_fields(samples, [None, None]) is None


def test_nothing_is_said_where_not_one_choice_is_right() -> None:
    """How likely the truth was held is no number where several choices are true, or none."""
    (sample, *others), answers = asked([[0.0, 1.0, 2.0]] * 3, [0, 1, 2])
    several = replace(sample, target_scores=(1.0, 1.0, 0.0))
    by_text = replace(sample, references=("0", "2"))
    none = replace(sample, target=None)
    for odd in (several, by_text, none):
        assert calibration_fields([odd, *others], answers) is None
        with pytest.raises(InputError, match="needs one right choice in every row; row 0 has"):
            value("brier", [odd, *others], answers)
    one = replace(sample, target_scores=(1.0, 0.0, 0.0))
    assert calibration_fields([one, *others], answers) is not None
