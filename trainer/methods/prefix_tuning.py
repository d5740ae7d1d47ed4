"""Prefix tuning through PEFT, which keeps the prefix in the cache of keys and values.

So gradient checkpointing cannot go with it: a layer that is computed again would read the cache
anew, and transformers drops it.
"""

from typing import Any, cast

import peft
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.config.methods import PrefixTuningConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method
from trainer.methods.virtual_tokens import (
    check_text,
    drawn_ids,
    embeddings,
    ids_of_text,
    num_in_encoder,
)
from trainer.model import task_of

# Of PEFT's prefix tuning guide, for a prefix without projection. Li & Liang (arXiv 2101.00190,
# appendix) take 5e-5 to 8e-5 for the network of a projection.
LEARNING_RATE = 1e-2
PROJECTION_LEARNING_RATE = 5e-5


def complete(settings: PrefixTuningConfig) -> PrefixTuningConfig:
    """Raises ConfigError for settings that do not go together."""
    check_text(settings.init, settings.init_text)
    if settings.projection and settings.init in ("text", "vocab"):
        raise ConfigError(
            f"key 'method.init': {settings.init!r} sets keys and values, which a projection "
            "computes; use 'random', 'zero', or no projection"
        )
    if settings.hidden_size is not None and not settings.projection:
        raise ConfigError("key 'method.hidden_size': give it with `projection: true` only")
    return settings


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError for an initialisation that the base cannot compute."""
    init = cast(PrefixTuningConfig, config.method).init
    if task_of(outline) == "SEQ_2_SEQ_LM" and init in ("text", "vocab"):
        raise ConfigError(
            f"key 'method.init': {init!r} sets the keys and values of a decoder that reads the "
            "prompt, and this one's encoder does; use 'random' or 'zero'"
        )


def attach(
    base: PreTrainedModel, settings: PrefixTuningConfig, tokenizer: PreTrainedTokenizerBase
) -> Any:
    """Wraps `base` with a fresh prefix in float32, drawn from torch's current state."""
    computed = settings.projection or task_of(base) == "SEQ_2_SEQ_LM"
    init = settings.init or ("random" if computed else "vocab")
    model = peft.get_peft_model(base, _config(base, settings))
    count, words = settings.num_virtual_tokens, embeddings(base)
    if init == "text":
        _start_at(model, ids_of_text(settings.init_text or "", count, tokenizer))
    elif init == "vocab":
        _start_at(model, drawn_ids(count, settings.init_vocab_size, len(words), tokenizer))
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return cast(PreTrainedModel, model.get_base_model())


def num_trainable(outline: PreTrainedModel, settings: PrefixTuningConfig) -> int:
    """Parameters that `attach` would train, those of a projection included."""
    return num_in_encoder(outline, _config(outline, settings))


def _config(model: PreTrainedModel, settings: PrefixTuningConfig) -> Any:
    return peft.PrefixTuningConfig(
        task_type=task_of(model),
        num_virtual_tokens=settings.num_virtual_tokens,
        prefix_projection=settings.projection,
        # Whose annotation forbids its own default.
        encoder_hidden_size=cast(int, settings.hidden_size),
        init_weights="zero" if settings.init == "zero" else None,
    )


@torch.no_grad()
def _start_at(model: peft.PeftModel, ids: list[int]) -> None:
    """Sets the prefix to the keys and values that the base computes for these tokens."""
    base = detach(model).eval()
    # Without the base's configuration, under which a sliding window would drop the first ones.
    cache = DynamicCache()
    base(input_ids=torch.tensor([ids], device=base.device), past_key_values=cache, use_cache=True)
    peft.initialize_kv_prefix_from_past_key_values(model, past_key_values=cache)


METHOD = Method(
    complete=complete,
    check=check,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=lambda settings: (
        PROJECTION_LEARNING_RATE if settings.projection else LEARNING_RATE
    ),
    num_virtual_tokens=lambda settings: cast(PrefixTuningConfig, settings).num_virtual_tokens,
)
