"""Next-token cross-entropy on completions."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import tokens
from trainer.config import DataConfig
from trainer.data import Example, Row, to_examples
from trainer.generated import SCORES
from trainer.objectives.objective import Objective
from trainer.packing import collate_packed
from trainer.tokens import IGNORED, Batch, Encoded
from understudy.prompt import PromptTemplate


class Supervised(Objective):
    """Learns the completion that follows a prompt."""

    task: ClassVar[str] = "CAUSAL_LM"
    can_pack: ClassVar[bool] = True
    scores = tuple(SCORES)
    generates = True

    def target_columns(self, data: DataConfig) -> tuple[str, ...]:
        """The completion's."""
        return (data.completion_column,)

    def read(
        self, rows: Sequence[Row], template: PromptTemplate, data: DataConfig, *, chat: bool
    ) -> list[Example]:
        """Prompt and completion of each row. Raises DataError."""
        return to_examples(
            rows,
            template,
            chat=chat,
            completion_column=data.completion_column,
            all_turns=data.assistant_turns == "all",
        )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
    ) -> list[Encoded]:
        """Token ids of prompts and completions."""
        return tokens.encode(tokenizer, examples)

    def collate(self, examples: Sequence[Encoded], device: str) -> Batch:
        """Padded on the right."""
        return tokens.collate(examples, device)

    def collate_packed(self, examples: Sequence[Encoded], device: str, width: int) -> Batch:
        """Several to a row, where that is less work."""
        return collate_packed(examples, device, width)

    def summed_loss(self, model: Any, batch: Batch) -> Tensor:
        """See `summed_loss` below."""
        return summed_loss(model, batch)

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Of every position: [B, T, V]."""
        return cast(Tensor, model(input_ids=batch.input_ids).logits)


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
        # [completion tokens, V]
        logits = model(input_ids=batch.input_ids, **_positions(batch)).logits
    finally:
        hook.remove()
    return functional.cross_entropy(logits.float(), targets, reduction="sum")


def _positions(batch: Batch) -> dict[str, Tensor]:
    # Not every model takes them, so they are named only where rows are packed.
    return {} if batch.position_ids is None else {"position_ids": batch.position_ids}


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
