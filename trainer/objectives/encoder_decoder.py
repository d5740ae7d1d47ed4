"""Cross-entropy of completions that a decoder writes about a prompt that an encoder read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import peft
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig

from trainer.errors import BaseModelError
from trainer.objectives.supervised import Supervised
from trainer.tokens import IGNORED, Encoded


@dataclass(frozen=True)
class PairBatch:
    """B examples: prompts of up to S tokens, completions of up to T, padded on the right."""

    input_ids: Tensor  # [B, S]
    attention_mask: Tensor  # [B, S]; an encoder looks both ways, so it would see the padding
    labels: Tensor  # [B, T], IGNORED where nothing is learnt
    num_tokens: int
    num_terms: int
    """Completion tokens that are learnt."""
    where: tuple[str, ...]


class EncoderDecoder(Supervised):
    """Learns the completion that a decoder writes about an encoded prompt."""

    task: ClassVar[str] = "SEQ_2_SEQ_LM"
    can_pack: ClassVar[bool] = False

    def collate(self, examples: Sequence[Encoded], device: str) -> PairBatch:  # type: ignore[override]
        """Prompts for the encoder, completions as the decoder's labels."""
        prompts = [torch.tensor(example.prompt_ids) for example in examples]
        labels = [torch.tensor(example.labels[len(example.prompt_ids) :]) for example in examples]
        masks = [torch.ones_like(prompt) for prompt in prompts]
        return PairBatch(
            pad_sequence(prompts, batch_first=True).to(device),
            pad_sequence(masks, batch_first=True).to(device),
            pad_sequence(labels, batch_first=True, padding_value=IGNORED).to(device),
            num_tokens=sum(example.num_tokens for example in examples),
            num_terms=sum(example.num_learnt for example in examples),
            where=tuple(example.where for example in examples),
        )

    def summed_loss(self, model: Any, batch: PairBatch) -> Tensor:  # type: ignore[override]
        """Sum over the batch's completion tokens of -log p(token | prompt, what came before)."""
        return functional.cross_entropy(
            self.logits(model, batch).float().flatten(0, 1),
            batch.labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )

    def logits(self, model: Any, batch: PairBatch) -> Tensor:  # type: ignore[override]
        """Of every position of the completions: [B, T, V]."""
        base: Any = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            # The labels one to the right, behind the token that starts every completion.
            decoder_input_ids=base.prepare_decoder_input_ids_from_labels(labels=batch.labels),
        )
        return cast(Tensor, output.logits)


def make(base: PreTrainedConfig) -> EncoderDecoder:
    """The objective for a base of this configuration. Raises BaseModelError."""
    for key in ("decoder_start_token_id", "pad_token_id"):
        if getattr(base, key, None) is None:
            raise BaseModelError(
                f"base of type {base.model_type!r}: config.json has no {key}, with which every "
                "completion would begin; add it"
            )
    return EncoderDecoder()
