"""Batched operations of a step: public interface and dispatch.

One step packs the rows of all its sequences into one tensor. Letters in shapes: T rows, S
positions of a sequence, H query heads, G query heads per key-value head, K key-value heads,
D head size, R stacked LoRA rank.

`lora.py` and `attention.py` are the forms that run; `reference.py` holds the plain form of each,
their oracle in tests.
"""

from server.kernels.attention import AttentionStep, LongChunk, ShortRows, paged_attention
from server.kernels.lora import LoraGroup, LoraSegment, LoraStep, MaskedLora, apply_lora

__all__ = [
    "AttentionStep",
    "LongChunk",
    "LoraGroup",
    "LoraSegment",
    "LoraStep",
    "MaskedLora",
    "ShortRows",
    "apply_lora",
    "paged_attention",
]
