"""Refuses training data from which nothing, or nothing but its own labels, can be learnt."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.data import Example
from trainer.errors import ConfigError, DataError
from trainer.examples import Examples


def check_trainable(num_trainable: int) -> None:
    """Raises ConfigError if the method would train no parameter."""
    if num_trainable == 0:
        raise ConfigError(
            "key 'method': it would train no parameter of this base; name other layers, or take "
            "another method"
        )


def check_texts(examples: Sequence[Example]) -> None:
    """Raises DataError for rows that are all the same, or whose prompts hold the text to learn.

    Stops reading at the first row that is as it should be.
    """
    if len(examples) < 2:
        return
    first = examples[0]
    if all(e.content == first.content and e.completion == first.completion for e in examples):
        raise DataError(
            f"{first.where}: all {len(examples)} training rows are this one; there is nothing to "
            "tell apart"
        )
    copies = set(first.values)
    for example in examples:
        copies = {name for name in copies if example.values[name] == example.completion}
        if not copies:
            return
    raise DataError(
        f"{first.where}: column {min(copies)!r}, which the prompt shows, holds the text to learn "
        "in every row; take it out of data.template"
    )


def check_encoded(config: TrainConfig, train: Examples) -> None:
    """Raises DataError if no example is left, or all completions are without tokens."""
    if not len(train):
        raise DataError(
            "no training example is short enough; raise data.max_length, or shorten them"
        )
    if config.objective.type == "supervised" and all(one.num_learnt <= 1 for one in train):
        raise DataError(
            f"{train[0].where}: no completion has a token beside the one that ends it, so there is "
            "nothing to learn; look at data.completion_column"
        )


def check_ids(parts: Sequence[Examples], tokenizer: PreTrainedTokenizerBase, num_rows: int) -> None:
    """Raises DataError for a token that the tokenizer knows and the base has no embedding of, of
    `num_rows`.

    Reads the examples only where there are such tokens.
    """
    if max(tokenizer.get_vocab().values(), default=0) < num_rows:
        return
    for example in (example for part in parts for example in part):
        if (largest := max(example.input_ids, default=0)) >= num_rows:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise DataError(
                f"{example.where}: holds the token {token!r}, number {largest} of the base's "
                f"tokenizer, but its weights have {num_rows} embeddings; take the tokenizer that "
                "belongs to them"
            )
