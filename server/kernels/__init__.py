"""Batched operations of a step: public interface and dispatch.

One step packs the rows of all its sequences into one tensor. Letters in shapes: T rows, S
positions of a sequence, H query heads, G query heads per key-value head, K key-value heads,
D head size, R stacked LoRA rank.

`lora.py` and `attention.py` run in torch, and hand single rows to the native kernels of
`native.py` where those run; `reference.py` holds the plain form of each, their oracle in tests.
"""

from server.kernels.attention import AttentionStep, LongChunk, ShortRows, paged_attention
from server.kernels.changes import Affine, Changes, ChangeStep, Detour, Norm
from server.kernels.embedding import EmbeddingTable
from server.kernels.groups import LoraGroup
from server.kernels.lora import LoraSegment, LoraStep, MaskedLora, apply_lora
from server.kernels.native import (
    MAX_LINEAR_ROWS,
    LoraRows,
    Native,
    Runs,
    describe,
    load_native,
    lora_rows,
)

__all__ = [
    "MAX_LINEAR_ROWS",
    "Affine",
    "AttentionStep",
    "ChangeStep",
    "Changes",
    "Detour",
    "EmbeddingTable",
    "LongChunk",
    "LoraGroup",
    "LoraRows",
    "LoraSegment",
    "LoraStep",
    "MaskedLora",
    "Native",
    "Norm",
    "Runs",
    "ShortRows",
    "apply_lora",
    "describe",
    "load_native",
    "lora_rows",
    "paged_attention",
]
