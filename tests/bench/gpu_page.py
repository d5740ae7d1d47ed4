"""A device's results as tables of a page."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.bench.gpu_results import Line
from tests.bench.report import markdown

MARKS = re.compile(r"(<!-- measured gpu: .*? -->\n).*?(<!-- end of measured gpu -->)", re.DOTALL)
_PACKAGES = ("torch", "triton", "bitsandbytes", "transformers", "peft", "flashinfer-python")
_KERNELS = ("linear", "lora", "elementwise", "attention", "flashinfer", "sampler")
_COMMANDS = ("train", "tests", "demo")
_STEP_HEADS = (
    "configuration", "batch", "adapters", "ms", "of the byte limit", "tokens/s",
    "extra / reading the adapters",
)  # fmt: skip
_LAUNCH_HEADS = ("configuration", "batch", "adapters", "kernels a step", "copies and fills")
_KERNEL_HEADS = ("kernel", "case", "µs", "GB/s", "TFLOP/s", "of the limit", "beside it, µs")
_COMPARED = ("own_s", "bytes_per_s", "flop_per_s", "limit_s", "share")


def write_page(page: Path, latest: Mapping[str, Line]) -> None:
    """Replaces the part of a page between its marks by what the sections of one device found.
    Raises ValueError where there are no marks, or no results."""
    text = page.read_text(encoding="utf-8")
    if not MARKS.search(text):
        raise ValueError(f"{page}: has no part between marks that begin `<!-- measured gpu:`")
    if not latest:
        raise ValueError("no section has run")
    part = "\n".join(_lines(latest))
    page.write_text(MARKS.sub(lambda m: m[1] + part + "\n" + m[2], text), encoding="utf-8")


def _lines(latest: Mapping[str, Line]) -> Iterator[str]:
    found = {name: line["found"] for name, line in latest.items() if "found" in line}
    dates = sorted({line["date"] for line in latest.values()})
    device = next(iter(latest.values()))["device"]
    yield f"Measured {' to '.join(sorted({dates[0], dates[-1]}))} on one {device}; {_versions()}."
    if "ceiling" in found:
        ceiling = found["ceiling"]
        yield (
            f"The device reads {ceiling['read_bytes_per_s'] / 1e9:,.0f} GB/s, computes "
            f"{ceiling['flop_per_s'] / 1e12:,.0f} TFLOP/s in bf16, and takes "
            f"{ceiling['host_bytes_per_s'] / 1e9:,.1f} GB/s from pinned memory."
        )
    steps = [
        (name, row)
        for name, value in found.items()
        if name.startswith("decode_")
        for row in value["steps"]
    ]
    if steps:
        yield from ("", *markdown(_STEP_HEADS, [_step(name, row) for name, row in steps]))
    launches = [
        (
            name.removeprefix("decode_"), str(row["batch"]), str(row["adapters"]),
            f"{row['kernels']:.0f}", f"{row['copies']:.0f}",
        )
        for name, value in found.items()
        if name.startswith("decode_")
        for row in value["launches"]
        if row["kernels"] is not None
    ]  # fmt: skip
    if launches:
        yield from ("", *markdown(_LAUNCH_HEADS, launches))
    kernels = [_kernel(name, row) for name in _KERNELS for row in found.get(name, ())]
    if kernels:
        yield from ("", *markdown(_KERNEL_HEADS, kernels))
    facts = [*_facts(found), *_failures(latest)]
    yield from ("", *markdown(("figure", ""), facts))


def _step(name: str, row: Mapping[str, Any]) -> Sequence[str]:
    adapters = str(row["adapters"])
    if row["linears"] == "attention":
        adapters += ", attention only"
    extra = f"{row['extra']:.2f}" if "extra" in row else ""
    return (
        name.removeprefix("decode_"), str(row["batch"]), adapters, f"{1e3 * row['step_s']:.2f}",
        f"{row['share']:.0%}", f"{row['tokens_per_s']:,.0f}", extra,
    )  # fmt: skip


def _kernel(section: str, row: Mapping[str, Any]) -> Sequence[str]:
    others = {k: v for k, v in row.items() if k.endswith("_s") and k not in _COMPARED}
    case = {k: v for k, v in row.items() if k not in _COMPARED and k not in others}
    kernel = str(case.pop("kernel", section))
    return (
        kernel, ", ".join(f"{key} {value}" for key, value in case.items()),
        f"{1e6 * row['own_s']:.1f}", f"{row['bytes_per_s'] / 1e9:,.0f}",
        f"{row['flop_per_s'] / 1e12:.1f}", f"{row['share']:.0%}",
        ", ".join(f"{key.removesuffix('_s')} {1e6 * value:.1f}" for key, value in others.items()),
    )  # fmt: skip


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for row in found.get("prefill", ()):
        yield (
            f"prefill, {row['adapters']} adapters",
            f"{row['tokens_per_s']:,.0f} tokens/s, {row['ratio']:.1%} of our own base",
        )
    for row in found.get("peft", ()):
        yield (
            f"{row['case']}, {row['requests']} requests, beside PEFT with bitsandbytes",
            f"{row['ratio']:.2f} times: {row['ours_tokens_per_s']:,.0f} tokens/s against "
            f"{row['peft_tokens_per_s']:,.0f} ({row['peft_attention']})",
        )
    if "registered" in found:
        row, speeds = found["registered"], found["registered"]["tokens_per_s"]
        yield (
            f"{row['registered']} registered adapters under Zipf",
            f"{row['ratio']:.1%} of the tokens/s with all that are asked for in slots: "
            f"{speeds['registered']:,.0f} against {speeds['resident']:,.0f}; distinct ones by "
            f"round {row['distinct']}",
        )
    if "transfers" in found:
        row = found["transfers"]
        yield (
            "an adapter to the device",
            f"{1e3 * row['place_s']:.2f} ms, p99 {1e3 * row['place_p99_s']:.2f} ms, "
            f"{row['adapter_bytes'] / 1e6:.1f} MB, of {row['placed']}",
        )
        yield (
            "time between tokens meanwhile",
            f"p99 {row['gap_p99_s_ratio']:.3f} of that without, median {row['gap_s_ratio']:.3f}: "
            f"p99 {1e3 * row['beside']['gap_p99_s']:.2f} and "
            f"{1e3 * row['alone']['gap_p99_s']:.2f} ms",
        )
    for name in _COMMANDS:
        if name in found:
            commands = found[name] if isinstance(found[name], list) else [found[name]]
            for row in commands:
                yield (
                    f"`{row['command']}`", f"exit code {row['exit_code']} in {row['seconds']} s"
                )  # fmt: skip


def _failures(latest: Mapping[str, Line]) -> Iterator[tuple[str, str]]:
    for name, line in latest.items():
        reason = line.get("error") or line.get("skipped")
        if reason:
            yield name, "not measured: " + " ".join(reason.replace("|", "/").split())


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
