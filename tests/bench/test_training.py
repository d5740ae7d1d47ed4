"""The benchmark of training works: a tiny model, a few steps in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench import training

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "benchmarks.md"
    path.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def test_figures_agree_and_the_page_shows_them(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    assert training.main(["--quick", "--write", str(page)]) == 0
    torch.set_num_threads(threads)
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["cases"].keys() == {case.name for case in training.QUICK_PLAN.cases}
    for case in found["cases"].values():
        low, high = case["ours_vs_plain_spread"]
        assert 0 < low <= case["ours_vs_plain"] <= high
        # Of the same steps: the losses were compared.
        assert case["max_loss_difference"] <= training.MAX_LOSS_DIFFERENCE
    lora = found["cases"]["135m.lora"]
    assert lora["step_ms"].keys() == {"ours", "padded", "plain", "random"}
    assert found["kept"]["checkpointing_mib"] < found["kept"]["whole_mib"] / 2
    text = page.read_text(encoding="utf-8")
    assert f"| {lora['ours_vs_plain']} (" in text
    before, after = (t.split("<!-- measured training:")[0] for t in (PAGE.read_text(), text))
    assert before == after


def test_steps_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training.Plain.step
    monkeypatch.setattr(
        training.Plain, "step", lambda self: (1.01 * plain(self)[0], plain(self)[1])
    )
    with pytest.raises(RuntimeError, match="losses differ"):
        training.main(["--quick"])
