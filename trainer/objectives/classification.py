"""Cross-entropy of a row's class, from a head over the prompt's last token."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import peft
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from trainer.config import ClassificationConfig, DataConfig
from trainer.data import Example, Row, to_examples
from trainer.errors import BaseModelError, DataError
from trainer.objectives.objective import Objective
from trainer.tokens import Encoded
from understudy.prompt import PromptTemplate

# Beyond this a column of texts or numbers was taken for one of classes.
MAX_LABELS = 1000
# Fewer examples of a class, on average, are no classes to learn.
MIN_EXAMPLES_PER_LABEL = 2


@dataclass(frozen=True)
class ClassBatch:
    """B prompts padded on the right to T tokens."""

    input_ids: Tensor  # [B, T]
    lengths: Tensor  # [B], tokens of each
    class_ids: Tensor  # [B]
    weights: Tensor  # [B], float32
    num_tokens: int
    num_terms: float
    """The sum of `weights`."""
    where: tuple[str, ...]


@dataclass(frozen=True)
class Classification(Objective):
    """Learns which of several classes a prompt belongs to."""

    task: ClassVar[str] = "SEQ_CLS"
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")

    settings: ClassificationConfig
    labels: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    """Of the loss of each label."""

    def target_columns(self, data: DataConfig) -> tuple[str, ...]:
        """The label's."""
        return (self.settings.label_column,)

    def read(
        self, rows: Sequence[Row], template: PromptTemplate, data: DataConfig, *, chat: bool
    ) -> list[Example]:
        """Prompt and label of each row. Raises DataError."""
        if chat:
            raise DataError(
                f"{rows[0].where}: rows with messages are not classified; write the text into "
                f"columns, and its class into {self.settings.label_column!r}"
            )
        column = self.settings.label_column
        for row in rows:
            if isinstance(row.fields.get(column), float):
                raise DataError(
                    f"{row.where}: column {column!r} holds {row.fields[column]}, no label; labels "
                    "are texts or whole numbers"
                )
        return to_examples(rows, template, chat=False, completion_column=column)

    def bound(self, train: Sequence[Example]) -> Self:
        """With the training examples' labels, sorted: as numbers, if all of them are."""
        counts = Counter(example.completion for example in train)
        labels = self.settings.labels or tuple(sorted(counts, key=_order(counts)))
        self._check(labels, counts)
        total, num = sum(counts.values()), len(counts)
        weights = (1.0,) * len(labels)
        if self.settings.class_weights == "balanced":
            # A label that is named and has no rows weighs nothing, whatever its weight.
            weights = tuple(total / (num * max(1, counts[label])) for label in labels)
        return dataclasses.replace(self, labels=labels, weights=weights)

    def _check(self, labels: Sequence[str], counts: Counter[str]) -> None:
        """Raises DataError where there is nothing to learn, or something else than classes."""
        column, total = repr(self.settings.label_column), sum(counts.values())
        if unknown := sorted(counts.keys() - set(labels)):
            raise DataError(
                f"column {column}: {counts[unknown[0]]} training rows have the label "
                f"{unknown[0][:80]!r}, which objective.labels does not name"
            )
        most, num_most = counts.most_common(1)[0]
        if len(counts) == 1:
            raise DataError(
                f"column {column}: all {total} training rows have the label {most[:80]!r}; there "
                "is nothing to tell apart"
            )
        if len(counts) > MAX_LABELS or len(counts) * MIN_EXAMPLES_PER_LABEL > total:
            raise DataError(
                f"column {column}: {len(counts)} different labels in {total} training rows are no "
                f"classes (at most {MAX_LABELS}, of {MIN_EXAMPLES_PER_LABEL} rows on average); "
                "name another objective.label_column"
            )
        share = num_most / total
        limit = self.settings.max_majority_share
        if share > limit and self.settings.class_weights == "equal":
            raise DataError(
                f"column {column}: {share:.1%} of the training rows have the label {most[:80]!r}, "
                f"more than objective.max_majority_share {limit}: whoever always says it is right "
                "as often; set objective.class_weights to balanced, or raise the share"
            )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
    ) -> list[Encoded]:
        """Token ids of prompts, and the classes. Raises DataError for one unknown in training."""
        if not examples:
            return []
        ids = {label: index for index, label in enumerate(self.labels)}
        for example in examples:
            if example.completion not in ids:
                raise DataError(
                    f"{example.where}: no training row has its label "
                    f"{example.completion[:80]!r}; add some, or name all in objective.labels"
                )
        prompts = tokenizer([e.prompt for e in examples], add_special_tokens=True)["input_ids"]
        return [
            Encoded(tuple(prompt), (), example.where, class_id=ids[example.completion])
            for prompt, example in zip(prompts, examples, strict=True)
        ]

    def collate(self, examples: Sequence[Encoded], device: str) -> ClassBatch:
        """Padded on the right, where no real token attends to it."""
        class_ids = [cast(int, example.class_id) for example in examples]
        weights = [self.weights[index] for index in class_ids]
        lengths = [example.num_tokens for example in examples]
        prompts = [torch.tensor(example.prompt_ids) for example in examples]
        return ClassBatch(
            pad_sequence(prompts, batch_first=True).to(device),
            torch.tensor(lengths, device=device),
            torch.tensor(class_ids, device=device),
            torch.tensor(weights, dtype=torch.float32, device=device),
            num_tokens=sum(lengths),
            num_terms=sum(weights),
            where=tuple(example.where for example in examples),
        )

    def summed_loss(self, model: Any, batch: ClassBatch) -> Tensor:
        """Weighted sum over the batch of -log p(class | prompt)."""
        return self._loss(self.logits(model, batch), batch)

    def measure(self, model: Any, batch: ClassBatch) -> tuple[Tensor, list[tuple[int, int]]]:
        """Also the predicted and the true class of each prompt."""
        logits = self.logits(model, batch)
        pairs = zip(logits.argmax(1).tolist(), batch.class_ids.tolist(), strict=True)
        return self._loss(logits, batch), list(pairs)

    def metrics(self, observed: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Accuracy, and the mean of the classes' F1, as scikit-learn's `f1_score` with `macro`:
        over the classes that were predicted or are true."""
        right = Counter(true for predicted, true in observed if predicted == true)
        named = Counter(predicted for predicted, _ in observed)
        there = Counter(true for _, true in observed)
        classes = sorted(named.keys() | there.keys())
        f1 = [2 * right[c] / (named[c] + there[c]) for c in classes]
        return {"accuracy": right.total() / len(observed), "macro_f1": sum(f1) / len(f1)}

    def logits(self, model: Any, batch: ClassBatch) -> Tensor:
        """Of each prompt's classes [B, C], in float32, from its last token's final state."""

        def keep_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]  # [B, N + T, H]: N virtual tokens in front for soft prompts
            last = batch.lengths - 1 + (hidden.shape[1] - batch.input_ids.shape[1])
            states = hidden[torch.arange(len(last), device=last.device), last].float()
            # At every position, for transformers then takes one by what it believes is padding.
            return (states[:, None].expand(-1, batch.input_ids.shape[1], -1), *args[1:])

        base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        hook = base.get_submodule("score").register_forward_pre_hook(keep_last)
        try:
            return cast(Tensor, model(input_ids=batch.input_ids).logits)
        finally:
            hook.remove()

    @staticmethod
    def _loss(logits: Tensor, batch: ClassBatch) -> Tensor:
        losses = functional.cross_entropy(logits.float(), batch.class_ids, reduction="none")
        return (losses * batch.weights).sum()


def _order(labels: Sequence[str] | Counter[str]) -> Any:
    """A sort key for labels: their number, if all of them are whole numbers."""
    numbers = all(label.removeprefix("-").isdecimal() for label in labels)
    return (lambda label: (int(label), label)) if numbers else None


def make(settings: ClassificationConfig, base: PreTrainedConfig) -> Objective:
    """The objective for a base of this configuration. Raises BaseModelError."""
    if base.is_encoder_decoder:
        raise BaseModelError(
            f"base of type {base.model_type!r}: an encoder-decoder is not classified with; take a "
            "decoder, or learn the labels as completions (objective: {type: supervised})"
        )
    return Classification(settings)
