"""What a forward pass keeps for the way back, counted on a model without weights.

The base's modules on the `meta` device, with the adapter attached, run the very batch; autograd's
own list of what it saves is summed up. So any architecture and method is counted by what it does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from trainer.config import TrainConfig
from trainer.estimate.shapes import LargestBatch
from trainer.methods import METHODS
from trainer.model import DTYPES, load_outline
from trainer.preflight.prepared import Prepared

# Korthikanti et al. (arXiv 2205.05198, section 4.1), without the attention matrix: bytes per token
# and width in a layer of two-byte numbers. For a model that does not run on `meta`.
BYTES_PER_TOKEN_AND_WIDTH = 34


def activation_bytes(config: TrainConfig, prepared: Prepared, batch: LargestBatch) -> int:
    """Bytes that autograd keeps at the end of the forward pass; `config` is resolved."""
    assert config.dtype is not None
    dtype = DTYPES[config.dtype]
    model: Any = load_outline(config.base, prepared.objective.task)
    model.to(dtype)
    model.requires_grad_(False)
    text = model.config.get_text_config()
    num_layers, width = text.num_hidden_layers, text.hidden_size
    num_virtual = METHODS[config.method.type].num_virtual_tokens(config.method)
    num_tokens = batch.num_rows * (batch.length + num_virtual)
    try:
        model = METHODS[config.method.type].attach(model, prepared.method, prepared.tokenizer)
        found = _saved(model, batch, prepared.objective.task, num_virtual)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, KeyError):
        per_layer = BYTES_PER_TOKEN_AND_WIDTH * width * dtype.itemsize // 2
        found = num_layers * num_tokens * per_layer
    if config.gradient_checkpointing:
        # What enters each layer, and one layer computed again, its passing tensors included.
        found = num_layers * num_tokens * width * dtype.itemsize + 2 * found // num_layers
    return int(found)


def _saved(model: Any, batch: LargestBatch, task: str, num_virtual: int) -> int:
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            # Kept, so that no other storage gets its number.
            saved[_storage(tensor)] = tensor
        return tensor

    model.train()
    ids = torch.zeros(batch.num_rows, batch.length, dtype=torch.long, device="meta")
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _Fused():
        if task == "SEQ_CLS":
            _run_backbone(model, ids, num_virtual)
        else:
            hook = _few_logits(model, batch.num_terms)
            try:
                logits = model(**inputs).logits.float()
            finally:
                hook.remove()
            targets = torch.zeros(len(logits), dtype=torch.long, device="meta")
            functional.cross_entropy(logits, targets, reduction="sum")
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _run_backbone(model: Any, ids: Tensor, num_virtual: int) -> None:
    """A classifier up to its head, which looks for padding and so needs real numbers."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(whole, whole.base_model_prefix)
    if not num_virtual:
        backbone(input_ids=ids)
        return
    # As what is trained in front of the words, they carry gradients on through every layer.
    shape = (len(ids), ids.shape[1] + num_virtual, whole.config.get_text_config().hidden_size)
    embeddings = torch.zeros(shape, dtype=whole.dtype, device="meta", requires_grad=True)
    backbone(inputs_embeds=embeddings)


def _few_logits(model: PreTrainedModel, num_terms: int) -> Any:
    """Only the positions that are learnt pass the output head, as in training."""

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0].flatten(0, -2)
        return (hidden[: min(num_terms, len(hidden))], *args[1:])

    return model.get_output_embeddings().register_forward_pre_hook(keep)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Fused(TorchFunctionMode):
    """Attention keeps what the fused kernels keep, which `meta` tensors do not run."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _FusedAttention(torch.autograd.Function):
    """Query [B, N, T, D], key and value [B, M, S, D] -> output [B, N, T, D] of the right size."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keeps its inputs, its output, and a number per row."""
        output = torch.empty_like(query)
        normaliser = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, normaliser)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Never asked for."""
        raise NotImplementedError
