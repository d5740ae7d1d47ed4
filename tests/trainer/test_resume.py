"""A run that is killed and resumed ends with the same bits as one that is not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.trainer.conftest import WriteConfig
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.log import read_log

ROOT = Path(__file__).resolve().parents[2]

RUNS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": {"type": "lora", "rank": 4, "dropout": 0.1},
        "optimiser": {"learning_rate": 5e-3, "batch_size": 4, "accumulation": 2, "epochs": 30},
        "loop": {"validate_every": 50, "checkpoint_every": 7},
    },
    "prompt_tuning": {
        "method": {"type": "prompt_tuning", "num_virtual_tokens": 4},
        "optimiser": {"learning_rate": 0.05, "batch_size": 4, "epochs": 20},
        "loop": {"validate_every": 40, "checkpoint_every": 1000},
    },
}


def start(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", str(config), "--overwrite"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], log: Path, step: int) -> None:
    while not (log.exists() and len(log.read_text().splitlines()) > step):
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.005)


def losses(run: Path) -> list[tuple[str, int, float]]:
    return [(r["event"], r["step"], r["loss"]) for r in read_log(run / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("method", "number"), [("lora", signal.SIGKILL), ("prompt_tuning", signal.SIGINT)]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    method: str,
    number: signal.Signals,
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    config = write_config(**RUNS[method])
    whole = train(config, capsys)
    run = tmp_path / "run"
    expected_losses = losses(run)
    expected = torch.load(run / "checkpoint.pt", weights_only=True)["jobs"]["first"]["state"]

    shutil.rmtree(run)
    with start(config) as process:
        wait_for_step(process, run / "metrics.jsonl", 23)
        process.send_signal(number)
        assert process.stderr is not None
        error = process.stderr.read()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"continue with: python -m trainer resume {run}" in error
    else:
        assert process.returncode == -signal.SIGKILL
    stopped_at = torch.load(run / "checkpoint.pt", weights_only=True)["jobs"]["first"]["state"][
        "step"
    ]
    assert 0 < stopped_at < whole["steps"]

    resumed = train(config, capsys, "--resume")
    assert resumed["content_hash"] == whole["content_hash"]
    assert losses(run) == expected_losses
    got = torch.load(run / "checkpoint.pt", weights_only=True)["jobs"]["first"]["state"]
    for name, tensor in expected["tensors"].items():
        assert torch.equal(got["tensors"][name], tensor), name
    for index, moments in expected["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(got["optimizer"]["state"][index][name], tensor), name


def test_a_finished_run_can_be_resumed(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config()
    first = train(config, capsys)
    assert train(config, capsys, "--resume")["content_hash"] == first["content_hash"]


def test_another_run_is_not_resumed(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config()
    train(config, capsys)

    def refusal(*arguments: str) -> str:
        assert main(["train", str(config), "--resume", *arguments]) == 2
        return capsys.readouterr().err

    assert "the configuration is not that" in refusal("--set", "optimiser.learning_rate=0.1")
    data = Path(yaml.safe_load(config.read_text())["data"]["train"])
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[:-1]))
    assert "the training data is not that" in refusal()
    data.write_text("".join(lines))
    log = tmp_path / "run" / "metrics.jsonl"
    kept = log.read_bytes()
    log.write_bytes(kept[:-1])
    assert "metrics.jsonl: shorter than when the checkpoint" in refusal()
    log.write_bytes(kept)
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged checkpoint" in refusal()
