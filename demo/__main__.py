"""The demo: one quantized base, adapters for different tasks, served in one batch, scored.

`python -m demo` runs the whole loop with real parts: data from the project's own generators, the
trainer as a process, one server process, requests for every adapter and the bare base in one batch,
and the eval suite as a process. One adapter is trained while you watch, the others come ready-made
(`python -m demo.adapters` makes them). The last line of its output is one JSON object.

Exit codes: 0 every adapter beats its baselines; 1 one does not, or a part failed; 2 wrong
arguments; 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from demo.mixed import Part, play
from demo.ready import NotReadyError, publish_ready
from demo.roles import BASE, LIVE, QUANTIZATION, ROLES, STORE, TASKS
from demo.summary import shortfalls, summarize, summary_table
from demo.tasks.rows import read_inputs
from demo.training import make_data, train
from understudy import Client, RawPrompt, UnderstudyError, processes
from understudy.artifact import ArtifactError
from understudy.processes import ChildError, Terminated, python


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m demo                      everything, in a temporary directory\n"
        "  python -m demo --out demo-run       keep data, adapters, logs and the report\n"
        "  python -m demo --retrain            train all adapters, take none ready-made\n"
        "  python -m demo --quantization int8  the same with an int8 base",
    )
    parser.add_argument("--out", type=Path, help="keep everything in this new or empty directory")
    parser.add_argument("--base", type=Path, default=BASE, help="base model (default: embedded)")
    parser.add_argument(
        "--quantization", choices=("nf4", "int8", "none"), default=QUANTIZATION, help="default: nf4"
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train every adapter; so it is with another base or quantization",
    )
    parser.add_argument(
        "--num-test", type=_positive, default=200, help="test items a task (default: 200)"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _complaint(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the folders given, if anything."""
    if not (arguments.base / "config.json").is_file():
        return f"--base {arguments.base} is not a model directory: it holds no config.json"
    out = arguments.out
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        return f"--out {out} is not an empty directory; name a new one"
    return None


def _parts(data: Path) -> list[Part]:
    parts = []
    for number, role in enumerate(ROLES):
        # Two adapters for one task get two inputs.
        shown = read_inputs(data / f"{role.task}.test.jsonl", number + 1)[-1]
        parts.append(Part(role.adapter, role.does, role.adapter, shown, shown, schema=role.schema))
    opening = "Once upon a time there was a small"
    parts.append(Part("base", "no adapter", "", opening, RawPrompt(opening)))
    return parts


def _evaluate(address: str, directory: Path, console: Console) -> dict[str, Any]:
    """Asks the base and each task's own adapters; returns and keeps their reports as one."""
    whole: dict[str, Any] = {"tasks": {}}
    folder = directory / "evaluation"
    folder.mkdir()
    for task in TASKS:
        started, out, log = time.monotonic(), folder / task, folder / f"{task}.log"
        names = ["base", *(role.adapter for role in ROLES if role.task == task)]
        command = python("evalsuite", "run", "--server", address, "--adapters", ",".join(names))
        command += ["--tasks", task, "--data-dir", str(directory / "data")]
        command += ["--shots", "0,3", "--out", str(out)]
        processes.run(command, f"the evaluation of {task}", log)
        console.print(f"{task}: {', '.join(names)} in {time.monotonic() - started:.0f} s")
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        whole = {**report, "tasks": {**whole["tasks"], **report["tasks"]}}
    (folder / "report.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return whole


def _play(directory: Path, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    started = time.monotonic()

    def stage(title: str) -> None:
        console.rule(f"[bold]{title}[/]  ({time.monotonic() - started:.0f} s)", align="left")

    base, quantization = arguments.base, arguments.quantization
    is_embedded = base.resolve() == BASE.resolve()
    fits = is_embedded and quantization == QUANTIZATION
    ready = [] if arguments.retrain or not fits else [r.adapter for r in ROLES if r.adapter != LIVE]
    published = publish_ready(STORE, ready, base, directory / "store") if ready else {}
    stage("1. Data from the project's own templates; test wordings never occur in training")
    (directory / "data").mkdir()
    make_data(directory / "data", TASKS, arguments.num_test)
    for role in ROLES:
        if role.adapter not in published:
            stage(f"2. Train {role.adapter}: {role.does}")
            train(role, directory, base, quantization)
    if published:
        console.print("ready-made: " + ", ".join(f"{n}@{v}" for n, v in published.items()))
    stage("3. One server process: one base, every adapter")
    flags = ["--base", str(base), "--quantization", quantization]
    flags += ["--name", "understudy-nano" if is_embedded else base.name]
    flags += ["--store", str(directory / "store")]
    with processes.server(flags, directory) as server:
        with Client(server.address) as client:
            info = client.model_info()
            console.print(
                f"{info.base_model}: {info.num_parameters / 1e6:.1f} M parameters, "
                f"{info.quantization} ({info.weight_form}), {info.resident_bytes / 1e6:.1f} MB "
                f"on {info.device}; gRPC on {server.address}, metrics on {server.metrics}"
            )
            for role in ROLES:
                loaded = client.adapters.load(role.adapter)
                adapter = loaded.adapter
                console.print(
                    f"loaded {adapter.name}@{adapter.version}: {adapter.method}, "
                    f"{adapter.size_bytes / 1e3:.0f} kB in {loaded.load_s * 1e3:.0f} ms"
                )
        stage(f"4. {len(ROLES)} roles and the bare base in one batch")
        batch_size = asyncio.run(play(server.address, _parts(directory / "data"), console))
        console.print(f"up to {batch_size} requests shared a step")
        stage("5. Scores through the server")
        report = _evaluate(server.address, directory, console)
    return {
        "base_model": info.base_model,
        "quantization": info.quantization,
        "adapters": summarize(report, {role.adapter: role.task for role in ROLES}),
        "ready_made": sorted(published),
        "mixed_batch_size": batch_size,
        "wall_s": round(time.monotonic() - started, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if complaint := _complaint(arguments):
        print(f"demo: {complaint}", file=sys.stderr)
        return 2
    console = Console()
    keep = arguments.out is not None
    directory = arguments.out or Path(tempfile.mkdtemp(prefix="understudy-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, processes.terminate)
    try:
        result = _play(directory, arguments, console)
    except (ArtifactError, ChildError, NotReadyError, UnderstudyError, OSError) as error:
        keep = True
        print(f"demo: {error}", file=sys.stderr)
        print(f"demo: what there is so far is kept in {directory}", file=sys.stderr)
        return 1
    except Terminated:
        print("demo: terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    problems = shortfalls(result["adapters"])
    for problem in problems:
        print(f"demo: {problem}", file=sys.stderr)
    console.print(summary_table(result["adapters"]))
    if not problems:
        console.print("Every adapter beats the base, the base with three shots, a trivial answer.")
    print(json.dumps(result))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
