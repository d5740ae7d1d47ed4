"""Prompt tuning through PEFT, with initial embeddings of our own."""

import math
from typing import cast

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import PromptTuningConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method
from trainer.model import task_of

# Of PEFT's own causal-LM prompt tuning guide. Lester et al. (arXiv 2104.08691, section 3.1) use
# 0.3, with Adafactor, whose steps scale with the parameters' size.
LEARNING_RATE = 3e-2


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
            prompt_tuning_init=peft.PromptTuningInit.RANDOM,
        ),
    )
    initial = _initial(_words(base).detach().float(), settings, tokenizer)
    with torch.no_grad():
        model.get_parameter("prompt_encoder.default.embedding.weight").copy_(initial)
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return cast(PreTrainedModel, model.get_base_model())


def num_trainable(outline: PreTrainedModel, settings: PromptTuningConfig) -> int:
    """Parameters that `attach` would add."""
    return settings.num_virtual_tokens * _words(outline).shape[1]


def _words(model: PreTrainedModel) -> Tensor:
    """Word embeddings [V, H]."""
    return model.get_input_embeddings().get_parameter("weight")


def _initial(
    words: Tensor, settings: PromptTuningConfig, tokenizer: PreTrainedTokenizerBase
) -> Tensor:
    """Initial embeddings [N, H] from the vocabulary's [V, H]: N virtual tokens of width H."""
    count = settings.num_virtual_tokens
    if settings.init == "text":
        ids = tokenizer(settings.init_text, add_special_tokens=False)["input_ids"]
        repeated = (ids * math.ceil(count / len(ids)))[:count]
        return words[torch.tensor(repeated, device=words.device)]
    if settings.init == "vocab":
        special = set(tokenizer.all_special_ids)
        common = [i for i in range(min(settings.init_vocab_size, len(words))) if i not in special]
        drawn = torch.randint(len(common), (count,)).tolist()
        return words[torch.tensor([common[i] for i in drawn], device=words.device)]
    # PEFT's own noise has a standard deviation of 1, large models' word embeddings one near 0.02.
    return (torch.randn(count, words.shape[1]) * words.std().cpu()).to(words.device)


def complete(settings: PromptTuningConfig) -> PromptTuningConfig:
    """`settings` as they are. Raises ConfigError."""
    if (settings.init == "text") != bool((settings.init_text or "").strip()):
        raise ConfigError("key 'method.init_text': give it with `init: text`, and only then")
    return settings


METHOD = Method(
    complete=complete,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
    num_virtual_tokens=lambda settings: cast(PromptTuningConfig, settings).num_virtual_tokens,
)
