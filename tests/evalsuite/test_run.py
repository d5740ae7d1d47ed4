"""Whole runs through the command line, against a scripted server in this process."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalsuite.__main__ import main

ALL = ("base", "gold", "half")
FILES = ("report.json", "samples.jsonl")


@pytest.fixture
def arguments(
    server: Any, make_tasks: Callable[..., Any], tmp_path: Path
) -> Callable[..., list[str]]:
    files = make_tasks()
    server.gold = files.gold

    def build(out: str = "out", *extra: str, adapters: tuple[str, ...] = ALL) -> list[str]:
        command = ["run", "--server", server.address, "--adapters", ",".join(adapters)]
        command += ["--tasks", f"{files.rewrite},{files.mood}", "--out", str(tmp_path / out)]
        return [*command, *extra]

    return build


def read_report(tmp_path: Path, out: str = "out") -> Any:
    return json.loads((tmp_path / out / "report.json").read_text())


def value(report: Any, task: str, row: str, metric: str) -> float:
    return report["tasks"][task]["rows"][row]["metrics"][metric]["value"]


def test_report(arguments: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments()) == 0
    report = read_report(tmp_path)
    rows = report["tasks"]["rewrite"]["rows"]
    assert list(rows) == ["base", "base_3shot", "trivial", "gold", "half"]
    lines = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    samples = [sample for sample in map(json.loads, lines) if sample["task"] == "rewrite"]
    lucky = [s["scores"]["exact_match"] for s in samples if s["row"] == "half"]
    share = sum(lucky) / len(lucky)
    assert 0 < share < 1
    for metric, best in (("exact_match", 1.0), ("rougeL", 1.0), ("bleu", 100.0)):
        assert value(report, "rewrite", "gold", metric) == pytest.approx(best)
        assert value(report, "rewrite", "base", metric) < 0.2 * best
    assert value(report, "rewrite", "half", "exact_match") == share
    assert value(report, "rewrite", "base_3shot", "exact_match") == share
    assert value(report, "mood", "gold", "accuracy") == 1.0
    assert value(report, "mood", "base", "accuracy") == 0.0
    assert value(report, "mood", "trivial", "accuracy") == pytest.approx(8 / 12)
    gain = rows["gold"]["gains"]["exact_match"]
    assert gain["over"] == "base_3shot"
    assert gain["diff"] == pytest.approx(1 - share)
    assert 0 < gain["ci_low"] < gain["diff"] < gain["ci_high"]
    shown = capsys.readouterr().out
    assert "base_3shot" in shown
    assert f"{share:.3f}" in shown


def test_every_number_is_signed(arguments: Any, tmp_path: Path) -> None:
    assert main(arguments()) == 0
    report = read_report(tmp_path)
    signatures = [
        number["signature"]
        for task in report["tasks"].values()
        for row in task["rows"].values()
        for number in row["metrics"].values()
    ]
    assert len(set(signatures)) == len(signatures)
    half = report["tasks"]["rewrite"]["rows"]["half"]["metrics"]["bleu"]["signature"]
    assert half.startswith("task:rewrite@1|data:")
    for part in ("|n:12|", "|adapter:half@bbbb2222|", "|base:ffffffffffff|", "|quant:nf4|"):
        assert part in half
    assert half.endswith("|bleu|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0")


def test_adapters_get_the_input_and_the_base_gets_a_prompt(arguments: Any, server: Any) -> None:
    assert main(arguments()) == 0
    for request in server.requests:
        form = request.input.WhichOneof("form")
        if request.adapter:
            assert request.adapter in {"gold@aaaa1111", "half@bbbb2222"}
            assert form == "text"
            assert request.input.text in server.gold
        else:
            assert form == "raw_prompt"
            assert request.input.raw_prompt.startswith(("Rewrite: ", "Text: "))
            assert request.input.raw_prompt.endswith(("\nOut:", "\nMood:"))
            assert request.input.raw_prompt.count("\n\n") in {0, 3}


def test_rows_are_in_flight_together(arguments: Any, server: Any) -> None:
    server.delay_s = 0.02
    assert main(arguments("out", "--concurrency", "8")) == 0
    assert frozenset(ALL) in server.seen_together


@pytest.mark.parametrize("concurrency", ["1", "64"])
def test_concurrency_does_not_change_files(
    arguments: Any, tmp_path: Path, concurrency: str
) -> None:
    assert main(arguments("a")) == 0
    assert main(arguments("b", "--concurrency", concurrency)) == 0
    assert_same_files(tmp_path, "a", "b")


def assert_same_files(tmp_path: Path, a: str, b: str) -> None:
    for name in FILES:
        assert (tmp_path / a / name).read_bytes() == (tmp_path / b / name).read_bytes()


def test_failure_half_way_resumes(
    arguments: Any, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("whole")) == 0
    num_requests = len(server.requests)
    server.requests.clear()
    server.fail_after = num_requests // 2
    assert main(arguments("broken")) == 2
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "broken" / "report.json").exists()
    num_kept = len((tmp_path / "broken" / "log.jsonl").read_bytes().splitlines())
    assert 0 < num_kept <= num_requests // 2
    # What was in flight when the run gave up still reaches the server.
    time.sleep(0.5)
    server.requests.clear()
    server.fail_after = None
    assert main(arguments("broken")) == 0
    assert len(server.requests) == num_requests - num_kept
    assert_same_files(tmp_path, "whole", "broken")


@pytest.mark.parametrize(
    ("sent", "exit_code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_killed_process_resumes(
    arguments: Any, server: Any, tmp_path: Path, sent: signal.Signals, exit_code: int
) -> None:
    assert main(arguments("whole")) == 0
    num_requests = len(server.requests)
    server.delay_s = 0.1
    command = [sys.executable, "-m", "evalsuite", *arguments("killed", "--concurrency", "2")]
    log = tmp_path / "killed" / "log.jsonl"
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not log.exists() or log.read_bytes().count(b"\n") < 5:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(sent)
    assert child.wait() == exit_code
    with log.open("ab") as file:
        file.write(b'{"key": "a line torn by the k')
    num_kept = log.read_bytes().count(b"\n")
    server.delay_s = 0.0
    server.requests.clear()
    assert main(arguments("killed")) == 0
    assert len(server.requests) == num_requests - num_kept
    assert_same_files(tmp_path, "whole", "killed")


def test_finished_run_asks_nothing_again(arguments: Any, server: Any, tmp_path: Path) -> None:
    assert main(arguments()) == 0
    before = (tmp_path / "out" / "report.json").read_bytes()
    server.requests.clear()
    assert main(arguments()) == 0
    assert server.requests == []
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_new_adapter_version_is_asked_again(
    arguments: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(adapters=("half",))) == 0
    server.requests.clear()
    versions = sys.modules[type(server).__module__].VERSIONS
    monkeypatch.setitem(versions, "half", "cccc3333")
    assert main(arguments(adapters=("half",))) == 0
    assert {request.adapter for request in server.requests} == {"half@cccc3333"}
    assert len(server.requests) == 24


def test_shots_that_do_not_fit_are_dropped(arguments: Any, server: Any, tmp_path: Path) -> None:
    # A question takes 3 words and an example 11; two examples and 8 new tokens fit, three do not.
    server.max_context_tokens = 3 + 2 * 11 + 8
    assert main(arguments(adapters=("base",))) == 0
    row = read_report(tmp_path)["tasks"]["rewrite"]["rows"]["base_3shot"]
    assert row["shots"] == 3
    assert row["mean_shots"] == 2.0
    assert row["num_unscored"] == 0


def test_refused_samples_are_unscored_not_zero(arguments: Any, server: Any, tmp_path: Path) -> None:
    path = tmp_path / "rewrite.test.jsonl"
    long = {"input": "rewrite-test-0. " + "very " * 60 + "long", "completion": "x"}
    path.write_text(json.dumps(long) + "\n" + path.read_text())
    server.max_context_tokens = 50
    assert main(arguments(adapters=("gold",))) == 0
    row = read_report(tmp_path)["tasks"]["rewrite"]["rows"]["gold"]
    assert (row["num_scored"], row["num_unscored"]) == (12, 1)
    assert row["first_refusal"] == "prompt has 62 tokens, at most 50 fit"
    assert row["metrics"]["exact_match"]["value"] == 1.0
    assert row["gains"]["exact_match"]["num_pairs"] == 12


def test_a_row_with_no_answer_at_all_is_an_error(
    arguments: Any, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.max_context_tokens = 0
    assert main(arguments(adapters=("gold",))) == 2
    assert "the server refused every request: prompt has" in capsys.readouterr().err


def test_json_and_limit(arguments: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("out", "--json", "--limit", "4", "--shots", "0")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_report(tmp_path)
    assert printed["tasks"]["mood"]["num_samples"] == 4
    assert list(printed["tasks"]["mood"]["rows"]) == ["base", "trivial", "gold", "half"]


def test_rescore_needs_no_server(
    arguments: Any, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.max_context_tokens = 3 + 2 * 11 + 8
    assert main(arguments()) == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    for name in FILES:
        (tmp_path / "out" / name).unlink()
    server.requests.clear()
    num_tokenized = server.num_tokenized
    assert main(["rescore", "--out", str(tmp_path / "out")]) == 0
    assert (server.requests, server.num_tokenized) == ([], num_tokenized)
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    capsys.readouterr()
    task = tmp_path / "rewrite.yaml"
    task.write_text(task.read_text().replace("exact_match, rougeL", "chrf"))
    command = ["rescore", "--out", str(tmp_path / "out"), "--tasks", str(task), "--json"]
    assert main(command) == 0
    rescored = json.loads(capsys.readouterr().out)["tasks"]
    assert list(rescored) == ["rewrite"]
    assert list(rescored["rewrite"]["rows"]["gold"]["metrics"]) == ["chrf", "bleu"]


def test_rescore_of_changed_prompts_is_refused(
    arguments: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments()) == 0
    task = tmp_path / "rewrite.yaml"
    task.write_text(task.read_text().replace("Rewrite: ", "Say: "))
    assert main(["rescore", "--out", str(tmp_path / "out")]) == 2
    assert "no answer in the log to a request for 'base' beginning" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "{}", "[]", "not JSON", '{"format": 1, "tasks": 3}'])
def test_rescore_without_a_run(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    assert main(["rescore", "--out", str(tmp_path)]) == 2
    expected = "no run to read" if text is None else "not the plan of a run"
    assert expected in capsys.readouterr().err


def test_rescore_of_a_task_not_asked(
    arguments: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments()) == 0
    assert main(["rescore", "--out", str(tmp_path / "out"), "--tasks", "support_summary"]) == 2
    assert "did not ask 'support_summary'" in capsys.readouterr().err


def test_two_servers_share_the_work(
    arguments: Any, server: Any, start_scripted: Callable[[], Any], tmp_path: Path
) -> None:
    other = start_scripted()
    other.gold = server.gold
    server.delay_s = other.delay_s = 0.005
    assert main(arguments("one")) == 0
    num_requests = len(server.requests)
    server.requests.clear()
    command = arguments("two")
    command[2] = f"{server.address},{other.address}"
    assert main(command) == 0
    assert len(server.requests) + len(other.requests) == num_requests
    assert min(len(server.requests), len(other.requests)) > num_requests // 4
    assert_same_files(tmp_path, "one", "two")


def test_a_server_that_dies_leaves_its_work_to_the_other(
    arguments: Any, server: Any, start_scripted: Callable[[], Any], tmp_path: Path
) -> None:
    assert main(arguments("one")) == 0
    dying = start_scripted()
    dying.gold = server.gold
    dying.die_after = 5
    command = arguments("two")
    command[2] = f"{dying.address},{server.address}"
    assert main(command) == 0
    assert_same_files(tmp_path, "one", "two")


def test_a_row_of_another_server(
    arguments: Any, server: Any, start_scripted: Callable[[], Any], tmp_path: Path
) -> None:
    other = start_scripted()
    other.gold = server.gold
    other.fingerprint = "e" * 64
    rows = ("base", "gold", f"full={other.address}/base", f"theirs={other.address}/gold")
    assert main(arguments(adapters=rows)) == 0
    found = read_report(tmp_path)["tasks"]["rewrite"]["rows"]
    assert list(found) == ["base", "base_3shot", "full", "full_3shot", "trivial", "gold", "theirs"]
    signature = found["theirs"]["metrics"]["bleu"]["signature"]
    assert "|base:eeeeeeeeeeee|" in signature
    assert {request.adapter for request in other.requests} == {"", "gold@aaaa1111"}
    assert other.address not in (tmp_path / "out" / "report.json").read_text()


def test_an_adapter_unloaded_half_way(
    arguments: Any, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("whole")) == 0
    server.requests.clear()
    server.unload_after = 20
    assert main(arguments("broken")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no adapter" in line
    assert "answers are kept, the same command continues from there" in line
    server.unload_after = None
    assert main(arguments("broken")) == 0
    assert_same_files(tmp_path, "whole", "broken")


def test_refusals_are_not_asked_again(arguments: Any, server: Any, tmp_path: Path) -> None:
    path = tmp_path / "rewrite.test.jsonl"
    long = {"input": "rewrite-test-0. " + "very " * 60 + "long", "completion": "x"}
    path.write_text(json.dumps(long) + "\n" + path.read_text())
    server.max_context_tokens = 50
    assert main(arguments(adapters=("gold",))) == 0
    server.requests.clear()
    assert main(arguments(adapters=("gold",))) == 0
    assert server.requests == []
    assert read_report(tmp_path)["tasks"]["rewrite"]["rows"]["gold"]["num_unscored"] == 1
