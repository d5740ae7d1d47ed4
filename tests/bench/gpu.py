"""What one CUDA device gives: its ceilings, Triton's kernels against them, and decode steps.

A Llama-3-8B's shape with random weights, in NF4, computing in bf16. Each section prints one JSON
line and appends it to the file of results; sections that stand there are not run again. Nothing
is compared with a number taken elsewhere. What this machine cannot do says why under `skipped`.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  python -m tests.bench.gpu --work /tmp/gpu
  python -m tests.bench.gpu --work /tmp/gpu --sections linear,lora
  python -m tests.bench.gpu --work /tmp/gpu --quick      a tiny model, anywhere: does it run?
"""


class Gpu:
    """The sections, by name, in the order in which they run."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        from tests.bench.shape import LLAMA_8B, TINY

        self._work, self._quick = work, quick
        self._shape = TINY if quick else LLAMA_8B
        self._passes = 1 if quick else 20
        self.sections: dict[str, Callable[[], Any]] = {
            "ceiling": self._ceiling,
            "linear": self._linear,
            "lora": self._lora,
            "attention": self._attention,
            "sampler": self._sampler,
            "flashinfer": self._flashinfer,
            "nf4_table": self._nf4,
            "disk": self._disk,
            "decode_torch": lambda: self._decode("torch"),
            "decode_triton": lambda: self._decode("triton"),
            "decode_graphs": lambda: self._decode("triton", cuda_graphs=True),
            "decode_nf4_table": lambda: self._decode("triton", nf4_table=self._work / "nf4.json"),
            "decode_flashinfer": lambda: self._decode(
                "triton", cuda_graphs=True, attention="flashinfer"
            ),
            "transfers": self._transfers,
        }

    def _ceiling(self) -> Any:
        from tests.bench import gpu_kernels

        return gpu_kernels.ceiling(1 << 20 if self._quick else 1 << 33, self._passes)

    def _linear(self) -> Any:
        from tests.bench import gpu_kernels

        rows = (1, 17) if self._quick else (1, 8, 16, 32, 64, 128, 256, 512)
        return list(gpu_kernels.linear(self._shape, rows, self._passes))

    def _lora(self) -> Any:
        from tests.bench import gpu_kernels

        cases = ((1, 1), (8, 1), (32, 1), (128, 1), (8, 16), (1, 512), (4, 512))
        return list(
            gpu_kernels.lora(self._shape, cases[: 2 if self._quick else None], self._passes)
        )

    def _attention(self) -> Any:
        from tests.bench import gpu_kernels

        cases = (
            ((2, 40),) if self._quick else ((1, 512), (1, 8192), (32, 512), (32, 4096), (128, 512))
        )
        return list(gpu_kernels.attention(self._shape, cases, self._passes))

    def _sampler(self) -> Any:
        from tests.bench import gpu_kernels

        rows = (2,) if self._quick else (1, 8, 32, 128)
        return list(gpu_kernels.sampler(self._shape, rows, self._passes))

    def _disk(self) -> Any:
        """Writes the base and the adapters that the next sections load."""
        from tests.bench.shape import AdapterWriter, make_base

        base, store = self._work / "base", self._work / "store"
        make_base(base, self._shape)
        writer = AdapterWriter(base, store, self._shape)
        names = [f"lora-{i}" for i in range(2 if self._quick else 32)]
        for seed, name in enumerate(names):
            writer.lora(name, 16, seed)
        return {"adapters": names, "lora_bytes": self._shape.lora_bytes(16)}

    def _nf4(self) -> Any:
        """Writes the table that `base.nf4_table` takes, WORK/nf4.json."""
        from tests.bench import gpu_kernels

        return gpu_kernels.nf4_table(self._shape, self._work / "nf4.json", quick=self._quick)

    def _flashinfer(self) -> Any:
        from tests.bench import gpu_kernels

        cases = ((2, 40),) if self._quick else ((1, 512), (1, 8192), (32, 512), (32, 4096))
        return gpu_kernels.flashinfer(self._shape, cases, self._passes)

    def _decode(self, kernels: str, **options: Any) -> Any:
        from tests.bench import gpu_engine

        return gpu_engine.decode(self._work, self._shape, kernels, options, quick=self._quick)

    def _transfers(self) -> Any:
        from tests.bench import gpu_engine

        return gpu_engine.transfers(self._work, self._shape, quick=self._quick)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sections that are not in the file of results; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for all files")
    parser.add_argument("--sections", metavar="A,B", help="only these (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, without CUDA too")
    options = parser.parse_args(argv)
    import torch

    if options.quick and not torch.cuda.is_available():
        # Read when a kernel is defined.
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        parser.error("this machine, or this torch, has no CUDA; --quick runs anywhere")
    sections = Gpu(options.work, quick=options.quick).sections
    wanted = options.sections.split(",") if options.sections else list(sections)
    if unknown := [name for name in wanted if name not in sections]:
        parser.error(f"--sections: no section {unknown[0]!r}; there are {', '.join(sections)}")
    options.work.mkdir(parents=True, exist_ok=True)
    results = options.work / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    done = {json.loads(line)["section"] for line in lines}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, interpreted"
    for section in wanted:
        if section in done:
            continue
        print(f"section {section}", file=sys.stderr, flush=True)
        line = json.dumps({"section": section, "device": name, "found": sections[section]()})
        print(line, flush=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
