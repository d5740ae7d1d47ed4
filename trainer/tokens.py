"""Examples as token ids, by the token contract of `understudy.artifact`, and their batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainer.data import Example

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """One example as token ids. `completion_ids` ends with the end-of-sequence id."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    where: str

    @property
    def num_tokens(self) -> int:
        """Prompt and completion together."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right.

    B examples, T tokens of the longest. `labels` equals `input_ids` where the completion is and
    IGNORED elsewhere, unshifted: the token at t is predicted from those before t.
    """

    input_ids: Tensor  # [B, T]
    labels: Tensor  # [B, T]
    num_tokens: int
    """Prompt and completion tokens, without padding."""
    num_terms: int
    """What the loss is a sum over: completion tokens."""
    where: tuple[str, ...]
    """`file:line` of each example."""


def encode(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Encoded]:
    """Token ids of `examples`, in order."""
    if not examples:
        return []
    prompts = tokenizer([e.prompt for e in examples], add_special_tokens=True)["input_ids"]
    completions = tokenizer([e.completion for e in examples], add_special_tokens=False)["input_ids"]
    return [
        Encoded(tuple(prompt), (*completion, tokenizer.eos_token_id), example.where)
        for prompt, completion, example in zip(prompts, completions, examples, strict=True)
    ]


def collate(examples: Sequence[Encoded], device: torch.device | str = "cpu") -> Batch:
    """Pads `examples` into a batch.

    Padding stands on the right, where no real token attends to it, so its id does not matter and
    no attention mask is needed.
    """
    longest = max(example.num_tokens for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.prompt_ids + example.completion_ids)
        begin = len(example.prompt_ids)
        input_ids[row, : len(ids)] = ids
        labels[row, begin : len(ids)] = ids[begin:]
    return Batch(
        input_ids.to(device),
        labels.to(device),
        num_tokens=sum(example.num_tokens for example in examples),
        num_terms=sum(len(example.completion_ids) for example in examples),
        where=tuple(example.where for example in examples),
    )
