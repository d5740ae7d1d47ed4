"""Which models the engine can run right, decided before and after loading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from server.errors import StartupError
from server.kernels import (
    AttentionStep,
    FlashInfer,
    Kernels,
    LongChunk,
    PlannedAttention,
    ShortRows,
    page_plan,
)
from server.models.decoder import CacheShape, Decoder

EXPERT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
)
_SIZE_KEYS = (
    "hidden_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
_ATTENTION_KINDS = {"full_attention", "sliding_attention"}
# These stretch their frequencies by the largest position of the whole batch.
_BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}
_PROBE_TOKENS = 12


def check_directory(directory: Path) -> None:
    """Raises StartupError unless `directory` looks like a model with safetensors weights."""
    if not directory.is_dir():
        raise StartupError(f"base {str(directory)!r}: no such directory")
    if not (directory / "config.json").is_file():
        raise StartupError(f"base {str(directory)!r}: holds no config.json")
    if not any(directory.glob("*.safetensors")):
        raise StartupError(
            f"base {str(directory)!r}: holds no *.safetensors weights; convert the checkpoint "
            "with transformers' save_pretrained (pickle files are never read)"
        )


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raises StartupError with the reason if a model of this configuration would run wrong."""

    def refuse(reason: str) -> StartupError:
        return StartupError(f"base {name!r} ({config.model_type}): {reason}")

    if config.is_encoder_decoder:
        raise refuse("encoder-decoder models are not served")
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise refuse("not a causal language model that transformers knows")
    if getattr(config, "quantization_config", None) is not None:
        raise refuse("the checkpoint is already quantized; give the unquantized one")
    text = config.get_text_config()
    for key in _SIZE_KEYS:
        if not isinstance(getattr(text, key, None), int):
            raise refuse(f"its configuration has no {key}")
    for key in EXPERT_KEYS:
        if (getattr(text, key, None) or 0) > 1:
            raise refuse(f"mixture of experts ({key} {getattr(text, key)}) is not served")
    kinds = set(getattr(text, "layer_types", None) or ()) - _ATTENTION_KINDS
    if kinds:
        raise refuse(f"layers of kind {', '.join(sorted(kinds))} are not served")
    if getattr(text, "num_kv_shared_layers", None):
        raise refuse("layers that share keys and values are not served")
    for kind in _rope_types(getattr(text, "rope_parameters", None)):
        if kind in _BATCH_DEPENDENT_ROPE:
            raise refuse(f"{kind} RoPE depends on the other sequences of a batch; not served")


def _rope_types(parameters: Any) -> set[str]:
    """RoPE types of a configuration: one set of parameters, or one per kind of layer."""
    if not isinstance(parameters, Mapping):
        return set()
    found = {parameters.get("rope_type") or "default"}
    return found.union(*(_rope_types(value) for value in parameters.values()))


def cache_shape(config: PretrainedConfig) -> CacheShape:
    """The cache a model of this configuration needs."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    return CacheShape(
        num_layers=text.num_hidden_layers,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
    )


def probe_tokens(vocab_size: int) -> torch.Tensor:
    """Two short sequences [2, n] of token ids."""
    ids = torch.arange(2 * _PROBE_TOKENS) * 7919 % vocab_size
    return ids.view(2, _PROBE_TOKENS)


def probe(
    decoder: Decoder,
    shape: CacheShape,
    expected: torch.Tensor,
    name: str,
    *,
    exact: bool,
    kernels: Kernels | None = None,
    flashinfer: FlashInfer | None = None,
) -> None:
    """Compares our forward pass with the model's own.

    `expected` [2, n, vocabulary] are the model's logits for `probe_tokens`, each sequence alone,
    before `install`. Here both share one packed row, once as long chunks and once as single
    queries. Raises StartupError if the numbers differ by more than rounding: an architecture
    whose attention does something the paged one does not. `exact`: float32 throughout.
    """
    device, dtype = expected.device, expected.dtype
    tokens = probe_tokens(expected.shape[-1]).to(device)
    count, length = tokens.shape
    size = (1 + count, length, 2, shape.num_kv_heads, shape.head_dim)
    blocks = torch.arange(1, 1 + count, device=device)
    positions = torch.arange(length, device=device).repeat(count)
    rows = torch.arange(count * length, device=device)
    chunks = tuple(
        LongChunk(slice(i * length, (i + 1) * length), 0, blocks[i : i + 1]) for i in range(count)
    )
    short = ShortRows(None, blocks.repeat_interleave(length).unsqueeze(1), positions + 1)
    for singles, long in (((), chunks), ((short,), ())):
        caches = [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.num_layers)]
        try:
            planned = _planned(flashinfer, count, length, bool(long)) if flashinfer else None
            decoder.context.attention = AttentionStep(
                caches=caches,
                write_index=rows + length,
                short=singles,
                chunks=long,
                scratch=torch.empty(0, dtype=dtype, device=device),
                kernels=kernels,
                planned=planned,
            )
            got, _ = decoder.forward(tokens.view(-1), positions, rows)
            got = got.view(expected.shape)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, OSError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            way = "paged attention"
            if flashinfer is not None:
                way, reason = "attention 'flashinfer'", f"{reason}; choose 'auto'"
            raise StartupError(f"base {name!r}: does not run with {way}: {reason}") from error
        finally:
            decoder.context.attention = None
        # Small weights can hide an attention of the model's own from the comparison.
        if not all(bool(cache[1:].any()) for cache in caches):
            raise StartupError(
                f"base {name!r}: a layer does not take its attention from transformers' "
                "AttentionInterface; not served"
            )
        _compare(got, expected, name, exact)


def _planned(library: FlashInfer, count: int, length: int, is_long: bool) -> PlannedAttention:
    """The attention of `count` sequences, each of `length` positions in a block of its own."""
    if is_long:
        seen = [(length, [1 + i]) for i in range(count)]
        return library.step(None, page_plan(seen, length, [length] * count))
    rows = [(1 + position, [1 + i]) for i in range(count) for position in range(length)]
    return library.step(page_plan(rows, length), None)


def _compare(got: torch.Tensor, expected: torch.Tensor, name: str, exact: bool) -> None:
    # Half precision and int8 rounding move logits by a few percent; a wrong mask, position or
    # scale moves them by their own size.
    tolerance = 1e-3 if exact else 0.1
    difference = (got.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= tolerance:
        raise StartupError(
            f"base {name!r}: with paged attention its logits differ from its own by "
            f"{float(difference):.1e} of their size; this architecture is not served"
        )
