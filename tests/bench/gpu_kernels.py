"""Triton's kernels one at a time, each against what the device gives at best.

Off CUDA nothing here says anything about speed: the interpreter shows only that it runs.
"""

from collections.abc import Iterator
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
from server.kernels import Affine, ChangeStep, LoraGroup, describe
from server.kernels.triton_kernels import TritonKernels
from server.kernels.triton_linear import triton_linear_nf4, triton_rms_norm, triton_silu_mul
from server.kernels.triton_lora import TritonRows, triton_lora, triton_rows
from server.kernels.triton_sampler import triton_draw
from server.models.nf4_table import measure
from server.models.timing import seconds
from server.models.weights import Nf4Weight
from server.types import SamplingParams
from tests.bench.gpu_ceiling import Ceiling, Figures, device
from tests.bench.shape import Shape

RANK = 16
SAMPLINGS = {
    "greedy": SamplingParams(),
    "plain": SamplingParams(temperature=1.0),
    "usual": SamplingParams(temperature=0.8, top_k=50, top_p=0.95),
    # Of random logits: thousands of tokens, so that no shortlist is enough.
    "wide": SamplingParams(temperature=2.0, top_p=0.95),
}


def linear(shape: Shape, rows: tuple[int, ...], passes: int, ceiling: Ceiling) -> Iterator[Figures]:
    """The products of a layer in NF4, ours and bitsandbytes'. Codes, scales, input and output
    have to be moved once."""
    for name, (outs, into) in shape.products.items():
        out = sum(outs)
        codes, state = _quantized(out, into)
        for num in rows:
            x = _random(num, into)
            work = partial(triton_linear_nf4, x, codes, state.absmax, state.code, None, out)
            num_bytes = codes.nbytes + state.absmax.nbytes + x.nbytes + 2 * num * out
            theirs = seconds(partial(matmul_4bit, x, codes, state), device(), passes)
            yield {
                "product": name, "rows": num, "bitsandbytes_s": theirs,
                **ceiling.compare(seconds(work, device(), passes), num_bytes, 2 * num * out * into),
            }  # fmt: skip


def nf4_table(shape: Shape, file: Path, *, quick: bool) -> Figures:
    """Both products of every shape of weight, as `base.nf4_table` reads it: written to `file`."""
    weights = []
    for outs, into in shape.products.values():
        codes, state = _quantized(sum(outs), into)
        weights.append(Nf4Weight(codes, state, None, (sum(outs),), TritonKernels(device())))
    table = measure(weights, (1, 17)) if quick else measure(weights)
    table.write(file)
    return asdict(table)


def lora(
    shape: Shape,
    products: tuple[str, ...],
    cases: tuple[tuple[int, int], ...],
    passes: int,
    ceiling: Ceiling,
) -> Iterator[Figures]:
    """Updates of the linears of a product, for numbers of adapters and rows of each: the factors
    have to be read once. With DoRA's scale in the same launch, and with the scale apart."""
    for name in products:
        widths, into = shape.products[name]
        for num_adapters, rows_each in cases:
            adapters = [_adapter(widths, into) for _ in range(num_adapters)]
            scales = torch.rand(num_adapters, sum(widths), device=device(), dtype=torch.bfloat16)
            scaled = [
                describe({0: group}, 1, {0: Affine(scale=scale)})
                for (group, _), scale in zip(adapters, scales, strict=True)
            ]
            bounds = [rows_each * i for i in range(num_adapters + 1)]
            rows = triton_rows(bounds, [u for _, u in adapters], torch.bfloat16, device())
            dora = triton_rows(bounds, scaled, torch.bfloat16, device())
            index = torch.arange(num_adapters, device=device()).repeat_interleave(rows_each)
            apart = ChangeStep((), index, {0: Affine(scale=scales)})
            x = _random(bounds[-1], into)
            out = torch.zeros(bounds[-1], sum(widths), device=device(), dtype=torch.bfloat16)
            took = seconds(partial(triton_lora, rows, 0, x, out), device(), passes)
            factors = RANK * (len(widths) * into + sum(widths))
            num_bytes = 2 * num_adapters * factors + x.nbytes + 2 * out.nbytes
            yield {
                "product": name, "adapters": num_adapters, "rows_each": rows_each,
                **ceiling.compare(took, num_bytes, 2 * bounds[-1] * factors),
                "dora_s": seconds(partial(triton_lora, dora, 0, x, out), device(), passes),
                "dora_apart_s": seconds(partial(_apart, rows, apart, x, out), device(), passes),
            }  # fmt: skip


def elementwise(
    shape: Shape, rows: tuple[int, ...], passes: int, ceiling: Ceiling
) -> Iterator[Figures]:
    """What stands between products: RMSNorm, and silu(gate) * up."""
    norm = torch.ones(shape.hidden, device=device(), dtype=torch.bfloat16)
    for num in rows:
        x, both = _random(num, shape.hidden), _random(num, 2 * shape.intermediate)
        for name, work, num_bytes in (
            ("rms_norm", partial(triton_rms_norm, x, norm, 1e-6), 2 * x.nbytes + norm.nbytes),
            ("silu_mul", partial(triton_silu_mul, both), 3 * both.nbytes // 2),
        ):
            took = seconds(work, device(), passes)
            yield {"kernel": name, "rows": num, **ceiling.compare(took, num_bytes)}


def sampler(
    shape: Shape, rows: tuple[int, ...], passes: int, ceiling: Ceiling
) -> Iterator[Figures]:
    """Drawing a step's tokens from the logits on the device to the ids on the host: in one launch,
    and by torch. The logits have to be read once."""
    for num in rows:
        logits = 3 * _random(num, shape.vocab)
        for name, params in SAMPLINGS.items():
            draws = [Draw(params, position) for position in range(num)]
            packed = arrays(draws, [None] * num, shape.vocab)
            own = seconds(partial(triton_draw, logits, packed), device(), passes)
            yield {
                "rows": num, "sampling": name, **ceiling.compare(own, logits.nbytes),
                "torch_s": seconds(partial(_drawn_by_torch, logits, draws), device(), passes),
            }  # fmt: skip


def _random(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, device=device(), dtype=torch.bfloat16)


def _quantized(out: int, into: int) -> tuple[torch.Tensor, Any]:
    codes, state = bnb.quantize_4bit(_random(out, into), blocksize=64, quant_type="nf4")
    return codes, state


def _apart(rows: TritonRows, changes: ChangeStep, x: torch.Tensor, out: torch.Tensor) -> None:
    triton_lora(rows, 0, x, out)
    changes.apply(0, x, out, lambda given: given)


def _adapter(widths: tuple[int, ...], into: int) -> tuple[LoraGroup, Any]:
    parts, start = [], 0
    for i, width in enumerate(widths):
        b = _random(RANK, width)
        parts.append((slice(start, start + width), slice(i * RANK, (i + 1) * RANK), b))
        start += width
    group = LoraGroup(_random(RANK * len(widths), into), tuple(parts))
    return group, describe({0: group}, 1)


def _drawn_by_torch(logits: torch.Tensor, draws: list[Draw]) -> None:
    draw(logits.clone(), draws)
