"""Two processes that train one adapter: the numbers of one, and the bits of two whenever it is."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import WriteConfig
from tests.trainer.test_classification import class_rows
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.distributed import Group, folders_of
from trainer.log import read_log
from trainer.objectives.supervised import summed_loss
from trainer.tokens import Batch
from understudy.artifact import base_fingerprint

ROOT = Path(__file__).resolve().parents[2]
SIZE = 2
# Processes that share two processors with other tests.
DEADLINE_S = 120


def places() -> list[dict[str, str]]:
    """What a launcher tells each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["OMP_NUM_THREADS"] = "1"
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(SIZE)]


def _child(place: Mapping[str, str], arguments: list[str], errors: Path) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    with errors.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
        code = main(arguments)
        sys.stdout.flush()
        os._exit(code)


class Pair:
    """`python -m trainer` in two processes, as a launcher starts them."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._errors = [folder / f"said-{rank}.txt" for rank in range(SIZE)]
        fork = multiprocessing.get_context("fork")
        self.processes: list[BaseProcess] = [
            fork.Process(target=_child, args=(place, list(arguments), errors))
            for place, errors in zip(places(), self._errors, strict=True)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> list[int | None]:
        """Exit codes."""
        for process in self.processes:
            process.join(DEADLINE_S)
            if process.is_alive():
                process.kill()
        return [process.exitcode for process in self.processes]

    def said(self) -> list[str]:
        """What each printed."""
        return [path.read_text() for path in self._errors]


def losses(run: Path) -> list[tuple[str, int, float]]:
    return [(r["event"], r["step"], r["loss"]) for r in read_log(run / "metrics.jsonl")]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "classification"])
def test_two_processes_train_what_one_does(
    method: str, write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of five do not halve, and the last one has rows for one process only."""
    changes: dict[str, Any] = {"method": {"type": method, **EXTRA.get(method, {})}}
    if method == "classification":
        path = tmp_path / "classes.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in class_rows(40)))
        data = {"train": str(path), "validation": 0.3, "template": "{{ text }}"}
        objective = {"type": "classification", "class_weights": "balanced"}
        changes = {"method": {"type": "lora", "rank": 4}, "data": data, "objective": objective}
    config = write_config(
        **changes,
        optimiser={"learning_rate": 5e-3, "batch_size": 5, "accumulation": 2, "epochs": 2},
        loop={"validate_every": 3},
    )
    alone = train(config, capsys)
    run = tmp_path / "run"
    expected, steps = losses(run), read_log(run / "metrics.jsonl")
    adapter = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    pair = Pair(tmp_path, "train", str(config), "--overwrite", "--json")
    assert pair.wait() == [0, 0], pair.said()
    together = json.loads(pair.said()[0].splitlines()[-1])
    assert pair.said()[1] == ""
    found = losses(run)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    assert [loss for *_, loss in found] == pytest.approx([e[2] for e in expected], rel=2e-5)
    for mine, theirs in zip(read_log(run / "metrics.jsonl"), steps, strict=True):
        for key in ("tokens", "learning_rate", "accuracy", "macro_f1"):
            assert mine.get(key) == theirs.get(key)
        if "gradient_norm" in theirs:
            assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    # Sums in another order: equal within rounding, and hardly ever to the last bit.
    assert together["steps"] == alone["steps"]
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() != adapter
    facts = json.loads((run / "adapter" / "run.json").read_text())
    assert facts["num_processes"] == SIZE


EXTRA: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
}


def test_two_processes_stop_and_resume_to_the_same_bits(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, then stopped by a signal that reaches one of them only; with dropout."""
    config = write_config(
        method={"type": "lora", "rank": 4, "dropout": 0.1},
        optimiser={"learning_rate": 5e-3, "batch_size": 4, "epochs": 8},
        loop={"validate_every": 20, "checkpoint_every": 4},
    )
    run = tmp_path / "run"
    pair = Pair(tmp_path, "train", str(config), "--json")
    assert pair.wait() == [0, 0], pair.said()
    whole, expected = json.loads(pair.said()[0].splitlines()[-1]), losses(run)

    shutil.rmtree(run)
    pair = Pair(tmp_path, "train", str(config))
    _wait_for_step(pair, run, 9)
    for process in pair.processes:
        process.kill()
    pair.wait()
    assert main(["train", str(config), "--resume"]) == 2
    assert "the interrupted run had 2 processes, this one has 1" in capsys.readouterr().err

    pair = Pair(tmp_path, "train", str(config), "--resume")
    _wait_for_step(pair, run, 24)
    os.kill(pair.processes[1].pid or 0, signal.SIGTERM)
    assert pair.wait() == [143, 143]
    assert "stopped by signal 15" in pair.said()[0]
    assert pair.said()[1] == ""

    pair = Pair(tmp_path, "train", str(config), "--resume", "--json")
    assert pair.wait() == [0, 0], pair.said()
    resumed = json.loads(pair.said()[0].splitlines()[-1])
    assert resumed["content_hash"] == whole["content_hash"]
    assert losses(run) == expected


def _wait_for_step(pair: Pair, run: Path, step: int) -> None:
    log = run / "metrics.jsonl"
    deadline = time.monotonic() + DEADLINE_S
    while not (log.exists() and len(log.read_text().splitlines()) > step):
        assert all(process.is_alive() for process in pair.processes), pair.said()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_refusal_is_said_once_and_ends_both(write_config: WriteConfig, tmp_path: Path) -> None:
    """Also one that only the process which writes can see."""
    config = write_config()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    pair = Pair(tmp_path, "train", str(config))
    assert pair.wait() == [2, 2], pair.said()
    first, second = pair.said()
    assert "holds a run already" in first
    assert len(first.splitlines()) == 1
    assert second == ""


def test_a_loss_that_is_no_number_in_one_process_ends_both(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes_nan(model: Any, batch: Batch) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        loss = summed_loss(model, batch)
        return loss * float("nan") if num_calls == 3 and os.environ["RANK"] == "1" else loss

    num_calls = 0
    monkeypatch.setattr("trainer.objectives.supervised.summed_loss", sometimes_nan)
    config = write_config()
    pair = Pair(tmp_path, "train", str(config), "--set", "data.validation=0")
    assert pair.wait() == [1, 1], pair.said()
    error = pair.said()[0]
    assert "step 3: the loss is nan; rows " in error
    assert error.count("train.jsonl:") == 2
    assert pair.said()[1] == ""


@pytest.mark.parametrize("failing", [0, 1])
def test_any_failure_in_one_process_ends_both(
    failing: int, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that nobody foresaw: the other would wait for it."""

    def fails(base: Path) -> str:
        if os.environ["RANK"] == str(failing):
            raise PermissionError(13, "Permission denied", "config.json")
        return base_fingerprint(base)

    monkeypatch.setattr("trainer.train.base_fingerprint", fails)
    pair = Pair(tmp_path, "train", str(write_config()))
    assert pair.wait() == [1, 1], pair.said()
    expected = "error: config.json: Permission denied\n"
    if failing == 1:
        assert "process 1 failed: PermissionError: [Errno 13] Permission" in pair.said()[0]
    assert pair.said()[failing] == expected


def test_only_one_process_writes(write_config: WriteConfig) -> None:
    from trainer.run_file import load_run

    run = load_run(write_config())
    with folders_of(run, Group()) as own:
        assert own is run
    second = Group()
    second.rank = 1
    with folders_of(run, second) as own:
        assert own.directory != run.directory
        assert own.configs[0].output.dir == own.directory
        assert not own.configs[0].output.publish
        own.directory.mkdir()
    assert not own.directory.exists()


def test_accelerate_starts_them(write_config: WriteConfig, tmp_path: Path) -> None:
    """The documented command."""
    config = write_config()
    command = [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
        *("--multi_gpu", "--num_processes", str(SIZE), "--num_machines", "1"),
        *("--main_process_port", places()[0]["MASTER_PORT"]),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "trainer", "train", str(config), "--set", "optimiser.max_steps=3", "--json"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["steps"] == 3
    assert (tmp_path / "store" / "first" / "latest").is_file()
