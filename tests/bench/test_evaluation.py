"""The benchmark of the eval suite's own cost works, on few samples."""

import json

import pytest

from tests.bench import evaluation


def test_it_scores_what_it_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation.main(["--samples", "1500", "--rounds", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["samples"] == 1500
    assert found["completions_per_s_rounds"] == [found["completions_per_s"]]
    assert found["completions_per_s"] > 0


def test_a_run_that_scores_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.canned, "TEXT", "others")
    with pytest.raises(RuntimeError, match="scored other than 1"):
        evaluation.main(["--samples", "10", "--rounds", "1"])
