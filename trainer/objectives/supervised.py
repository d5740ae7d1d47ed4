"""Next-token cross-entropy on completions."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from trainer.tokens import IGNORED, Batch


def summed_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Sum over the batch's completion tokens of -log p(token | what came before), float32, scalar.

    Divide by `batch.num_terms`, or by their sum over accumulated batches. Only the
    positions that predict a completion token pass the output head.
    """
    rows, columns = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = batch.labels[rows, columns + 1]

    def keep_predicting(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]  # [B, N + T, H]: N virtual tokens in front for soft prompts
        num_virtual = hidden.shape[1] - batch.input_ids.shape[1]
        return (hidden[rows, columns + num_virtual], *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(keep_predicting)
    try:
        logits = model(input_ids=batch.input_ids).logits  # [completion tokens, V]
    finally:
        hook.remove()
    return functional.cross_entropy(logits.float(), targets, reduction="sum")


def summed_loss_plain(model: PreTrainedModel, batch: Batch) -> Tensor:
    """`summed_loss` written plainly: all logits, then the mean over labels by transformers."""
    mask = torch.arange(batch.input_ids.shape[1], device=batch.labels.device)
    lengths = (batch.labels != IGNORED).long().cumsum(1).argmax(1) + 1
    output = model(
        input_ids=batch.input_ids,
        attention_mask=(mask < lengths[:, None]).long(),
        labels=batch.labels,
    )
    return cast(Tensor, output.loss) * batch.num_terms
