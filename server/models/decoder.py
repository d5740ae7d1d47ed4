"""A transformers decoder with our linears and paged attention in place."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from server.kernels import Kernels, paged_attention
from server.models.adapted import (
    AdaptedEmbedding,
    AdaptedNorm,
    adapt_head,
    adapt_norms,
    path_of,
)
from server.models.fast_modules import accelerate
from server.models.layers import AdaptedLinear, LinearGroup, StepContext
from server.models.weights import can_fuse, is_linear, shape_of, take_weight

ATTENTION = "understudy_paged"

# Linears of one module that read the same input, by transformers' names.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class CacheShape:
    """One position of one layer's cache is [2, num_kv_heads, head_dim]."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def position_bytes(self, dtype: torch.dtype) -> int:
        """Cache memory of one position over all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * dtype.itemsize


class Decoder:
    """Runs one packed row of tokens through a model. Not safe for concurrent use."""

    def __init__(
        self,
        model: PreTrainedModel,
        groups: tuple[LinearGroup, ...],
        head: LinearGroup | None,
        norms: tuple[AdaptedNorm, ...],
        context: StepContext,
        head_context: StepContext,
    ) -> None:
        """`head` is the last of `groups`, or None where no adapter may change the output head;
        `head_context` is for its rows, those that have logits."""
        self.model = model
        self.groups = groups
        self.head = head
        self.norms = norms
        self.context = context
        self.head_context = head_context
        embedding = model.get_input_embeddings()
        self.embedding = AdaptedEmbedding(path_of(model, embedding), embedding, context)
        self.has_body = model.base_model is not model
        """Whether the model has final hidden states apart from its output head."""

    @torch.inference_mode()
    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        rows: torch.Tensor,
        embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        state_rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [len(rows), vocabulary, or more: the largest that an adapter of the step has] of
        the given rows, and the hidden states
        [len(state_rows), hidden] that leave the model's body at others.

        `token_ids` and `positions` are [T]. `embeddings` is (rows, [rows, hidden]): input
        embeddings that stand in for those rows' tokens. The step contexts must be set.
        `state_rows` requires `has_body`.
        """
        if embeddings is None and self.context.changes is None:
            inputs: dict[str, Any] = {"input_ids": token_ids.unsqueeze(0)}
        else:
            states = self.embedding(token_ids)
            if embeddings is not None:
                states[embeddings[0]] = embeddings[1]
            inputs = {"inputs_embeds": states.unsqueeze(0)}
        kept: list[torch.Tensor] = []
        with self._keeping(kept, state_rows):
            logits: torch.Tensor = self.model(
                **inputs, position_ids=positions.unsqueeze(0), use_cache=False, logits_to_keep=rows
            ).logits
        return logits[0], kept[0] if kept else logits.new_empty(0)

    @contextlib.contextmanager
    def _keeping(self, kept: list[torch.Tensor], rows: torch.Tensor | None) -> Iterator[None]:
        """Appends the hidden states of `rows` to `kept` when the body has run in the block."""
        if rows is None or not len(rows):
            yield
            return
        hook = self.model.base_model.register_forward_hook(
            lambda _module, _inputs, output: kept.append(output[0][0, rows])
        )
        try:
            yield
        finally:
            hook.remove()


def install(
    model: Any,
    *,
    hold: bool,
    int8_threshold: float,
    norm_inputs: Mapping[str, list[torch.Size]],
    kernels: Kernels | None = None,
) -> Decoder:
    """Puts our linears, norms and attention into a loaded model, in place.

    Quantized weights move over without being quantized again; with `hold`, NF4 weights are also
    kept dequantized. With `kernels` its kernels run what they can. `norm_inputs` are as for
    `adapt_norms`.
    """
    context, head_context = StepContext(), StepContext()
    head = model.get_output_embeddings()
    groups: list[LinearGroup] = []
    for path, parent in list(model.named_modules()):
        linears = {
            name: child
            for name, child in parent.named_children()
            if is_linear(child) and child is not head
        }
        for names in _grouped(linears):
            members = [linears[name] for name in names]
            weight = take_weight(members, hold=hold, int8_threshold=int8_threshold, kernels=kernels)
            full = tuple(f"{path}.{name}" if path else name for name in names)
            in_features = shape_of(members[0])[1]
            group = LinearGroup(
                len(groups),
                full,
                in_features,
                weight,
                context,
                biased=frozenset(
                    name for name, m in zip(full, members, strict=True) if m.bias is not None
                ),
                transposed=isinstance(members[0], Conv1D),
            )
            groups.append(group)
            for index, name in enumerate(names):
                setattr(parent, name, AdaptedLinear(group, index, shape_of(linears.pop(name))))
    head_group = None
    if type(head) is nn.Linear:
        weight = take_weight([head], hold=hold, int8_threshold=int8_threshold, kernels=kernels)
        path = path_of(model, head)
        head_group = LinearGroup(
            len(groups),
            (path,),
            head.in_features,
            weight,
            head_context,
            biased=frozenset((path,) if head.bias is not None else ()),
            transposed=False,
        )
        groups.append(head_group)
        adapt_head(model, head_group)
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            # Past nn.Module's own __setattr__: the context is not part of the model.
            object.__setattr__(module, "step_context", context)
    if kernels is not None:
        accelerate(model, kernels)
    norms = adapt_norms(model, context, norm_inputs)
    AttentionInterface.register(ATTENTION, _attention)
    model.set_attn_implementation(ATTENTION)
    return Decoder(model, tuple(groups), head_group, norms, context, head_context)


def _grouped(linears: dict[str, nn.Module]) -> list[tuple[str, ...]]:
    fused = [
        names
        for names in _SIBLINGS
        if all(name in linears for name in names) and can_fuse([linears[n] for n in names])
    ]
    taken = {name for names in fused for name in names}
    return fused + [(name,) for name in linears if name not in taken]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query [1, H, T, D], key and value [1, K, T, D]."""
    step = module.step_context.attention
    if step is None or attention_mask is not None:
        raise RuntimeError("paged attention runs on packed rows without a mask")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    out = paged_attention(
        step, module.layer_idx, query, key, value, scaling, sliding_window, softcap
    )
    return out, None
