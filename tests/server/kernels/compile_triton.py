"""Compiles Triton's kernels for a CUDA device that is not here.

`python -m tests.server.kernels.compile_triton 90` prints one JSON line for each kernel on compute
capability 9.0: its name, the bytes of shared memory and of machine code it takes, the registers of
a thread, and the bytes a thread keeps outside of them. The interpreter checks no types across
branches and knows neither.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from server.kernels import triton_attention, triton_linear, triton_lora, triton_sampler
from server.kernels.native import AFFINE, FIELDS, PART_FIELDS
from server.kernels.sampling import MAX_TOP

_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_BF16 = {"TYPE": tl.bfloat16, "DOT": tl.bfloat16}


@dataclass(frozen=True)
class Kernel:
    """A function as it is launched: the types of its pointers and of its real numbers, and its
    constants. All else is a 32-bit integer."""

    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    variant: str = ""


def kernels() -> Iterator[Kernel]:
    """As they are launched for a Llama-3-8B in bfloat16; attention for a Gemma-2-9B too."""
    yield from _adapter_kernels()
    draws = {
        "reals": "*fp64", "counts": "*i64", "token_ids": "*i32", "values": "*fp32", "masks": "*u8",
    }  # fmt: skip
    memory = {"logits": "*bf16", "keys": "*i32", "found": "*i32"}
    sizes = {"BLOCK": 2048, "CHUNKS": 64, "SHORT": 1024, "NEEDED": 256}
    for top in (triton_sampler._FEW_TOPS, MAX_TOP):
        own = {**sizes, "TOP": top}
        yield Kernel(triton_sampler._draw, memory | draws, own, 8, f"{top} tops")
    yield from _linear_kernels()
    yield from _attention_kernels()


def _adapter_kernels() -> Iterator[Kernel]:
    shared = {**_BF16, "FIELDS": FIELDS, "ROWS": 16, "RANKS": 16}
    table = {"tiles": "*i64", "updates": "*i64", "hidden": "*fp32"}
    yield Kernel(
        triton_lora._shrink, {**table, "x": "*bf16"}, {**shared, "INNER": 64, "SPLIT": 512}
    )
    expand = {"PART_FIELDS": PART_FIELDS, "AFFINE": AFFINE, "COLUMNS": 64, "NUM_SPLITS": 8}
    yield Kernel(triton_lora._expand, {**table, "out": "*bf16"}, {**shared, **expand})
    scaling = {"TYPE": tl.bfloat16, "FIELDS": FIELDS, "AFFINE": AFFINE, "COLUMNS": 1024}
    rows = {"runs": "*i64", "updates": "*i64", "x": "*bf16", "out": "*bf16"}
    yield Kernel(triton_lora._scale_input, rows, scaling)


def _linear_kernels() -> Iterator[Kernel]:
    types = {
        "x": "*bf16", "codes": "*u8", "scales": "*fp32", "code": "*fp32", "bias": "*bf16",
        "out": "*bf16",
    }  # fmt: skip
    for rows in (16, 64):
        sizes = {"HAS_BIAS": True, "ROWS": rows, "COLUMNS": 32, "BLOCK": 64}
        yield Kernel(triton_linear._linear_nf4, types, _BF16 | sizes, variant=f"rows {rows}")
    pointers = {"x": "*bf16", "weight": "*bf16", "out": "*bf16"}
    norm = {"TYPE": tl.bfloat16, "NUM": 4096, "SIZE": 4096}
    yield Kernel(triton_linear._rms_norm, {**pointers, "epsilon": "fp32"}, norm)
    silu = {"TYPE": tl.bfloat16, "NUM": 14336, "SIZE": 1024}
    yield Kernel(triton_linear._silu_mul, pointers, silu)


def _attention_kernels() -> Iterator[Kernel]:
    pointers = {
        "query": "*bf16", "cache": "*bf16", "out": "*bf16", "tables": "*i64", "lengths": "*i64",
        "parts": "*fp32", "largest": "*fp32", "sums": "*fp32",
    }  # fmt: skip
    types = pointers | {"scaling": "fp32", "softcap": "fp32"}
    common = {**_BF16, "QUERIES": 16, "SPLIT": 256, "POSITIONS": 32, "LOG2_E": 1.4426950408889634}
    for variant, group, dim, window, has_softcap in (
        ("plain", 4, 128, 0, False),
        ("window and softcap", 2, 256, 4096, True),
    ):
        own = {
            "GROUP": group, "DIM": dim, "SIZE": dim, "WINDOW": window, "HAS_SOFTCAP": has_softcap,
        }  # fmt: skip
        yield Kernel(triton_attention._attend, types, common | own, variant=variant)
        join = {
            "TYPE": tl.bfloat16, "DIM": dim, "SIZE": dim, "SPLIT": 256, "WINDOW": window,
        }  # fmt: skip
        yield Kernel(triton_attention._join, pointers, join, variant=variant)
    write = {"cache": "*bf16", "places": "*i64", "key": "*bf16", "value": "*bf16"}
    yield Kernel(triton_attention._write, write, {"DIM": 128, "SIZE": 128})


def main(capability: int) -> None:
    """Prints what each kernel takes; raises what the compiler says where one does not compile."""
    for kernel in kernels():
        names = kernel.function.arg_names
        unknown = (kernel.types.keys() & kernel.constants.keys()) | kernel.constants.keys() - names
        assert not unknown, f"{kernel.function.__name__}: {unknown}"
        signature = {
            name: "constexpr" if name in kernel.constants else kernel.types.get(name, "i32")
            for name in names
        }
        compiled = triton.compile(
            ASTSource(kernel.function, signature, kernel.constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": kernel.num_warps},
        )
        line = {
            "kernel": kernel.function.__name__,
            "variant": kernel.variant,
            "shared_bytes": compiled.metadata.shared,
            **_resources(compiled.asm["cubin"]),
        }
        print(json.dumps(line), flush=True)


def _resources(cubin: bytes) -> dict[str, int]:
    """What the assembler says of a kernel's machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {
        "registers": found["REG"],
        "spilled_bytes": found["STACK"] + found["LOCAL"],
        "code_bytes": len(cubin),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
