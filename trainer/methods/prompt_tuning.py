"""Prompt tuning through PEFT, with initial embeddings of our own."""

import dataclasses
from typing import cast

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import PromptTuningConfig
from trainer.errors import ConfigError
from trainer.examples import Examples
from trainer.methods.method import Method
from trainer.methods.virtual_tokens import check_text, drawn_ids, embeddings, ids_of_text
from trainer.model import task_of

# Of PEFT's own causal-LM prompt tuning guide. Lester et al. (arXiv 2104.08691, section 3.1) use
# 0.3, with Adafactor, whose steps scale with the parameters' size.
LEARNING_RATE = 3e-2


def complete(settings: PromptTuningConfig) -> PromptTuningConfig:
    """Raises ConfigError if what to start at is missing, given for nothing, or too much."""
    check_text(settings.init, settings.init_text)
    labels = settings.init_labels
    if labels is not None:
        if settings.init != "class_labels":
            raise ConfigError("key 'method.init_labels': give it with `init: class_labels` only")
        if not labels or not all(label.strip() for label in labels):
            raise ConfigError("key 'method.init_labels': must name labels, each with a text")
        if len(labels) > settings.num_virtual_tokens:
            raise ConfigError(
                f"key 'method.init_labels': {len(labels)} labels are more than the "
                f"{settings.num_virtual_tokens} of method.num_virtual_tokens"
            )
    return settings


def with_examples(
    settings: PromptTuningConfig, examples: Examples, tokenizer: PreTrainedTokenizerBase
) -> PromptTuningConfig:
    """`settings` with the completions as labels, where none are named. Raises ConfigError."""
    if settings.init != "class_labels" or settings.init_labels is not None:
        return settings
    found: dict[tuple[int, ...], None] = {}
    for example in examples:
        # The last id is the end of sequence.
        found.setdefault(example.completion_ids[:-1])
        if len(found) > settings.num_virtual_tokens or not example.completion_ids:
            raise ConfigError(
                "key 'method.init': 'class_labels' takes the completions as labels, but the "
                f"training examples have more than {settings.num_virtual_tokens} different ones, "
                "or none; name the labels in method.init_labels"
            )
    labels = sorted(str(tokenizer.decode(list(ids))) for ids in found)
    return dataclasses.replace(settings, init_labels=tuple(labels))


def attach(
    base: PreTrainedModel, settings: PromptTuningConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with fresh virtual tokens in float32, drawn from torch's current state.

    PEFT is told `RANDOM`, for its own text initialisation would write a tokenizer's path into the
    adapter; what counts are the embeddings set here.
    """
    model = peft.get_peft_model(
        base,
        peft.PromptTuningConfig(
            task_type=task_of(base),
            num_virtual_tokens=settings.num_virtual_tokens,
            # PEFT would train as many again for a decoder, and never use them.
            num_transformer_submodules=1,
            prompt_tuning_init=peft.PromptTuningInit.RANDOM,
        ),
    )
    initial = _initial(embeddings(base).detach().float(), settings, tokenizer)
    with torch.no_grad():
        model.get_parameter("prompt_encoder.default.embedding.weight").copy_(initial)
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return cast(PreTrainedModel, model.get_base_model())


def num_trainable(outline: PreTrainedModel, settings: PromptTuningConfig) -> int:
    """Parameters that `attach` would add."""
    return settings.num_virtual_tokens * embeddings(outline).shape[1]


def _initial(
    words: Tensor, settings: PromptTuningConfig, tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Initial embeddings [N, H] from the vocabulary's [V, H]: N virtual tokens of width H."""
    count = settings.num_virtual_tokens
    if settings.init == "random":
        # PEFT's own noise has a standard deviation of 1, large models' word embeddings near 0.02.
        return (torch.randn(count, words.shape[1]) * words.std().cpu()).to(words.device)
    if settings.init == "text":
        return words[ids_of_text(settings.init_text or "", count, tokenizer)]
    labels = settings.init_labels or ()
    drawn = drawn_ids(count - len(labels), settings.init_vocab_size, len(words), tokenizer)
    ids = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    return torch.stack([*(words[i].mean(0) for i in ids), *(words[i] for i in drawn)])


METHOD = Method(
    complete=complete,
    with_examples=with_examples,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
    num_virtual_tokens=lambda settings: cast(PromptTuningConfig, settings).num_virtual_tokens,
)
