"""How results are shown: a table, the page in docs/, the plot."""

import datetime
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib.figure
from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.machine import cpu_model

_ENGINES = {"ours": "Understudy", "peft": "transformers with PEFT", "vllm": "vLLM, CPU build"}
# Others may use so many processors before results are called into question.
QUIET_CORES = 0.2
_MARKS = re.compile(r"(<!-- measured: .*? -->\n).*?(<!-- end of measured -->)", re.DOTALL)
_LABELS = {
    "ours.base": "the bare base",
    "ours.lora8": "eight LoRAs in the batch",
    "ours.lora8_soft": "eight LoRAs, a soft prompt and the bare base in the batch",
    "ours.nf4_packed": "the bare base in NF4, packed",
    "ours.nf4_held": "the bare base in NF4, held",
    "ours.nf4_lora8": "NF4, held; eight LoRAs",
    "ours.lora1000": "1000 LoRAs registered, host tier capped",
    "ours.lora1000_resident": "the same requests, adapters in memory and in slots",
    "stream.base": "the bare base, token by token",
    "stream.lora8": "eight LoRAs, token by token",
    "engine.base": "the engine alone, no server: the bare base",
    "engine.lora8": "the engine alone, no server: eight LoRAs",
    "peft.base": "transformers: the bare base",
    "peft.lora8": "transformers with PEFT: eight LoRAs",
    "bitsandbytes.nf4_packed": "transformers: the bare base in NF4, as bitsandbytes runs it",
    "vllm.base": "vLLM: the bare base",
    "vllm.lora8": "vLLM: eight LoRAs",
}


class Rounds(Protocol):
    """What of a plan is reported."""

    @property
    def threads(self) -> int: ...

    @property
    def rounds(self) -> int: ...


def tell_if_busy(foreign_cores: float, what: str) -> None:
    """Warns where others kept more than QUIET_CORES processors busy; `what` a result is."""
    if foreign_cores > QUIET_CORES:
        print(
            f"the machine was in use: {foreign_cores} processors were busy with something else, so "
            f"take no {what} for more than a sign that the benchmark works",
            file=sys.stderr,
        )


def surroundings(
    plan: Rounds, versions: Mapping[str, str], module: str = "tests.bench"
) -> dict[str, Any]:
    """When, how and on what it was measured."""
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": cpu_model(),
        "threads": plan.threads,
        "rounds": plan.rounds,
        "versions": {name: importlib.metadata.version(name) for name in packages} | dict(versions),
    }


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, tokens per second, their spread, and what it is."""
    table = []
    for name, (low, high) in found["spread"].items():
        group, _, variant = name.partition(".")
        table.append(
            (name, f"{found[group][variant]:.1f}", f"{low:.1f} to {high:.1f}", _LABELS[name])
        )
    return table


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures beside the throughputs, each with its sentence."""
    latency = found["latency_ms"]["stream.lora8"]
    base_ms, lora_ms = found["step_ms"].values()
    linear = found["linear_bytes"]
    lines = {
        "lora8_overhead": "{lora8_overhead:.1%} of the bare base's tokens/s lost with eight LoRAs",
        "lora8_extra_ms": f"{{lora8_extra_ms:.2f}} ms more a decode step ({base_ms} to {lora_ms})",
        "lora8_bytes_ms": "{lora8_bytes_ms:.2f} ms to read those LoRAs, "
        f"{found['lora8_bytes'] / 1e6:.1f} MB, at the {{read_gb_per_s}} GB/s measured",
        "ratio_lora8_vs_peft": "{ratio_lora8_vs_peft:.2f} times PEFT's tokens/s with eight LoRAs",
        "ratio_base_vs_peft": "{ratio_base_vs_peft:.2f} times transformers' on the bare base",
        "ratio_lora8_vs_vllm": "{ratio_lora8_vs_vllm:.2f} times vLLM's tokens/s with eight LoRAs",
        "ratio_base_vs_vllm": "{ratio_base_vs_vllm:.2f} times vLLM's on the bare base",
        "nf4_packed_vs_bitsandbytes": "{nf4_packed_vs_bitsandbytes:.2f} times transformers' with "
        "bitsandbytes on the NF4 base",
        "nf4_held_vs_bf16": "{nf4_held_vs_bf16:.2f} of bf16's tokens/s",
        "lora1000_vs_resident": "{lora1000_vs_resident:.2f} of the tokens/s with all adapters in "
        "memory; {lora1000_loads} read from disk",
        "grpc_cost": "{grpc_cost:.1%} of the engine's own tokens/s lost around it on the base, "
        "{grpc_cost_lora8:.1%} with eight LoRAs; streaming, {grpc_cost_stream:.1%} on the base",
        "ttft_ms": _percentiles(latency, "ttft") + " with eight LoRAs, all requests sent at once",
        "itl_ms": _percentiles(latency, "itl") + " with eight LoRAs",
        "resident_bytes": "; ".join(
            f"{form} {size / 1e6:.1f} MB, its linears {linear[form] / 1e6:.1f} MB "
            f"({linear[form] / linear['bf16']:.2f} of bf16's)"
            for form, size in found["resident_bytes"].items()
        ),
        "matmul_tokens_per_s": "{matmul_tokens_per_s:.0f} if a step were its bf16 products alone",
        "agreement": "{agreement[base]:.0%} of first tokens as transformers', "
        "{agreement[lora8]:.0%} as PEFT's with eight LoRAs",
        "foreign_cores": "{foreign_cores} processors busy with something else, at most "
        "{foreign_cores_max}; at most {idle_cores} with our processes that were not in turn",
    }
    for name in ("ratio_lora8_vs_vllm", "ratio_base_vs_vllm", "nf4_packed_vs_bitsandbytes"):
        if name not in found:
            del lines[name]
    return [(name, text.format(**found)) for name, text in lines.items()]


def _percentiles(latency: Mapping[str, float], kind: str) -> str:
    values = "/".join(f"{latency[f'{kind}_ms_p{p}']:.0f}" for p in (50, 95, 99))
    return f"p50/p95/p99 {values} ms"


def show(found: Mapping[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=max(Console().width, 100))
    table = Table(box=box.SIMPLE)
    for heading in ("variant", "tokens/s", "rounds", ""):
        table.add_column(heading, justify="right" if heading == "tokens/s" else "left")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    table = Table(box=box.SIMPLE, show_header=False)
    for fact in facts(found):
        table.add_row(*fact)
    console.print(table)
    if found["sweep"]:
        table = Table("distinct adapters", *found["sweep"]["ours"], box=box.SIMPLE)
        for engine, speeds in found["sweep"].items():
            table.add_row(_ENGINES[engine], *(f"{speed:.1f}" for speed in speeds.values()))
        console.print(table)


def write_page(page: Path, found: Mapping[str, Any]) -> None:
    """Replace the measured part of a page, and draw the plot beside it."""
    text = page.read_text(encoding="utf-8")
    if not _MARKS.search(text):
        raise ValueError(f"{page}: has no part between marks that begin `<!-- measured:`")
    if found["sweep"]:
        draw(page.with_suffix(".svg"), found["sweep"])
    part = "\n".join(_page_lines(found, page.stem))
    page.write_text(_MARKS.sub(lambda m: m[1] + part + "\n" + m[2], text), encoding="utf-8")


def _page_lines(found: Mapping[str, Any], plot: str) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"Measured {found['date']} with `{found['command']}`: {found['rounds']} rounds of each,",
        f"{found['threads']} threads, {found['cpu']}; {versions}.",
        "",
        *markdown(("variant", "tokens/s", "rounds", ""), rows(found)),
        "",
        *markdown(("figure", ""), facts(found)),
    ]
    if found["sweep"]:
        speeds = found["sweep"]
        lines += [
            "",
            f"![Throughput by number of distinct adapters]({plot}.svg)",
            "",
            "Tokens/s by number of distinct adapters in the batch of 16:",
            "",
            *markdown(
                ("", *speeds["ours"]),
                [
                    (
                        _ENGINES[engine],
                        *(f"{values[n]:.1f}" if n in values else "" for n in speeds["ours"]),
                    )
                    for engine, values in speeds.items()
                ],
            ),
        ]
    return lines


def markdown(headings: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    lines = [headings, ["---"] * len(headings), *table]
    return ["| " + " | ".join(line) + " |" for line in lines]


def draw(path: Path, sweep: Mapping[str, Mapping[str, float]]) -> None:
    """Plot throughput by number of distinct adapters."""
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for engine, speeds in sweep.items():
        axes.plot(list(speeds), list(speeds.values()), marker="o", label=_ENGINES[engine])
    axes.set_xlabel("distinct LoRA adapters in a batch of 16 requests")
    axes.set_ylabel("generated tokens/s")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmarks"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
