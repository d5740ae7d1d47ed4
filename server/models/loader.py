"""Loads a base model: quantized, with our linears and paged attention in place."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from server.errors import StartupError
from server.kernels import (
    FlashInfer,
    Kernels,
    load_flashinfer,
    load_native,
    load_triton,
    warm_up,
)
from server.models.adapted import norm_inputs
from server.models.checkpoint import (
    check_shapes,
    eos_token_ids,
    one_line,
    read_config,
    read_model,
    read_tokenizer,
)
from server.models.checks import cache_shape, check_config, check_directory, probe, probe_tokens
from server.models.decoder import CacheShape, Decoder, install
from server.models.memory import available_bytes, fits_held
from server.models.nf4_table import choose_products, read_table
from server.types import BaseInfo, EmbeddingInfo, NormInfo
from understudy.artifact import base_fingerprint

# LLM.int8's published threshold; the one bitsandbytes, and so the trainer, uses.
_INT8_THRESHOLD = 6.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedBase:
    """A base model ready to run. Serves one engine: the step context belongs to the model."""

    decoder: Decoder
    cache_shape: CacheShape
    tokenizer: PreTrainedTokenizerBase
    info: BaseInfo
    dtype: torch.dtype
    device: torch.device
    eos_token_ids: frozenset[int]
    kernels: Kernels | None = None
    """What runs in the place of torch."""
    flashinfer: FlashInfer | None = None
    """What runs attention, if given."""

    def decode(self, token_ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        # Cleaning up would change text that a stream has sent already.
        text = self.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text)


def load_base(
    directory: Path,
    *,
    quantization: str = "nf4",
    dtype: str = "auto",
    device: str = "cpu",
    weight_form: str = "auto",
    name: str = "",
    deterministic: bool = False,
    int8_threshold: float | None = None,
    kernels: str = "auto",
    attention: str = "auto",
    nf4_table: Path | str | None = None,
    fingerprint: str | None = None,
) -> LoadedBase:
    """Loads a Hugging Face model directory.

    `quantization` is `nf4` (blocks of 64, double quantization, as QLoRA), `int8` (LLM.int8) or
    `none`; `dtype` is `auto` (float32 on CPU, bfloat16 on CUDA), `float32`, `bfloat16` or
    `float16`; `weight_form` is `auto`, `nf4_held` or `nf4_packed`. `int8_threshold` None is 6, or
    0 if `deterministic`. `kernels` is `auto` (native where they run and not `deterministic`),
    `native` or `triton` (not with `deterministic`), or `torch`. `attention` is `auto` (the kernels'
    or torch's) or `flashinfer` (CUDA, not with `deterministic`). With `nf4_table`, `measure` or a
    file, the faster one of two NF4 products runs. `fingerprint` is the directory's, where the
    caller knows it: hashing gigabytes takes long. Raises StartupError with one line.
    """
    name = name or directory.name
    check_directory(directory)
    _check_choice("quantization", quantization, ("nf4", "int8", "none"))
    _check_choice("dtype", dtype, ("auto", *_DTYPES))
    _check_choice("weight_form", weight_form, ("auto", "nf4_held", "nf4_packed"))
    target = _device(device)
    compute = _DTYPES.get(dtype, torch.bfloat16 if target.type == "cuda" else torch.float32)
    if deterministic and target.type != "cpu":
        raise StartupError(
            f"engine.deterministic: the base is on {target.type}; sums that no batch changes are "
            "known of products on a CPU alone; choose base.device 'cpu' or leave it off"
        )
    chosen = _kernels(kernels, compute, target, deterministic)
    flashinfer = _flashinfer(attention, compute, target, deterministic)
    table = None if nf4_table in (None, "measure") else read_table(Path(str(nf4_table)), target)
    threshold = 0.0 if deterministic else _INT8_THRESHOLD
    threshold = threshold if int8_threshold is None else int8_threshold
    config = read_config(directory, name)
    check_config(config, name)
    check_shapes(directory, config, name)
    if fingerprint is None:
        with one_line(name, "its files cannot be read"):
            fingerprint = base_fingerprint(directory)
    tokenizer = read_tokenizer(directory, name)
    model = read_model(
        directory,
        name,
        quantization=quantization,
        dtype=compute,
        device=target,
        int8_threshold=threshold,
    )
    vocab_size = config.get_text_config().vocab_size
    tokens = probe_tokens(vocab_size).to(target)
    with one_line(name, "does not run"), torch.inference_mode(), norm_inputs(model) as inputs:
        expected = torch.cat([model(row.unsqueeze(0)).logits for row in tokens])
        # Of another number of rows, so that the dimension that counts them is known.
        model(tokens[:1, :1])
    num_parameters = model.num_parameters()
    # Their product of packed weights is the faster one.
    hold = quantization == "nf4" and (
        weight_form == "nf4_held"
        or (
            weight_form == "auto"
            and not (chosen is not None and chosen.runs_linear(compute))
            and fits_held(num_parameters, compute, available_bytes(target))
        )
    )
    decoder = install(
        model, hold=hold, int8_threshold=threshold, norm_inputs=inputs, kernels=chosen
    )
    if nf4_table is not None:
        choose_products(decoder.groups, table, Path(nf4_table).name)
    shape = cache_shape(config)
    exact = compute == torch.float32 and quantization != "int8"
    probe(decoder, shape, expected, name, exact=exact, kernels=chosen, flashinfer=flashinfer)
    if chosen is not None and chosen.sampler is not None:
        with torch.inference_mode():
            warm_up(chosen.sampler, expected[0])
    info = BaseInfo(
        name=name,
        fingerprint=fingerprint,
        architecture=type(model).__name__,
        quantization=quantization,
        weight_form={"nf4": "nf4_held" if hold else "nf4_packed", "int8": "int8"}.get(
            quantization, "dense"
        ),
        dtype=str(compute).removeprefix("torch."),
        device=str(target),
        max_context_tokens=config.get_text_config().max_position_embeddings,
        vocab_size=vocab_size,
        hidden_size=config.get_text_config().hidden_size,
        num_parameters=num_parameters,
        resident_bytes=_resident_bytes(decoder),
        int8_threshold=threshold if quantization == "int8" else 0.0,
        deterministic=deterministic,
        has_body=decoder.has_body,
        tokenizer=tokenizer,
        cache_shape=(shape.num_layers, shape.num_kv_heads, shape.head_dim),
        linear_shapes={
            name: (columns.stop - columns.start, group.in_features)
            for group in decoder.groups
            for name, columns in zip(group.names, group.columns, strict=True)
        },
        norms={
            norm.path: NormInfo(len(norm.weight), norm.bias is not None) for norm in decoder.norms
        },
        embedding=_embedding_info(decoder),
        head=decoder.head.names[0] if decoder.head is not None else "",
        tied=_head_weight(decoder) is decoder.embedding.weight,
        is_own_weight=partial(_is_own_weight, decoder),
        biased_linears=frozenset().union(*(group.biased for group in decoder.groups)),
        transposed_linears=frozenset(
            name for group in decoder.groups if group.transposed for name in group.names
        ),
    )
    eos = eos_token_ids(model, tokenizer, vocab_size)
    return LoadedBase(decoder, shape, tokenizer, info, compute, target, eos, chosen, flashinfer)


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise StartupError(f"{field} {value!r} is not one of {', '.join(choices)}")


def _kernels(
    choice: str, dtype: torch.dtype, device: torch.device, deterministic: bool
) -> Kernels | None:
    _check_choice("kernels", choice, ("auto", "native", "triton", "torch"))
    if choice in ("native", "triton") and deterministic:
        # A product takes another kernel with more rows, and so another order of summation.
        raise StartupError(
            f"kernels {choice!r} beside deterministic: their sums depend on the number of rows; "
            "choose 'auto' or 'torch'"
        )
    if choice == "triton":
        found = load_triton(device)
        if isinstance(found, str):
            raise StartupError(f"kernels 'triton': {found}; choose 'auto'")
        return found
    if choice == "torch" or deterministic or (device.type != "cpu" and choice == "auto"):
        return None
    native = load_native()
    if native is not None and device.type == "cpu" and native.runs(dtype):
        return native
    if choice == "native":
        raise StartupError(
            f"kernels 'native': not compiled, or not for {dtype} on this {device.type}; reinstall "
            "where there is a C compiler, or choose 'auto'"
        )
    return None


def _flashinfer(
    choice: str, dtype: torch.dtype, device: torch.device, deterministic: bool
) -> FlashInfer | None:
    _check_choice("attention", choice, ("auto", "flashinfer"))
    if choice == "auto":
        return None
    found: Any = "its sums depend on the batch, which deterministic forbids"
    if not deterministic:
        found = load_flashinfer(device, dtype)
    if isinstance(found, str):
        raise StartupError(f"attention 'flashinfer': {found}; choose 'auto'")
    return FlashInfer(found, device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise StartupError(f"device {name!r} is not cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise StartupError(f"device {name!r} is not cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StartupError(f"device {name!r}: this machine, or this torch, has no CUDA")
    return device


def _embedding_info(decoder: Decoder) -> EmbeddingInfo | None:
    embedding = decoder.embedding
    if not embedding.is_lookup():
        return None
    rows, size = embedding.weight.shape
    return EmbeddingInfo(embedding.path, (rows, size))


def _head_weight(decoder: Decoder) -> torch.Tensor | None:
    return getattr(decoder.model.get_output_embeddings(), "weight", None)


def _is_own_weight(decoder: Decoder, path: str, weight: object) -> bool:
    own = decoder.embedding.weight if path == decoder.embedding.path else _head_weight(decoder)
    if own is None or not isinstance(weight, torch.Tensor):
        return False
    return torch.equal(weight[: len(own)].to(own.device, own.dtype), own)


def _resident_bytes(decoder: Decoder) -> int:
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for tensor in (*decoder.model.parameters(), *decoder.model.buffers())
    }
    # The head's weight is a parameter of the model still.
    linears = (group for group in decoder.groups if group is not decoder.head)
    return sum(tensors.values()) + sum(group.weight.resident_bytes for group in linears)
