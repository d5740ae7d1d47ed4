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


def test_memory_does_not_grow_with_the_task(canned_address: str, tmp_path: Path) -> None:
    """Four thousand samples of 8 kB more: 32 MB more to read, and as much again to log."""
    peaks = []
    for num in (2000, 6000):
        data = tmp_path / f"{num}.jsonl"
        with data.open("w") as file:
            for i in range(num):
                row = {"input": f"{i} " + "word " * 1600, "completion": canned.TEXT}
                file.write(json.dumps(row) + "\n")
        task = tmp_path / f"{num}.yaml"
        task.write_text(
            f'name: t{num}\ndata: {data.name}\ntemplate: "{{{{ input }}}}"\n'
            "metrics: [exact_match]\n"
        )
        program = (
            "import resource, sys; from evalsuite.__main__ import main; "
            "from evalsuite.spool import SampleSpool; "
            "SampleSpool.__init__.__defaults__ = (100,); code = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        command = [sys.executable, "-c", program, "run", "--server", canned_address]
        command += ["--adapters", "base", "--tasks", str(task), "--shots", "0"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / f"out{num}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    assert peaks[1] - peaks[0] < 12e6
