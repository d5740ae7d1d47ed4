"""P-tuning through PEFT: virtual tokens out of a network, which has run when they are written."""

from typing import Any, cast

import peft
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config.methods import PTuningConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method
from trainer.methods.virtual_tokens import num_in_encoder
from trainer.model import task_of

# Of PEFT's P-tuning guide. Liu et al. (arXiv 2103.10385) name none for a frozen model.
LEARNING_RATE = 1e-3


def complete(settings: PTuningConfig) -> PTuningConfig:
    """Raises ConfigError for settings of a network that there is not."""
    if settings.encoder == "mlp" and settings.dropout:
        raise ConfigError("key 'method.dropout': only `encoder: lstm` drops out; leave it out")
    if settings.encoder == "mlp" and settings.num_layers != PTuningConfig.num_layers:
        raise ConfigError(
            "key 'method.num_layers': counts layers of `encoder: lstm`; an mlp has three; leave it "
            "out"
        )
    if settings.dropout and settings.num_layers == 1:
        raise ConfigError(
            "key 'method.dropout': is between layers of the LSTM, and method.num_layers is 1"
        )
    return settings


def attach(
    base: PreTrainedModel, settings: PTuningConfig, tokenizer: PreTrainedTokenizerBase
) -> Any:
    """Wraps `base` with a fresh encoder in float32, drawn from torch's current state."""
    return peft.get_peft_model(base, _config(base, settings))


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return cast(PreTrainedModel, model.get_base_model())


def num_trainable(outline: PreTrainedModel, settings: PTuningConfig) -> int:
    """Parameters that `attach` would train, those of the network included."""
    return num_in_encoder(outline, _config(outline, settings))


def _config(model: PreTrainedModel, settings: PTuningConfig) -> Any:
    return peft.PromptEncoderConfig(
        task_type=task_of(model),
        num_virtual_tokens=settings.num_virtual_tokens,
        encoder_reparameterization_type=settings.encoder.upper(),
        # Whose annotation forbids its own default.
        encoder_hidden_size=cast(int, settings.hidden_size),
        encoder_num_layers=settings.num_layers,
        encoder_dropout=settings.dropout,
    )


METHOD = Method(
    complete=complete,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
    num_virtual_tokens=lambda settings: cast(PTuningConfig, settings).num_virtual_tokens,
)
