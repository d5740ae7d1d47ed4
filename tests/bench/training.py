"""How fast the trainer's step is, beside the same step written with transformers and PEFT alone.

Ours and the plain one take the same batches in turn, step by step, from the same initial adapter,
so their losses must agree; the benchmark stops if they do not. What differs: ours computes logits
only where a completion token is predicted, needs no mask, keeps the NF4 weights dequantized where
that is its default, and lets short examples share a row. `random` is the plain step on batches in
random order, as a plain loop draws them; its speed is compared by tokens.

Progress goes to standard error, a table to standard output, and one JSON object as its last line.
"""

import argparse
import json
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.machine import busy_s
from tests.bench.report import markdown, surroundings, tell_if_busy
from tests.bench.rounds import Clock
from tests.bench.shape import FULL, TINY, Shape, make_base
from tests.bench.training_steps import Ours, Plain, attach, kept_bytes, make_config, make_examples

DEMO_BASE = Path(__file__).resolve().parents[2] / "demo" / "base"
MAX_LOSS_DIFFERENCE = 1e-3
"""Relative, over a few steps from the same start; in bfloat16 ten times as much."""
_MARKS = re.compile(
    r"(<!-- measured training: .*? -->\n).*?(<!-- end of measured training -->)", re.DOTALL
)


@dataclass(frozen=True)
class Case:
    """One base and one method."""

    base: str
    method: str
    batch_size: int
    median_length: int
    longest: int
    rounds: int
    random_order: bool = False

    @property
    def name(self) -> str:
        """As in the results."""
        return f"{self.base}.{self.method}"


@dataclass(frozen=True)
class Plan:
    """What is run."""

    cases: tuple[Case, ...]
    shape: Shape
    threads: int

    @property
    def rounds(self) -> int:
        """Of the case that has most."""
        return max(case.rounds for case in self.cases)


FULL_PLAN = Plan(
    cases=(
        Case("demo", "lora", 16, 80, 400, rounds=7, random_order=True),
        Case("demo", "prompt_tuning", 16, 80, 400, rounds=7),
        Case("135m", "lora", 4, 48, 160, rounds=4),
        Case("135m", "prompt_tuning", 4, 48, 160, rounds=4),
    ),
    shape=FULL,
    threads=2,
)
QUICK_PLAN = Plan(
    cases=(
        Case("135m", "lora", 4, 24, 60, rounds=3, random_order=True),
        Case("135m", "prompt_tuning", 4, 24, 60, rounds=3),
    ),
    shape=TINY,
    threads=1,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny model and few rounds")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: cpu)")
    add("--threads", type=int, metavar="N", help="of torch (default: 2)")
    add("--write", type=Path, metavar="FILE", help="put the results into this page")
    options = parser.parse_args(argv)
    plan = QUICK_PLAN if options.quick else FULL_PLAN
    plan = Plan(plan.cases, plan.shape, options.threads or plan.threads)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    torch.set_num_threads(plan.threads)
    # Of transformers and PEFT, about their own future and about bases without a name.
    warnings.simplefilter("ignore")
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        made = Path(folder) / "135m"
        make_base(made, plan.shape)
        bases = {"demo": DEMO_BASE, "135m": made}
        began, busy, used = time.monotonic(), busy_s(), time.process_time()
        cases = {case.name: _measure(case, bases[case.base], options.device, clock)
                 for case in plan.cases}  # fmt: skip
        seconds = time.monotonic() - began
        foreign = ((busy_s() - busy) - (time.process_time() - used)) / seconds
        first = plan.cases[0]
        kept = _kept(bases[first.base], options.device, first)
    found: dict[str, Any] = {
        "cases": cases,
        "kept": kept,
        "foreign_cores": round(max(0.0, foreign), 2),
    }
    found |= {"device": options.device, "seconds": round(seconds)}
    found |= surroundings(plan, {}, "tests.bench.training")
    _show(found)
    if options.write is not None:
        _write(options.write, found)
    tell_if_busy(found["foreign_cores"], "ratio")
    print(json.dumps(found))
    return 0


def _measure(case: Case, base: Path, device: str, clock: Clock) -> dict[str, Any]:
    """Milliseconds per step of each variant in turn, and their ratios by round."""
    config = make_config(base, case.method, device, case.batch_size)
    vocab = int(json.loads((base / "config.json").read_text())["vocab_size"])
    examples = make_examples(32 * case.batch_size, case.median_length, case.longest, vocab)
    can_pack = case.method == "lora"
    steps: dict[str, Ours | Plain] = {"ours": Ours(config, examples, packed=can_pack)}
    if can_pack:
        steps["padded"] = Ours(config, examples, packed=False)
    steps["plain"] = Plain(config, examples, sorted_batches=True)
    if case.random_order:
        steps["random"] = Plain(config, examples, sorted_batches=False)
    clock.say(f"{case.name}: {', '.join(steps)}")
    limit = MAX_LOSS_DIFFERENCE * (10 if config.dtype == "bfloat16" else 1)
    times: dict[str, list[float]] = {name: [] for name in steps}
    tokens: dict[str, list[int]] = {name: [] for name in steps}
    worst = 0.0
    for number in range(case.rounds + 1):
        losses = {}
        for name in steps if number % 2 else reversed(steps):
            begin = time.perf_counter()
            losses[name], num_tokens = steps[name].step()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first is to warm up
                times[name].append(1e3 * (time.perf_counter() - begin))
                tokens[name].append(num_tokens)
        differences = [
            abs(losses[name] / losses["plain"] - 1) for name in losses if name != "random"
        ]
        worst = max(worst, *differences)
        if worst > limit:
            raise RuntimeError(f"{case.name}: losses differ: {losses}")
    result: dict[str, Any] = {
        "tokens_per_step": round(sum(tokens["ours"]) / case.rounds),
        "step_ms": {name: round(median(spent), 1) for name, spent in times.items()},
        "tokens_per_s": {
            name: round(1e3 * sum(tokens[name]) / sum(spent)) for name, spent in times.items()
        },
        "max_loss_difference": float(f"{worst:.1e}"),
    }
    for other in steps.keys() - {"ours", "random"}:
        ratios = sorted(b / a for a, b in zip(times["ours"], times[other], strict=True))
        result[f"ours_vs_{other}"] = round(median(ratios), 3)
        result[f"ours_vs_{other}_spread"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    if "random" in steps:
        speeds = result["tokens_per_s"]
        result["ours_vs_random"] = round(speeds["ours"] / speeds["random"], 3)
    clock.say(f"{case.name}: {result['ours_vs_plain']} times the plain step's speed")
    return result


def _kept(base: Path, device: str, case: Case) -> dict[str, float]:
    """What a step keeps for the way back, and what gradient checkpointing saves and costs."""
    model = attach(make_config(base, case.method, device, case.batch_size))

    def mib() -> float:
        return round(kept_bytes(model, case.batch_size, case.median_length) / 2**20, 1)

    whole = mib()
    model.activation_checkpointing_enable({"use_reentrant": False})
    return {"whole_mib": whole, "checkpointing_mib": mib()}


def _rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, case in found["cases"].items():
        low, high = case["ours_vs_plain_spread"]
        speeds = case["tokens_per_s"]
        packing, order = "", ""
        if "ours_vs_padded" in case:
            packing = "{} ({} to {})".format(case["ours_vs_padded"], *case["ours_vs_padded_spread"])
        if "ours_vs_random" in case:
            order = str(case["ours_vs_random"])
        rows.append(
            (
                name,
                f"{speeds['ours']:,}",
                f"{speeds['plain']:,}",
                f"{case['ours_vs_plain']} ({low} to {high})",
                packing,
                order,
            )
        )
    return rows


_COLUMNS = ("case", "ours, tokens/s", "plain", "ours / plain", "packing's part", "ours / random")


def _show(found: dict[str, Any]) -> None:
    table = Table(*_COLUMNS, box=box.SIMPLE)
    for row in _rows(found):
        table.add_row(*row)
    Console(width=120).print(table)


def _write(page: Path, found: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    if not _MARKS.search(text):
        raise ValueError(f"{page}: has no part between marks that begin `<!-- measured training:`")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    kept = found["kept"]
    lines = [
        f"Measured {found['date']} with `{found['command']}`,",
        f"up to {found['rounds']} rounds of each, {found['device']}, {found['threads']} threads,",
        f"{found['cpu']},",
        f"{found['foreign_cores']} processors busy with something else; {versions}.",
        "",
        *markdown(_COLUMNS, _rows(found)),
        "",
        f"A step of the first case keeps {kept['whole_mib']} MiB from the forward pass for the way",
        f"back, {kept['checkpointing_mib']} MiB with gradient checkpointing.",
    ]
    part = "\n".join(lines)
    page.write_text(_MARKS.sub(lambda m: m[1] + part + "\n" + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
