"""Batched operations of a step: public interface and dispatch.

One step packs the rows of all its sequences into one tensor. Letters in shapes: T rows, S
positions of a sequence, H query heads, G query heads per key-value head, K key-value heads,
D head size, R stacked LoRA rank.

`lora.py` and `attention.py` run in torch, and hand single rows to the native kernels of
`native.py` where those run; `reference.py` holds the plain form of each, their oracle in tests.
"""

import os

import torch

from server.kernels.attention import AttentionStep, LongChunk, ShortRows, paged_attention
from server.kernels.changes import Affine, Changes, ChangeStep, Detour, Norm
from server.kernels.embedding import EmbeddingTable
from server.kernels.flashinfer import FixedStep, FlashInfer, PagePlan, load_flashinfer, page_plan
from server.kernels.groups import LoraGroup
from server.kernels.interface import (
    AdapterRows,
    Kernels,
    PlannedAttention,
    Runs,
    SlotKernels,
)
from server.kernels.lora import LoraSegment, LoraStep, MaskedLora, apply_lora
from server.kernels.native import (
    FIELDS,
    LoraRows,
    Native,
    describe,
    load_native,
    lora_rows,
)
from server.kernels.sampling import (
    MAX_TOP,
    MAX_VOCABULARY,
    Drawn,
    Draws,
    Sampler,
    factor_of,
    max_distance,
    warm_up,
)
from server.kernels.transfer import to_device

__all__ = [
    "FIELDS",
    "MAX_TOP",
    "MAX_VOCABULARY",
    "AdapterRows",
    "Affine",
    "AttentionStep",
    "ChangeStep",
    "Changes",
    "Detour",
    "Drawn",
    "Draws",
    "EmbeddingTable",
    "FixedStep",
    "FlashInfer",
    "Kernels",
    "LongChunk",
    "LoraGroup",
    "LoraRows",
    "LoraSegment",
    "LoraStep",
    "MaskedLora",
    "Native",
    "Norm",
    "PagePlan",
    "PlannedAttention",
    "Runs",
    "Sampler",
    "ShortRows",
    "SlotKernels",
    "apply_lora",
    "describe",
    "factor_of",
    "load_flashinfer",
    "load_native",
    "load_triton",
    "lora_rows",
    "max_distance",
    "page_plan",
    "paged_attention",
    "to_device",
    "warm_up",
]


def load_triton(device: torch.device) -> Kernels | str:
    """Triton's kernels for `device`, or why they do not run there."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"not for {device.type}, except by its interpreter (TRITON_INTERPRET=1), for tests"
    try:
        from server.kernels.triton_kernels import TritonKernels
    except ImportError as error:
        return f"cannot import {error.name or 'triton'}; pip install triton"
    return TritonKernels(device)
