"""The demo: one quantized base, adapters trained for different tasks, served in one batch, scored.

`python -m demo` runs the whole loop with real parts: data from the project's own generators, the
trainer as a process per adapter, one server process, requests for every adapter and the bare base
in one batch, and the eval suite as a process. The last line of its output is one JSON object.

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
from demo.roles import BASE, CONFIGS, ROLES, Role
from demo.summary import shortfalls, summarize
from demo.tasks.rows import read_inputs
from understudy import Client, RawPrompt, UnderstudyError, processes
from understudy.processes import ChildError, Terminated, python

NUM_VALIDATION = 64


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m demo                      everything, in a temporary directory\n"
        "  python -m demo --out demo-run       keep data, adapters, logs and the report\n"
        "  python -m demo --quantization int8  the same with an int8 base",
    )
    parser.add_argument("--out", type=Path, help="keep everything in this new or empty directory")
    parser.add_argument("--base", type=Path, default=BASE, help="base model (default: embedded)")
    parser.add_argument(
        "--quantization", choices=("nf4", "int8", "none"), default="nf4", help="default: nf4"
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


def _make_data(directory: Path, num_test: int) -> None:
    for role in ROLES:
        for split, num in (
            ("train", role.num_train),
            ("validation", NUM_VALIDATION),
            ("test", num_test),
        ):
            command = python("demo.tasks", "--task", role.task, "--split", split)
            command += ["--num", str(num), "--out", str(directory / f"{role.task}.{split}.jsonl")]
            processes.run(command, f"generating {role.task}")


def _train(role: Role, directory: Path, arguments: argparse.Namespace) -> None:
    data = directory / "data"
    settings = {
        "base": arguments.base,
        "quantization": arguments.quantization,
        "data.train": data / f"{role.task}.train.jsonl",
        "data.validation": data / f"{role.task}.validation.jsonl",
        "output.dir": directory / "runs" / role.adapter,
        "output.store": directory / "store",
    }
    command = python("trainer", "train", str(CONFIGS / f"{role.adapter}.yaml"))
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    processes.run(command, f"training {role.adapter}")


def _parts(data: Path) -> list[Part]:
    parts = []
    for role in ROLES:
        first = read_inputs(data / f"{role.task}.test.jsonl", 1)[0]
        parts.append(Part(f"{role.adapter}\n({role.does})", role.adapter, first, first))
    opening = "Once upon a time there was a small"
    parts.append(Part("base\n(no adapter)", "", opening, RawPrompt(opening)))
    return parts


def _evaluate(address: str, directory: Path) -> Path:
    out = directory / "evaluation"
    command = python("evalsuite", "run", "--server", address)
    command += ["--adapters", ",".join(["base", *(role.adapter for role in ROLES)])]
    command += ["--tasks", ",".join(role.task for role in ROLES)]
    command += ["--data-dir", str(directory / "data"), "--shots", "0,3", "--out", str(out)]
    processes.run(command, "the evaluation")
    return out / "report.json"


def _play(directory: Path, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    started = time.monotonic()

    def stage(title: str) -> None:
        console.rule(f"[bold]{title}[/]  ({time.monotonic() - started:.0f} s)", align="left")

    stage("1. Data from the project's own templates; test wordings never occur in training")
    (directory / "data").mkdir()
    _make_data(directory / "data", arguments.num_test)
    for number, role in enumerate(ROLES, 2):
        stage(f"{number}. Train {role.adapter}: {role.does}")
        _train(role, directory, arguments)
    stage("5. One server process: one base, every adapter")
    flags = ["--base", str(arguments.base), "--quantization", arguments.quantization]
    flags += ["--name", "understudy-nano" if arguments.base == BASE else arguments.base.name]
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
        stage("6. LoRA, soft prompt and bare base in one batch")
        batch_size = asyncio.run(play(server.address, _parts(directory / "data"), console))
        console.print(f"up to {batch_size} requests shared a step")
        stage("7. Scores through the server")
        report = _evaluate(server.address, directory)
    summary = summarize(json.loads(report.read_text()), {r.adapter: r.task for r in ROLES})
    return {
        "base_model": info.base_model,
        "quantization": info.quantization,
        "adapters": summary,
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
    except (ChildError, UnderstudyError, OSError) as error:
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
    if not problems:
        console.print("Every adapter beats the base, the base with three shots, a trivial answer.")
    print(json.dumps(result))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
