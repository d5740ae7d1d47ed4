"""The demo's parts beside its data: configurations, verdict, children, what it refuses."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import main
from demo.roles import BASE, CONFIGS, LIVE, QUANTIZATION, ROLES
from demo.summary import shortfalls, summarize
from demo.tasks import TASKS, rows
from evalsuite.registry import built_in_tasks
from tests.process import environment
from tests.tiny import make_base
from trainer.config_file import load_config
from understudy import Client, processes
from understudy.processes import ChildError, python

ROOT = Path(__file__).resolve().parents[2]


def test_every_role_has_its_configuration() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == {role.adapter for role in ROLES}
    assert {role.task for role in ROLES} == set(TASKS)
    assert len({role.adapter for role in ROLES}) == len(ROLES) >= 6
    assert LIVE in {role.adapter for role in ROLES}


def test_a_soft_prompt_stands_beside_a_lora_for_one_task() -> None:
    methods = {
        role.adapter: load_config(CONFIGS / f"{role.adapter}.yaml").method.type
        for role in ROLES
        if role.task == "review_label"
    }
    assert methods == {"review-label": "prompt_tuning", "review-label-lora": "lora"}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.adapter)
def test_trained_and_scored_alike(role: Any) -> None:
    """Baselines get the wording that the adapter was trained with, over the same files."""
    config = load_config(CONFIGS / f"{role.adapter}.yaml")
    task = built_in_tasks()[role.task].definition.spec
    assert config.name == role.adapter
    assert config.quantization == QUANTIZATION
    assert config.base == BASE.relative_to(ROOT)
    assert config.output.dtype == "float16"
    assert config.data.template == task.template
    assert [Path(str(entry)).name for entry in config.data.train] == [task.train]
    assert task.train == f"{role.task}.train.jsonl"
    assert isinstance(config.data.validation, tuple)
    validation = [Path(str(entry)).name for entry in config.data.validation]
    assert validation == [f"{role.task}.validation.jsonl"]
    assert task.data == f"{role.task}.test.jsonl"
    examples = list(rows(role.task, "train", 50, seed=1))
    if task.choices:
        assert {row.completion for row in examples} == set(task.choices)
    else:
        assert not any(stop in row.completion for row in examples for stop in task.stop)


def report(ci_low: float | None) -> dict[str, Any]:
    def row(value: float | None, **more: Any) -> dict[str, Any]:
        return {"method": "lora", "metrics": {"bleu": {"value": value}}, "gains": {}, **more}

    gains = {"bleu": {"ci_low": ci_low}, "chrf": {"ci_low": 9.0}}
    return {
        "tasks": {
            "rewriting": {
                "primary_metric": "bleu",
                "rows": {
                    "base": row(10.00004),
                    "base_3shot": row(None),
                    "trivial": row(30.0),
                    "mine": row(40.0, gains=gains),
                },
            }
        }
    }


def test_summary_is_the_agreed_one() -> None:
    assert summarize(report(5.5), {"mine": "rewriting"}) == {
        "mine": {
            "method": "lora",
            "task": "rewriting",
            "metric": "bleu",
            "base": 10.0,
            "base_3shot": None,
            "trivial": 30.0,
            "adapter": 40.0,
            "ci_low": 5.5,
        }
    }


@pytest.mark.parametrize(("ci_low", "falls_short"), [(5.5, 0), (0.0, 1), (-1.0, 1), (None, 1)])
def test_an_adapter_without_a_shown_gain_falls_short(
    ci_low: float | None, falls_short: int
) -> None:
    lines = shortfalls(summarize(report(ci_low), {"mine": "rewriting"}))
    assert len(lines) == falls_short
    assert all(line.startswith("mine does not beat") for line in lines)


def test_a_failing_child_is_named_with_its_command() -> None:
    command = python("demo.tasks", "--task", "review_label", "--num", "0", "--out", "a b")
    with pytest.raises(ChildError, match=r"making data failed with exit code 2: python -m .*'a b'"):
        processes.run(command, "making data")


def test_a_failing_child_with_a_log_tells_its_cause_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys; print('started'); sys.exit('no room')"]
    with pytest.raises(ChildError) as caught:
        processes.run(command, "scoring", log)
    assert str(caught.value) == f"scoring failed: no room (exit code 1; see {log})"
    assert log.read_text().splitlines()[0].startswith("python -c 'import sys; ")
    silent = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(ChildError, match=r"^scoring failed: it said nothing \(exit code 3; "):
        processes.run(silent, "scoring", log)


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    command = [sys.executable, "-c", f"{deaf}; print(flush=True); time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processes.stop(child) == -signal.SIGKILL
    assert processes.stop(child) == -signal.SIGKILL


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildError, match=r"did not start \(exit code 2\): .*nowhere"),
        processes.server(["--base", str(tmp_path / "nowhere")], tmp_path),
    ):
        pytest.fail("it started")


def test_a_server_ends_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    base = make_base(tmp_path / "tiny")
    addresses = []

    def interrupted() -> None:
        with processes.server(["--base", str(base)], tmp_path) as server:
            addresses.append(server.address)
            with Client(server.address) as client:
                assert client.model_info().quantization == "nf4"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    host, port = addresses[0].rsplit(":", 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


@pytest.fixture
def folder_only(tmp_path: Path) -> str:
    """Enough of a model directory to be taken for one."""
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--base", "nowhere"], "--base nowhere is not a model directory"),
        (["--out", "Makefile"], "--out Makefile is not an empty directory"),
        (["--out", "demo"], "--out demo is not an empty directory"),
    ],
)
def test_wrong_folders_are_refused(
    arguments: list[str],
    expected: str,
    folder_only: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["--base", folder_only, *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"demo: {expected}")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts an outcome in the place of the demo's long part: a result, or what it raises."""

    def put(outcome: Any) -> None:
        def play(*_: object) -> Any:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr("demo.__main__._play", play)

    before = signal.getsignal(signal.SIGTERM)
    yield put
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("ci_low", [5.5, -1.0])
def test_verdict_and_last_line(
    ci_low: float,
    folder_only: str,
    played: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {"adapters": summarize(report(ci_low), {"mine": "rewriting"}), "wall_s": 1.0}
    played(result)
    assert main(["--base", folder_only]) == (0 if ci_low > 0 else 1)
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == result
    assert ("demo: mine does not beat" in captured.err) == (ci_low <= 0)


def test_a_failure_says_where_the_logs_are(
    folder_only: str, played: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    played(ChildError("training mine failed"))
    assert main(["--base", folder_only]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "demo: training mine failed"
    kept = Path(second.rsplit(" ", 1)[1])
    assert kept.is_dir()
    kept.rmdir()


def test_sigterm_ends_it_and_removes_its_folder(folder_only: str, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        python("demo", "--base", folder_only),
        cwd=ROOT,
        env={**environment(), "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(temporary.glob("*/data")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "demo: terminated" in errors
    assert list(temporary.iterdir()) == []
