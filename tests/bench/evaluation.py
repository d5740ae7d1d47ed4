"""What the eval suite itself costs: completions a second of its computing.

The suite asks, logs, scores and writes; a server of its own process answers everything at once with
the same words. Computing time is measured, which other work on the machine does not lengthen much.
Two runs of different length are compared, so that what does not depend on the number of samples
(imports, bootstraps' start, the report) is left out.

One JSON object is the last line of standard output.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

from evalsuite.__main__ import main as evaluate
from tests.evalsuite import canned

_FEW = 500


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.evaluation", description=__doc__)
    add = parser.add_argument
    add("--samples", type=int, default=6000, metavar="N", help="that are timed (default: 6000)")
    add("--rounds", type=int, default=3, metavar="N", help="of both runs (default: 3)")
    options = parser.parse_args(argv)
    command = [sys.executable, "-m", canned.__name__]
    rates = []
    with (
        tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        address = f"127.0.0.1:{server.stdout.readline().strip()}"
        try:
            for number in range(options.rounds):
                few = _run(Path(folder) / f"few{number}", address, _FEW)
                many = _run(Path(folder) / f"many{number}", address, _FEW + options.samples)
                rates.append(options.samples / (many - few))
                print(f"round {number + 1}: {rates[-1]:.0f} completions/s", file=sys.stderr)
        finally:
            server.kill()
    found = {
        "completions_per_s": round(median(rates)),
        "completions_per_s_rounds": [round(rate) for rate in rates],
        "samples": options.samples,
    }
    print(json.dumps(found))
    return 0


def _run(folder: Path, address: str, num: int) -> float:
    """Runs a task of `num` samples; the seconds of computing that it took."""
    folder.mkdir()
    rows = [
        {"input": f"number {i}, with some more text behind it", "completion": canned.TEXT}
        for i in range(num)
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.yaml").write_text(
        'name: t\ndata: t.jsonl\ntemplate: "{{ input }}"\nmetrics: [exact_match]\n'
    )
    command = ["run", "--server", address, "--adapters", "base", "--tasks", str(folder / "t.yaml")]
    before = time.process_time()
    with redirect_stdout(StringIO()):
        code = evaluate([*command, "--shots", "0", "--out", str(folder / "out"), "--json"])
    seconds = time.process_time() - before
    report = json.loads((folder / "out" / "report.json").read_text())
    if code or report["tasks"]["t"]["rows"]["base"]["metrics"]["exact_match"]["value"] != 1.0:
        raise RuntimeError(f"the run of {num} samples ended with {code}, or scored other than 1")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
