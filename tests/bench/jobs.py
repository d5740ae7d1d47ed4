"""Memory of several adapters trained at once over one base, against each trained alone.

Random weights of a SmolLM-135M's shape in NF4, held dequantized as the trainer does on CPU. Every
run is a process of its own, `python -m trainer train`; its peak is the largest resident memory that
the system saw. Progress goes to standard error, a table to standard output, and one JSON object as
its last line.
"""

import argparse
import datetime
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.bench.machine import cpu_model
from tests.bench.report import markdown
from tests.bench.shape import FULL, TINY, Shape, make_base

_MARKS = re.compile(r"(<!-- measured jobs: .*? -->\n).*?(<!-- end of measured jobs -->)", re.DOTALL)
JOBS: dict[str, dict[str, Any]] = {
    "lora16": {"method": {"type": "lora", "rank": 16}},
    "rslora8": {"method": {"type": "rslora", "rank": 8}, "seed": 1},
    "prompt": {"method": {"type": "prompt_tuning", "num_virtual_tokens": 20}},
    "ia3": {"method": {"type": "ia3"}, "optimiser": {"algorithm": "sgd", "learning_rate": 0.01}},
}
ROOM = 0.1
"""Share by which the peak may be above the base, the jobs' state and what one run needs besides."""
TIMEOUT_S = 1200


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the page if asked; 1 if the peak is beyond the bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.jobs", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny base: does it work?")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the numbers into a page")
    parser.add_argument("--no-hold", action="store_true", help="NF4 weights stay packed")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), TINY if options.quick else FULL, hold=not options.no_hold)
    found["command"] = shlex.join(["python", "-m", "tests.bench.jobs", *sys.argv[1:]])
    for line in report(found):
        print(line)
    if options.write is not None:
        write_page(options.write, found)
    print(json.dumps(found))
    return 0 if found["peak_bytes"] <= found["bound_bytes"] else 1


def measure(folder: Path, shape: Shape, *, hold: bool) -> dict[str, Any]:
    """Trains every job alone, then all together, and compares memory and content hashes."""
    make_base(folder / "base", shape)
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = [
        {"input": "".join(draw.choices(letters, k=40)), "completion": draw.choice(letters) * 8}
        for _ in range(20)
    ]
    data = folder / "train.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    shared: dict[str, Any] = {
        "base": str(folder / "base"),
        "data": {"train": str(data), "validation": 0.2},
        "optimiser": {"batch_size": 4, "max_steps": 2},
        "hold_dequantized": hold,
        "num_threads": 1,
    }
    alone = {}
    for name, own in JOBS.items():
        merged = {**shared, **own, "name": name}
        merged["optimiser"] = {**shared["optimiser"], **own.get("optimiser", {})}
        alone[name] = _train(folder, name, merged)
    jobs = [{"name": name, **own} for name, own in JOBS.items()]
    together = _train(folder, "all", {**shared, "jobs": jobs})
    memory = together["memory"]
    state = {job["name"]: job["state_bytes"] for job in together["jobs"]}
    peaks = {name: summary["memory"]["peak_bytes"] for name, summary in alone.items()}
    base = memory["base_bytes"]
    # Libraries, and what one step, loading or export needs: of one run at a time.
    besides = max(peaks[name] - base - state[name] for name in JOBS)
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "shape": f"hidden {shape.hidden}, {shape.layers} layers, vocabulary {shape.vocab}",
        "held": hold,
        "base_bytes": base,
        "state_bytes": state,
        "alone_peak_bytes": peaks,
        "besides_bytes": besides,
        "peak_bytes": memory["peak_bytes"],
        "bound_bytes": int((1 + ROOM) * (base + sum(state.values()) + besides)),
        "saved_bytes": memory["saved_bytes"],
        "equal": [
            alone[job["name"]]["jobs"][0]["content_hash"] == job["content_hash"]
            for job in together["jobs"]
        ],
    }


def _train(folder: Path, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run in a process of its own."""
    directory = folder / "runs" / name
    path = folder / f"{name}.yaml"
    content = {**config, "output": {"dir": str(directory)}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    print(f"training {name}", file=sys.stderr)
    subprocess.run(
        [sys.executable, "-m", "trainer", "train", str(path), "--quiet"],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
    )
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return summary


def report(found: Mapping[str, Any]) -> list[str]:
    """The numbers as lines of a page."""
    sum_alone = sum(found["alone_peak_bytes"].values())
    held = "held dequantized beside NF4" if found["held"] else "in NF4"
    jobs = [
        (
            name,
            _mb(found["state_bytes"][name]),
            _mb(peak),
            "yes" if equal else "NO",
        )
        for (name, peak), equal in zip(
            found["alone_peak_bytes"].items(), found["equal"], strict=True
        )
    ]
    return [
        *markdown(("job", "its own state", "peak alone", "same content hash together"), jobs),
        "",
        f"The base, once, {held}: {_mb(found['base_bytes'])}. What a run needs besides (libraries, "
        f"one step, loading): {_mb(found['besides_bytes'])}.",
        f"Peak of all together: {_mb(found['peak_bytes'])}, "
        f"{found['peak_bytes'] / (found['bound_bytes'] / (1 + ROOM)):.3f} of base, states and that "
        f"({_mb(int(found['bound_bytes'] / (1 + ROOM)))}); four processes would take "
        f"{_mb(sum_alone)}, three bases of which ({_mb(found['saved_bytes'])}) are saved.",
    ]


def write_page(page: Path, found: Mapping[str, Any]) -> None:
    """Replaces the measured part of a page."""
    text = page.read_text(encoding="utf-8")
    if not _MARKS.search(text):
        raise ValueError(f"{page}: has no part between marks that begin `<!-- measured jobs:`")
    head = (
        f"Measured {found['date']} with `{found['command']}`: {found['shape']}, 1 thread, "
        f"{found['cpu']}."
    )
    part = "\n".join((head, "", *report(found)))
    page.write_text(_MARKS.sub(lambda m: m[1] + part + "\n" + m[2], text), encoding="utf-8")


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
