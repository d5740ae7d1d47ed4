"""Trained embeddings of a few tokens, through PEFT."""

import dataclasses
from typing import cast

import peft
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.config.methods import TrainableTokensConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method, unload
from trainer.methods.virtual_tokens import embeddings
from trainer.model import task_of

# Of textual inversion (Gal et al., arXiv 2208.01618), which trains the embedding of one
# token in the same way.
LEARNING_RATE = 5e-3


def bind(
    settings: TrainableTokensConfig, outline: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TrainableTokensConfig:
    """`settings` with sorted ids. Raises ConfigError for a word that is no token of the base."""
    num_rows = len(embeddings(outline))
    ids = {_id_of(token, num_rows, tokenizer) for token in settings.tokens}
    if len(ids) < len(settings.tokens):
        raise ConfigError("key 'method.tokens': names a token twice")
    return dataclasses.replace(settings, tokens=tuple(sorted(ids)))


def attach(
    base: PreTrainedModel, settings: TrainableTokensConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with copies of the tokens' embeddings, in float32; where the base ties its
    output head to them, the head has them too."""
    model = peft.get_peft_model(
        base,
        peft.TrainableTokensConfig(
            task_type=task_of(base), token_indices=[cast(int, i) for i in settings.tokens]
        ),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            # PEFT makes them in the base's type, and casts them to it at every use.
            parameter.data = parameter.data.to(torch.float32)
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return unload(model)


def num_trainable(outline: PreTrainedModel, settings: TrainableTokensConfig) -> int:
    """Parameters that `attach` would add."""
    return len(settings.tokens) * embeddings(outline).shape[1]


def _id_of(token: int | str, num_rows: int, tokenizer: PreTrainedTokenizerBase) -> int:
    key = "key 'method.tokens'"
    if isinstance(token, int):
        if not 0 <= token < num_rows:
            raise ConfigError(f"{key}: id {token} is not of the base, whose last is {num_rows - 1}")
        return token
    ids: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
    found = ids[0] if len(ids) == 1 else tokenizer.get_vocab().get(token)
    if found is None:
        parts = ", ".join(repr(tokenizer.decode([i])) for i in ids[:8])
        raise ConfigError(
            f"{key}: {token!r} is {len(ids)} tokens of the base ({parts}); name words that are one "
            "token, with the space before them where there is one, or ids"
        )
    return int(found)


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError for a classifier: PEFT trains and saves no head beside tokens."""
    if task_of(outline) == "SEQ_CLS":
        raise ConfigError(
            f"key 'method.type': {config.method.type!r} has no place for the head that the "
            f"objective {config.objective.type!r} trains; take head, or another method"
        )


METHOD = Method(
    check=check,
    bind=bind,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
)
