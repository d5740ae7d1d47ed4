"""Triton's kernels one at a time, each against what the device gives at best.

Off CUDA nothing here says anything about speed: the interpreter shows only that it runs.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.autograd._functions import matmul_4bit

from server.engine.device_sampler import arrays
from server.engine.logits_processors import Draw
from server.engine.sampler import draw
from server.errors import StartupError
from server.kernels import (
    Affine,
    ChangeStep,
    FlashInfer,
    LoraGroup,
    PagePlan,
    describe,
    load_flashinfer,
    page_plan,
)
from server.kernels.triton_attention import triton_attention
from server.kernels.triton_kernels import TritonKernels
from server.kernels.triton_linear import triton_linear_nf4
from server.kernels.triton_lora import TritonRows, triton_lora, triton_rows
from server.kernels.triton_sampler import triton_draw
from server.models.nf4_table import measure
from server.models.weights import Nf4Weight
from server.types import SamplingParams
from tests.bench.shape import Shape

Figures = Mapping[str, Any]

RANK = 16
SAMPLINGS = {
    "greedy": SamplingParams(),
    "plain": SamplingParams(temperature=1.0),
    "usual": SamplingParams(temperature=0.8, top_k=50, top_p=0.95),
    # Of random logits: thousands of tokens, so that no shortlist is enough.
    "wide": SamplingParams(temperature=2.0, top_p=0.95),
}
_BLOCK = 16


def device() -> torch.device:
    """CUDA, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object], passes: int = 20) -> float:
    """Of one call: the median of some passes, after two that warm up, each behind a write that
    drives what it reads out of the second-level cache."""
    flush = torch.empty(1 << 28 if torch.cuda.is_available() else 1, dtype=torch.int8)
    flush = flush.to(device())
    times = []
    for _ in range(passes + 2):
        flush.zero_()
        _wait()
        begin = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - begin)
    return sorted(times[2:])[passes // 2]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceiling(num_bytes: int, passes: int) -> Figures:
    """What the device reads, and computes in bf16, a second."""
    values = torch.ones(num_bytes // 4, device=device())
    size = 8192 if torch.cuda.is_available() else 256
    a = torch.randn(size, size, device=device(), dtype=torch.bfloat16)
    return {
        "read_bytes_per_s": values.nbytes / seconds(values.sum, passes),
        "flop_per_s": 2 * size**3 / seconds(lambda: a @ a, passes),
        "launch_s": seconds(lambda: a[:1, :1].add_(0), passes),
    }


def linear(shape: Shape, rows: tuple[int, ...], passes: int) -> Iterator[Figures]:
    """The product with gate and up in NF4: ours, bitsandbytes', and the bytes it has to read."""
    out, into = 2 * shape.intermediate, shape.hidden
    weight = torch.randn(out, into, device=device(), dtype=torch.bfloat16)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    for num in rows:
        x = torch.randn(num, into, device=device(), dtype=torch.bfloat16)
        own = seconds(
            partial(triton_linear_nf4, x, codes, state.absmax, state.code, None, out), passes
        )
        theirs = seconds(partial(matmul_4bit, x, codes.t(), state), passes)
        num_bytes = codes.nbytes + state.absmax.nbytes + x.nbytes + 2 * num * out
        yield {
            "rows": num, "own_s": own, "bitsandbytes_s": theirs,
            "bytes_per_s": num_bytes / own, "flop_per_s": 2 * num * out * into / own,
        }  # fmt: skip


def nf4_table(shape: Shape, file: Path, *, quick: bool) -> Figures:
    """Both products of every shape of weight, as `base.nf4_table` reads it: written to `file`."""
    q, k, v = (shape.linears[name][0] for name in ("q_proj", "k_proj", "v_proj"))
    wanted = {
        (q + k + v, shape.hidden), (shape.hidden, shape.hidden),
        (2 * shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate),
    }  # fmt: skip
    weights = []
    for out, into in sorted(wanted):
        dense = torch.randn(out, into, device=device(), dtype=torch.bfloat16)
        codes, state = bnb.quantize_4bit(dense, blocksize=64, quant_type="nf4")
        weights.append(Nf4Weight(codes, state, None, (out,), TritonKernels(device())))
    table = measure(weights, (1, 17)) if quick else measure(weights)
    table.write(file)
    return asdict(table)


def lora(shape: Shape, cases: tuple[tuple[int, int], ...], passes: int) -> Iterator[Figures]:
    """Updates of q, k and v, for numbers of adapters and rows of each: the bytes of the factors
    have to be read once. With DoRA's scale in the same launch, and with the scale apart."""
    widths = [shape.linears[name][0] for name in ("q_proj", "k_proj", "v_proj")]
    for num_adapters, rows_each in cases:
        adapters = [_adapter(widths, shape.hidden) for _ in range(num_adapters)]
        scales = torch.rand(num_adapters, sum(widths), device=device(), dtype=torch.bfloat16)
        scaled = [
            describe({0: group}, 1, {0: Affine(scale=scale)})
            for (group, _), scale in zip(adapters, scales, strict=True)
        ]
        bounds = [rows_each * i for i in range(num_adapters + 1)]
        rows = triton_rows(bounds, [updates for _, updates in adapters], torch.bfloat16, device())
        dora = triton_rows(bounds, scaled, torch.bfloat16, device())
        index = torch.arange(num_adapters, device=device()).repeat_interleave(rows_each)
        apart = ChangeStep((), index, {0: Affine(scale=scales)})
        x = torch.randn(bounds[-1], shape.hidden, device=device(), dtype=torch.bfloat16)
        out = torch.zeros(bounds[-1], sum(widths), device=device(), dtype=torch.bfloat16)
        took = seconds(partial(triton_lora, rows, 0, x, out), passes)
        num_bytes = sum(
            group.a.nbytes + sum(b.nbytes for _, _, b in group.parts) for group, _ in adapters
        )
        yield {
            "adapters": num_adapters, "rows_each": rows_each, "own_s": took,
            "dora_s": seconds(partial(triton_lora, dora, 0, x, out), passes),
            "dora_apart_s": seconds(partial(_apart, rows, apart, x, out), passes),
            "bytes_per_s": (num_bytes + x.nbytes + 2 * out.nbytes) / took,
        }  # fmt: skip


def _apart(rows: TritonRows, changes: ChangeStep, x: torch.Tensor, out: torch.Tensor) -> None:
    triton_lora(rows, 0, x, out)
    changes.apply(0, x, out, lambda given: given)


def _adapter(widths: list[int], into: int) -> tuple[LoraGroup, Any]:
    parts, start = [], 0
    for i, width in enumerate(widths):
        b = torch.randn(RANK, width, device=device(), dtype=torch.bfloat16)
        parts.append((slice(start, start + width), slice(i * RANK, (i + 1) * RANK), b))
        start += width
    a = torch.randn(RANK * len(widths), into, device=device(), dtype=torch.bfloat16)
    group = LoraGroup(a, tuple(parts))
    return group, describe({0: group}, 1)


def flashinfer(shape: Shape, cases: tuple[tuple[int, int], ...], passes: int) -> Iterator[Figures]:
    """As `attention`, by FlashInfer, with and without the plan that a step makes once. Raises
    StartupError where it is missing."""
    library = load_flashinfer(device(), torch.bfloat16)
    if isinstance(library, str):
        raise StartupError(f"flashinfer: {library}")
    own = FlashInfer(library, device())
    for num, length in cases:
        cache, tables, _, query = _decode_inputs(shape, num, length)
        plan = page_plan([(length, row) for row in tables.tolist()], _BLOCK)
        by_row, scaling = query[0].transpose(0, 1), query.shape[-1] ** -0.5
        step = own.step(plan, None)
        took = seconds(partial(step.attend, by_row, cache, scaling, None, None), passes)
        planned = seconds(partial(_planned, own, plan, by_row, cache, scaling), passes)
        yield {
            "sequences": num, "positions": length, "library_s": took, "with_plan_s": planned,
            "bytes_per_s": cache[0].nbytes * tables.numel() / took,
        }  # fmt: skip


def _planned(
    own: FlashInfer, plan: PagePlan, query: torch.Tensor, cache: torch.Tensor, scaling: float
) -> torch.Tensor:
    return own.step(plan, None).attend(query, cache, scaling, None, None)


def _decode_inputs(
    shape: Shape, num: int, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cache, block tables, lengths and queries of `num` sequences of `length` positions."""
    dim, blocks = shape.hidden // shape.heads, -(-length // _BLOCK)
    cache = torch.randn(
        num * blocks + 1, _BLOCK, 2, shape.kv_heads, dim, device=device(), dtype=torch.bfloat16
    )
    order = torch.randperm(num * blocks, device=device(), dtype=torch.int32) + 1
    query = torch.randn(1, shape.heads, num, dim, device=device(), dtype=torch.bfloat16)
    return cache, order.view(num, blocks), torch.full((num,), length, device=device()), query


def attention(shape: Shape, cases: tuple[tuple[int, int], ...], passes: int) -> Iterator[Figures]:
    """Decode attention of one layer, for numbers of sequences and positions of each."""
    dim = shape.hidden // shape.heads
    for num, length in cases:
        cache, tables, lengths, query = _decode_inputs(shape, num, length)
        out = torch.empty(num, shape.heads, dim, device=device(), dtype=torch.bfloat16)
        took = seconds(
            partial(triton_attention, query, cache, tables, lengths, out, dim**-0.5, None, None),
            passes,
        )
        num_bytes = cache[0].nbytes * tables.numel()
        yield {
            "sequences": num, "positions": length, "own_s": took,
            "bytes_per_s": num_bytes / took,
        }  # fmt: skip


def sampler(shape: Shape, rows: tuple[int, ...], passes: int) -> Iterator[Figures]:
    """Drawing a step's tokens from the logits on the device to the ids on the host: in one launch,
    and by torch. The logits have to be read once."""
    for num in rows:
        logits = 3 * torch.randn(num, shape.vocab, device=device(), dtype=torch.bfloat16)
        for name, params in SAMPLINGS.items():
            draws = [Draw(params, position) for position in range(num)]
            packed = arrays(draws, [None] * num, shape.vocab)
            own = seconds(partial(triton_draw, logits, packed), passes)
            yield {
                "rows": num, "sampling": name, "own_s": own,
                "torch_s": seconds(partial(_drawn_by_torch, logits, draws), passes),
                "bytes_per_s": logits.nbytes / own,
            }  # fmt: skip


def _drawn_by_torch(logits: torch.Tensor, draws: list[Draw]) -> None:
    draw(logits.clone(), draws)
