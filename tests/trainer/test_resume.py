"""A run that is killed and resumed ends with the same bits as one that is not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.trainer.conftest import WriteConfig
from tests.trainer.forks import FullDisk, Kill, run
from tests.trainer.test_train import train
from trainer import folder
from trainer.__main__ import main
from trainer.log import MetricsLog, read_log
from trainer.run_file import load_run

ROOT = Path(__file__).resolve().parents[2]

RUNS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": {"type": "lora", "rank": 4, "dropout": 0.1},
        "optimiser": {"learning_rate": 5e-3, "batch_size": 4, "accumulation": 2, "epochs": 8},
        "loop": {"validate_every": 10, "checkpoint_every": 7},
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


def losses(directory: Path) -> list[tuple[str, int, float]]:
    return [(r["event"], r["step"], r["loss"]) for r in read_log(directory / "metrics.jsonl")]


def state(directory: Path) -> Any:
    return torch.load(directory / "checkpoint.pt", weights_only=True)["jobs"]["first"]["state"]


def resume(directory: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["resume", str(directory), "--json", *arguments]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with exit code 2, and returns its one line."""

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    return check


@pytest.mark.parametrize("method", sorted(RUNS))
def test_interrupted_and_resumed_equals_uninterrupted(
    method: str, write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """LoRA by SIGKILL in the middle of a step, prompt tuning by Ctrl-C."""
    config = write_config(**RUNS[method])
    whole = train(config, capsys)
    directory = tmp_path / "run"
    expected_losses, expected = losses(directory), state(directory)
    shutil.rmtree(directory)
    if method == "lora":
        log = tmp_path / "log"
        fault = Kill("trainer.job:Job.train_step", 24, 12)
        assert run(["train", str(config)], log, fault) == -signal.SIGKILL, log.read_text()
    else:
        with start(config) as process:
            wait_for_step(process, directory / "metrics.jsonl", 23)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            error = process.stderr.read()
        assert process.returncode == 130
        assert f"continue with: python -m trainer resume {directory}" in error
    assert 0 < state(directory)["step"] < whole["steps"]

    resumed = resume(directory, capsys)
    assert resumed["content_hash"] == whole["content_hash"]
    assert losses(directory) == expected_losses
    got = state(directory)
    for name, tensor in expected["tensors"].items():
        assert torch.equal(got["tensors"][name], tensor), name
    for index, moments in expected["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(got["optimizer"]["state"][index][name], tensor), name


def test_a_finished_run_can_be_resumed(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config()
    first = train(config, capsys)
    assert train(config, capsys, "--resume")["content_hash"] == first["content_hash"]
    assert resume(tmp_path / "run", capsys)["content_hash"] == first["content_hash"]
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert "run: had ended already; nothing was trained" in capsys.readouterr().err


def test_ctrl_c_offers_what_there_is_to_go_on_from(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command that is offered is one that runs."""
    config = write_config()
    command = ["train", str(config), "--quiet"]

    def interrupted(where: str, *arguments: str) -> str:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(where, stop)
            assert main([*command, *arguments]) == 130
        return capsys.readouterr().err

    again = (
        f"interrupted; nothing was saved yet, start again with: python -m trainer train {config}"
    )
    assert interrupted("trainer.preflight.prepare") == f"{again} --quiet\n"
    assert interrupted("trainer.train.load_base") == f"{again} --quiet --overwrite\n"
    assert main([*command, "--overwrite"]) == 0
    # An earlier run's checkpoint is nothing to go on from.
    line = interrupted("trainer.preflight.prepare", "--overwrite")
    assert line == f"{again} --quiet --overwrite\n"
    line = interrupted("trainer.turns.finish", "--overwrite")
    assert line == (
        "interrupted; continue from the last checkpoint with: python -m trainer train "
        f"{config} --quiet --resume\n"
    )
    assert main([*command, "--resume"]) == 0
    command = ["plan", str(config), "--overwrite"]
    assert interrupted("trainer.preflight.prepare") == "interrupted\n"


def test_resume_remembers_overrides_folders_and_where_the_run_was(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder may move, and the command may come from anywhere."""
    config = write_config(output={"dir": "run", "store": "store"})
    contents = yaml.safe_load(config.read_text())
    contents["data"]["train"] = "train.jsonl"
    config.write_text(yaml.safe_dump(contents))
    monkeypatch.chdir(tmp_path)
    overrides = ["--set", "seed=3", "--set", "method.rank=2"]
    whole = train(config, capsys, *overrides)
    shutil.rmtree("run")
    shutil.rmtree("store")
    log = tmp_path / "log"
    fault = Kill("trainer.job:Job.train_step", 4)
    assert run(["train", str(config), *overrides], log, fault) == -signal.SIGKILL
    Path("run").rename("moved")
    config.unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    resumed = resume(Path("../moved"), capsys)
    assert resumed["content_hash"] == whole["content_hash"]
    assert (tmp_path / "moved" / "adapter").is_dir()
    assert (tmp_path / "store" / "first" / "latest").is_file()
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config()
    whole = train(config, capsys)
    directory = tmp_path / "run"
    log = tmp_path / "log"
    command = ["train", str(config), "--overwrite"]
    assert run(command, log, Kill("trainer.train:load_base")) == -signal.SIGKILL
    assert not (directory / "checkpoint.pt").exists()
    assert resume(directory, capsys)["content_hash"] == whole["content_hash"]


def test_another_run_is_not_resumed(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    config = write_config()
    train(config, capsys)
    directory = tmp_path / "run"

    changed = refused("train", config, "--resume", "--set", "optimiser.learning_rate=0.1")
    assert "the configuration is not that" in changed
    saved = (directory / "config.json").read_text()
    (directory / "config.json").write_text(saved.replace('"rank": 4', '"rank": 2'))
    assert "the configuration is not that" in refused("resume", directory)
    (directory / "config.json").write_text(saved[:-20])
    assert "config.json: damaged" in refused("resume", directory)
    (directory / "config.json").write_text(saved)
    data = Path(yaml.safe_load(config.read_text())["data"]["train"])
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[:-1]))
    assert "the training data is not that" in refused("resume", directory)
    data.write_text("".join(lines))
    log = directory / "metrics.jsonl"
    kept = log.read_bytes()
    log.write_bytes(kept[:-1])
    assert "metrics.jsonl: shorter than when the checkpoint" in refused("resume", directory)
    log.write_bytes(kept)
    path = directory / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    for jobs in ([], {"first": {}}, {"first": 1}):
        torch.save({**content, "jobs": jobs}, path)
        assert "damaged checkpoint" in refused("resume", directory)
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged checkpoint" in refused("resume", directory)
    (directory / "config.json").write_text(json.dumps({**json.loads(saved), "jobs": []}))
    assert "config.json: damaged" in refused("resume", directory)


def test_another_reading_of_the_same_files_is_not_resumed(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    base: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither weights nor configuration tell of them."""
    own = shutil.copytree(base, tmp_path / "own")
    train(write_config(base=str(own)), capsys)
    directory, path = tmp_path / "run", own / "config.json"
    content = path.read_text()
    path.write_text(json.dumps(json.loads(content) | {"rms_norm_eps": 1e-3}))
    assert "the base's config.json, or a wording" in refused("resume", directory)
    path.write_text(content)
    later = [("summarize/0", "{{ input }}\n\nIn short:\n")]
    monkeypatch.setattr("trainer.preflight.wording.named", lambda *_: later)
    assert "or a wording of the library, is not that" in refused("resume", directory)
    monkeypatch.undo()
    assert main(["resume", str(directory), "--quiet"]) == 0


def test_what_holds_no_run_is_not_resumed(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "holds no run to resume" in refused("resume", tmp_path)
    assert "holds no run to resume" in refused("resume", tmp_path / "none")


def test_an_interrupted_run_is_not_replaced_by_mistake(
    write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]
) -> None:
    config = write_config()
    log = tmp_path / "log"
    fault = Kill("trainer.job:Job.train_step", 3)
    assert run(["train", str(config)], log, fault) == -signal.SIGKILL
    directory = tmp_path / "run"
    line = refused("train", config)
    assert (
        f"holds an interrupted run; continue it with `python -m trainer resume {directory}`" in line
    )


def test_two_processes_do_not_share_a_folder(
    write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]
) -> None:
    config = write_config()
    with folder.locked(load_run(config)):
        for command in (["train", config], ["train", config, "--overwrite"]):
            assert "run: another process is training in this folder" in refused(*command)


def test_a_full_disk_leaves_the_checkpoint_before_it(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config(loop={"validate_every": 2, "checkpoint_every": 2})
    whole = train(config, capsys)
    directory = tmp_path / "run"
    num_bytes = (directory / "checkpoint.pt").stat().st_size
    shutil.rmtree(directory)
    log = tmp_path / "log"
    fault = FullDisk("trainer.checkpoint:save", num_bytes // 2, call=3)
    assert run(["train", str(config), "--quiet"], log, fault) == 1
    assert log.read_text() == (
        f"error: {directory}/checkpoint.pt: could not be written: File too large; "
        "the one before it is intact; mend that, then continue with `python -m trainer resume "
        f"{directory}`\n"
    )
    assert state(directory)["step"] == 2
    assert not list(directory.glob("*.tmp"))
    assert resume(directory, capsys)["content_hash"] == whole["content_hash"]


@pytest.mark.parametrize("at", ["trainer.log:MetricsLog.write", "trainer.finish:write_artifact"])
def test_a_full_disk_elsewhere_names_the_file_and_how_to_go_on(
    at: str, write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config()
    directory = tmp_path / "run"
    log = tmp_path / "log"
    assert run(["train", str(config), "--quiet"], log, FullDisk(at, 100)) == 1
    line = log.read_text()
    assert line.count("\n") == 1
    assert line.startswith(f"error: {directory}")
    assert "could not be written: File too large; mend that, then continue with" in line
    assert train(config, capsys, "--resume")["steps"] == 6


def test_a_mixture_is_logged_once(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also where the run was killed between its first checkpoint and its first step."""
    config = write_config(data={})
    contents = yaml.safe_load(config.read_text())
    task = {"name": "one", "files": str(tmp_path / "train.jsonl")}
    contents["data"] = {"train": [task], "validation": 0, "template": "{{ input }}"}
    config.write_text(yaml.safe_dump(contents))
    log = tmp_path / "log"
    fault = Kill("trainer.job:Job.train_step", 1, 3)
    assert run(["train", str(config)], log, fault) == -signal.SIGKILL, log.read_text()
    resume(tmp_path / "run", capsys)
    events = [record["event"] for record in read_log(tmp_path / "run" / "metrics.jsonl")]
    assert events == ["mixture"] + ["train"] * 6


def test_the_log_knows_its_length_before_it_is_written_to(tmp_path: Path) -> None:
    """A run that is stopped right after it was resumed must be able to go on."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"kept\nlost\n")
    with MetricsLog(path, 5) as log:
        assert (log.sync(), log.is_empty) == (5, False)
    with MetricsLog(path, 5) as log:
        assert log.sync() == 5
    with MetricsLog(path) as log:
        assert (log.sync(), log.is_empty) == (0, True)
