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
    """One example as token ids."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Ends with the end-of-sequence id; empty for an example that has a `class_id`."""
    where: str
    """`file:line`, for messages."""
    learnt: tuple[bool, ...] | None = None
    """Which of `completion_ids` the loss counts: a chat of several learnt turns holds others' turns
    between them. None: all."""
    class_id: int | None = None
    """Index of its class among the sorted names, for classification."""
    rejected_ids: tuple[int, ...] = ()
    """Of a preference, the completion that is the worse one; it ends as `completion_ids` does."""

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Prompt and completion."""
        return self.prompt_ids + self.completion_ids

    @property
    def labels(self) -> tuple[int, ...]:
        """`input_ids` where the loss counts them, IGNORED elsewhere; unshifted."""
        completion = self.completion_ids
        if self.learnt is not None:
            pairs = zip(completion, self.learnt, strict=True)
            completion = tuple(i if learnt else IGNORED for i, learnt in pairs)
        return (IGNORED,) * len(self.prompt_ids) + completion

    @property
    def num_tokens(self) -> int:
        """Prompt and completions together."""
        return len(self.prompt_ids) + len(self.completion_ids) + len(self.rejected_ids)

    @property
    def num_learnt(self) -> int:
        """Completion tokens that the loss counts."""
        return len(self.completion_ids) if self.learnt is None else sum(self.learnt)


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right.

    B examples, T tokens of the longest. `labels` equals `input_ids` where the text to learn is and
    IGNORED elsewhere, unshifted: the token at t is predicted from those before t.
    """

    input_ids: Tensor  # [B, T]
    labels: Tensor  # [B, T]
    num_tokens: int
    """Prompt and completion tokens, without padding."""
    num_terms: int
    """What the loss is a sum over: completion tokens that are learnt."""
    where: tuple[str, ...]
    """`file:line` of each example."""
    position_ids: Tensor | None = None  # [B, T]
    """Given where rows hold several examples (see `trainer.packing`)."""


def encode(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Encoded]:
    """Token ids of `examples`, in order."""
    if not examples:
        return []
    if any(example.learnt for example in examples):
        return [_encode_turns(tokenizer, example) for example in examples]
    prompts = tokenizer([e.prompt for e in examples], add_special_tokens=True)["input_ids"]
    completions = tokenizer([e.completion for e in examples], add_special_tokens=False)["input_ids"]
    return [
        Encoded(tuple(prompt), (*completion, tokenizer.eos_token_id), example.where)
        for prompt, completion, example in zip(prompts, completions, examples, strict=True)
    ]


def _encode_turns(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """One example whose prompt holds turns that are learnt: what precedes the first is the prompt.

    A turn is tokenized by itself, as the server generates it, and so is what stands between turns.
    An end-of-sequence token right behind a turn is learnt with it.
    """
    first = min((begin for begin, _ in example.learnt), default=len(example.prompt))
    pieces, place = [], first
    for begin, end in example.learnt:
        if example.prompt.startswith(tokenizer.eos_token, end):
            end += len(tokenizer.eos_token)
        pieces += [(example.prompt[place:begin], False), (example.prompt[begin:end], True)]
        place = end
    pieces += [(example.prompt[place:], False), (example.completion, True)]
    completion_ids: list[int] = []
    learnt: list[bool] = []
    for text, is_learnt in pieces:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        completion_ids += ids
        learnt += [is_learnt] * len(ids)
    return Encoded(
        tuple(tokenizer(example.prompt[:first], add_special_tokens=True)["input_ids"]),
        (*completion_ids, tokenizer.eos_token_id),
        example.where,
        None if all(learnt) else (*learnt, True),
    )


def collate(examples: Sequence[Encoded], device: torch.device | str = "cpu") -> Batch:
    """Pads `examples` into a batch.

    Padding stands on the right, where no real token attends to it, so its id does not matter and
    no attention mask is needed.
    """
    longest = max(example.num_tokens for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    for row, example in enumerate(examples):
        input_ids[row, : example.num_tokens] = torch.tensor(example.input_ids)
        labels[row, : example.num_tokens] = torch.tensor(example.labels)
    return Batch(
        input_ids.to(device),
        labels.to(device),
        num_tokens=sum(example.num_tokens for example in examples),
        num_terms=sum(example.num_learnt for example in examples),
        where=tuple(example.where for example in examples),
    )
