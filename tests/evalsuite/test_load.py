"""Load: what is sent and when, and what is made of the answers."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from evalsuite.__main__ import main
from evalsuite.load import LoadConfig, LoadResult, Measured, draw, drive, summary
from tests.evalsuite.canned import STREAM_S


def config(
    rate: float | None = None,
    concurrency: int = 1,
    num_requests: int = 30,
    adapters: tuple[str, ...] = ("a", "b", "c"),
    zipf: float = 0.0,
    seed: int = 0,
) -> LoadConfig:
    return LoadConfig(adapters, ("one", "two"), num_requests, rate, concurrency, zipf, 8, seed)


def test_mixes() -> None:
    uniform = Counter(one.adapter for one in draw(config(num_requests=6000)))
    assert all(1850 <= uniform[name] <= 2150 for name in "abc")
    skewed = Counter(one.adapter for one in draw(config(num_requests=6000, zipf=1.0)))
    # Shares 6/11, 3/11, 2/11.
    for name, share in zip("abc", (6 / 11, 3 / 11, 2 / 11), strict=True):
        assert skewed[name] / 6000 == pytest.approx(share, abs=0.03)


def test_arrivals_are_a_poisson_process() -> None:
    due = [one.due_s for one in draw(config(rate=50.0, num_requests=4000))]
    gaps = [b - a for a, b in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert due[0] == 0
    assert mean == pytest.approx(1 / 50, rel=0.06)
    assert variance == pytest.approx(1 / 50**2, rel=0.15)


def test_the_seed_decides() -> None:
    assert draw(config(rate=5.0)) == draw(config(rate=5.0))
    assert draw(config(rate=5.0)) != draw(config(rate=5.0, seed=1))


def test_summary_by_hand() -> None:
    requests = [Measured("a", 0.0, 0.1 * i, 0.2 * i, 3, i) for i in range(1, 6)]
    failed = Measured("b", 0.0, None, 1.0, error="NOT_FOUND: no adapter 'b'")
    found = summary(LoadResult(config(adapters=("a", "b")), (*requests, failed), 2.0))
    assert (found["num_requests"], found["num_failed"]) == (6, 1)
    assert found["failures"] == {"NOT_FOUND": 1}
    assert (found["requests_per_s"], found["tokens_per_s"]) == (2.5, 7.5)
    assert found["max_batch_size"] == 5
    assert found["first_token_ms"]["p50"] == pytest.approx(300.0)
    assert found["latency_ms"]["p90"] == pytest.approx(920.0)
    assert found["adapters"]["b"]["latency_ms"]["p99"] is None
    counts = [(row["num_requests"], row["num_failed"]) for row in found["adapters"].values()]
    assert counts == [(5, 0), (1, 1)]


async def test_waiting_counts_where_requests_come_faster_than_answers(canned_address: str) -> None:
    """At twice what the server can do, request i waits for i answers; clients who wait their turn
    would never have seen it."""
    crowded = summary(await drive(canned_address, config(rate=2 / STREAM_S, num_requests=60)))
    polite = summary(await drive(canned_address, config(num_requests=60)))
    assert polite["latency_ms"]["p50"] < 4 * 1000 * STREAM_S
    assert crowded["latency_ms"]["p90"] > 60 / 2 * 0.6 * 1000 * STREAM_S
    assert crowded["latency_ms"]["p90"] > 3 * polite["latency_ms"]["p90"]
    assert crowded["num_failed"] == polite["num_failed"] == 0


def test_verb(canned_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inputs.txt").write_text("one\n\ntwo\n")
    command = ["load", "--server", canned_address, "--prompts", str(tmp_path / "inputs.txt")]
    command += ["--adapters", "base,gone", "--requests", "20", "--concurrency", "4"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["num_requests"] == 20
    assert found["failures"] == {"NOT_FOUND": found["num_failed"]}
    assert 0 < found["num_failed"] < 20
    assert found["adapters"]["base"]["num_requests"] == 20 - found["num_failed"]
    assert "failed" in lines[-2]
    assert main([*command, "--adapters", "gone"]) == 1


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.txt", "no inputs"),
        ("\n \n", "a.txt", "no inputs"),
        ('{"text": "x"}\n', "a.jsonl", "every row needs a text in the column 'input'"),
        ("not JSON\n", "a.jsonl", "not JSON"),
        (None, "a.txt", "cannot be read"),
    ],
)
def test_wrong_prompts(
    tmp_path: Path,
    content: str | None,
    name: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    command = ["load", "--server", "localhost:1", "--rate", "1"]
    assert main([*command, "--prompts", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_prompts_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    command = ["load", "--server", "localhost:1", "--rate", "1"]
    assert main([*command, "--prompts", str(tmp_path / "a.txt")]) == 2
    assert "not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rate", "0"], "--rate: '0' is not a number above 0"),
        (["--rate", "1", "--concurrency", "2"], "not allowed with argument --rate"),
        ([], "one of the arguments --rate --concurrency is required"),
        (["--rate", "1", "--mix", "zipf"], "'zipf' is neither uniform nor zipf:S"),
        (["--rate", "1", "--mix", "zipf:x"], "'x' is not a number of at least 0"),
        (["--rate", "1", "--requests", "0"], "--requests: '0' is not a whole number"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["load", "--server", "localhost:1", "--prompts", "x.txt", *flags])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    command = ["load", "--server", "localhost:1", "--rate", "1"]
    assert main([*command, "--prompts", str(tmp_path / "a.txt")]) == 2
    assert "no server answers at localhost:1" in capsys.readouterr().err
