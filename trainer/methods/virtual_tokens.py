"""What methods of virtual tokens share: the words they start at, and the size of encoders."""

import math
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.errors import ConfigError


def embeddings(model: PreTrainedModel) -> Tensor:
    """Word embeddings [V, H]: V tokens of width H."""
    return model.get_input_embeddings().get_parameter("weight")


def check_text(init: str | None, text: str | None) -> None:
    """Raises ConfigError if the text to start at is missing, or given for nothing."""
    if init == "text" and not (text or "").strip():
        raise ConfigError(
            "key 'method.init_text' is missing: `init: text` needs init_text, the words to start at"
        )
    if init != "text" and text is not None:
        raise ConfigError("key 'method.init_text': goes with `init: text` only; leave it out")


def ids_of_text(text: str, count: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`count` token ids: those of `text`, repeated or cut."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return (ids * math.ceil(count / len(ids)))[:count]


def drawn_ids(
    count: int, num_first: int, num_tokens: int, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """`count` ids among the first `num_first` of `num_tokens`, special ones apart, drawn from
    torch's current state."""
    special = set(tokenizer.all_special_ids)
    common = [i for i in range(min(num_first, num_tokens)) if i not in special]
    return [common[i] for i in torch.randint(len(common), (count,)).tolist()]


def num_in_encoder(outline: PreTrainedModel, config: Any) -> int:
    """Parameters of the encoder that PEFT makes for this configuration of a prompt-learning
    method. The outline stays as it is."""
    model = peft.get_peft_model(outline, config)
    return sum(parameter.numel() for parameter in model.prompt_encoder.parameters())
