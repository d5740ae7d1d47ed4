"""Samples of a task of any size: equal to a tuple of them, in memory or not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalsuite.errors import EvalError
from evalsuite.spool import SampleSpool
from evalsuite.types import Sample
from tests.evalsuite import canned


def samples(num: int) -> list[Sample]:
    return [
        Sample(str(i), f"input é\u2028 {i}", (f"ref {i}",), group=f"g{i % 3}", fields={"a": str(i)})
        for i in range(num)
    ]


@pytest.mark.parametrize("in_memory", [0, 3, 100])
def test_a_spool_is_a_sequence(in_memory: int) -> None:
    expected = samples(20)
    spool = SampleSpool(in_memory)
    for number, sample in enumerate(expected):
        spool.append(sample)
        # Reading between appends does not disturb them.
        assert spool[number // 2] == expected[number // 2]
    assert len(spool) == 20
    assert list(spool) == expected
    assert [spool[i].fields for i in range(20)] == [sample.fields for sample in expected]
    assert list(reversed(spool)) == expected[::-1]
    assert spool[-1] == expected[-1]
    assert list(spool[2:17:4]) == expected[2:17:4]
    with pytest.raises(IndexError):
        spool[20]


def test_a_full_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, offset: int) -> None:
            pass

        def close(self) -> None:
            pass

        def write(self, record: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(EvalError, match="no room for the task's samples: No space left on device"):
        SampleSpool(0).append(samples(1)[0])


def peak_bytes(folder: Path, address: str, num: int, text: str, *, has_train: bool) -> int:
    """Memory of a process that evaluates a task of `num` samples, and as many training rows."""
    lines = (
        json.dumps({"input": f"{i} {text}", "completion": canned.TEXT}) + "\n" for i in range(num)
    )
    with (folder / f"{num}.jsonl").open("w") as file:
        file.writelines(lines)
    task = f'name: t{num}\ndata: {num}.jsonl\ntemplate: "{{{{ input }}}}"\nmetrics: [exact_match]\n'
    if has_train:
        task += f"train: {num}.train.jsonl\n"
        with (folder / f"{num}.train.jsonl").open("w") as file:
            for i in range(num):
                row = {"input": f"train {i} {text}", "completion": f"{canned.TEXT} {i}"}
                file.write(json.dumps(row) + "\n")
    (folder / f"{num}.yaml").write_text(task)
    program = (
        "import resource, sys; from evalsuite.__main__ import main; "
        "from evalsuite.spool import SampleSpool; "
        "SampleSpool.__init__.__defaults__ = (100, ()); code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "run", "--server", address, "--adapters", "base"]
    command += ["--tasks", str(folder / f"{num}.yaml"), "--shots", "0"]
    done = subprocess.run(
        [*command, "--out", str(folder / f"out{num}")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1]) * 1024


@pytest.mark.parametrize("has_train", [False, True])
def test_memory_does_not_grow_with_the_texts(
    canned_address: str, tmp_path: Path, has_train: bool
) -> None:
    """Four thousand samples of 8 kB more: 32 MB more to read, and as much again to log; and with
    training rows 32 MB more."""
    few, many = (
        peak_bytes(tmp_path, canned_address, num, "word " * 1600, has_train=has_train)
        for num in (2000, 6000)
    )
    assert many - few < 12e6
