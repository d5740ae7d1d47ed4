"""The same scores however they are asked: batch 1 and 64, concurrency 1 and 64, killed and resumed.

A real server on the tiny base, in deterministic mode.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Artifacts
from tests.process import ServerProcess, environment
from tests.tiny import WORDS

NUM_SAMPLES = 24


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    words = WORDS.replace(",", "").split()
    for name in ("test", "train"):
        rows = [
            {"input": " ".join(words[i : i + 5]), "completion": f" {words[i % 7]}"}
            for i in range(NUM_SAMPLES)
        ]
        if name == "train":
            rows = [{**row, "input": f"again {row['input']}"} for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = 'data: test.jsonl\ntrain: train.jsonl\ntemplate: "{{ input }}"\n'
    (tmp_path / "write.yaml").write_text(
        f"name: write\n{common}metrics: [chrf, exact_match]\nmax_tokens: 12\n"
    )
    choices = json.dumps([f" {word}" for word in dict.fromkeys(words[:7])])
    (tmp_path / "pick.yaml").write_text(
        f"name: pick\nmode: choice\n{common}metrics: [accuracy]\nchoices: {choices}\n"
    )
    return f"{tmp_path / 'write.yaml'},{tmp_path / 'pick.yaml'}"


def command(address: str, tasks: str, out: Path, concurrency: int) -> list[str]:
    words = [sys.executable, "-m", "evalsuite", "run", "--server", address, "--tasks", tasks]
    words += ["--adapters", "base,pirate,polite", "--out", str(out)]
    return [*words, "--concurrency", str(concurrency), "--json"]


def test_identical_scores(
    start_server: Callable[..., ServerProcess],
    base: Path,
    artifacts: Artifacts,
    tasks: str,
    tmp_path: Path,
) -> None:
    def server(batch_size: int) -> str:
        flags = ["--base", base, "--quantization", "nf4", "--store", artifacts.store]
        return start_server(*flags, "--deterministic", "--max-batch-size", batch_size).address

    alone, together = server(1), server(64)
    for name, address, concurrency in (("1", alone, 1), ("64", together, 64)):
        subprocess.run(
            command(address, tasks, tmp_path / name, concurrency),
            env=environment(),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    log = tmp_path / "killed" / "log.jsonl"
    with subprocess.Popen(
        command(alone, tasks, tmp_path / "killed", 1), env=environment(), stdout=subprocess.DEVNULL
    ) as child:
        while not log.exists() or log.read_bytes().count(b"\n") < 40:
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    num_kept = log.read_bytes().count(b"\n")
    assert num_kept < 4 * 2 * NUM_SAMPLES
    subprocess.run(
        command(together, tasks, tmp_path / "killed", 64),
        env=environment(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    samples = {name: (tmp_path / name / "samples.jsonl").read_bytes() for name in ("1", "64")}
    assert samples["1"] == samples["64"] == (tmp_path / "killed" / "samples.jsonl").read_bytes()
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("1", "64")]
    assert reports[0]["tasks"] == reports[1]["tasks"]
    texts = {json.loads(line).get("output") for line in samples["1"].splitlines()}
    assert len(texts) > 10
