"""Compiles Triton's kernels of adapters and of the sampler for a CUDA device that is not here.

`python -m tests.server.kernels.compile_triton 90` prints one JSON line for each kernel: its name
and the bytes of shared memory it takes on compute capability 9.0. The interpreter checks no types
across branches and knows no shared memory.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from server.kernels import triton_lora, triton_sampler
from server.kernels.native import AFFINE, FIELDS, PART_FIELDS

Kernel = tuple[Any, dict[str, str], dict[str, Any], int]
"""The function, its pointers' types, its constants, and its warps. All else is a 32-bit integer."""


def kernels() -> Iterator[Kernel]:
    """As `triton_rows` and `triton_draw` launch them for a Llama-3-8B in bfloat16."""
    shared = {"TYPE": tl.bfloat16, "DOT": tl.bfloat16, "FIELDS": FIELDS, "ROWS": 16, "RANKS": 16}
    table = {"tiles": "i32", "updates": "i64", "hidden": "fp32"}
    yield triton_lora._shrink, {**table, "x": "bf16"}, {**shared, "INNER": 64, "SPLIT": 512}, 4
    expand = {"PART_FIELDS": PART_FIELDS, "AFFINE": AFFINE, "COLUMNS": 64, "NUM_SPLITS": 8}
    yield triton_lora._expand, {**table, "out": "bf16"}, {**shared, **expand}, 4
    scaling = {"TYPE": tl.bfloat16, "FIELDS": FIELDS, "AFFINE": AFFINE, "COLUMNS": 1024}
    rows = {"runs": "i32", "updates": "i64", "x": "bf16", "out": "bf16"}
    yield triton_lora._scale_input, rows, scaling, 4
    draws = {"reals": "fp64", "counts": "i64", "token_ids": "i32", "values": "fp32", "masks": "u8"}
    memory = {"logits": "bf16", "keys": "i32", "found": "i32"}
    sizes = {"BLOCK": 2048, "CHUNKS": 64, "SHORT": 1024, "NEEDED": 256, "TOP": 32}
    yield triton_sampler._draw, {**memory, **draws}, sizes, 8


def main(capability: int) -> None:
    """Prints what each kernel takes; raises what the compiler says where one does not compile."""
    for function, pointers, constants, num_warps in kernels():
        signature = {
            name: "constexpr" if name in constants else "*" + pointers[name] if name in pointers
            else "i32"
            for name in function.arg_names
        }  # fmt: skip
        compiled = triton.compile(
            ASTSource(function, signature, constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": num_warps},
        )
        assert compiled.asm["cubin"]
        line = {"kernel": function.__name__, "shared_bytes": compiled.metadata.shared}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
