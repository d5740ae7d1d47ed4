"""LN tuning through PEFT: trained copies of norms."""

import dataclasses

import peft
from peft.tuners.ln_tuning.layer import LNTuningLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config.methods import LNTuningConfig
from trainer.errors import ConfigError
from trainer.methods.choose import choose, ends_with, last_parts, norms, num_parameters
from trainer.methods.masters import train_in_float32
from trainer.methods.method import Method, unload, without_peft_warnings
from trainer.model import task_of

# Of the rates that Zhao et al. (arXiv 2312.11420, appendix) search, 2e-3 downwards.
LEARNING_RATE = 1e-3


def bind(
    settings: LNTuningConfig, outline: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LNTuningConfig:
    """`settings` with targets. Raises ConfigError for one that is no norm of the base."""
    found = norms(outline)
    if not found:
        raise ConfigError("key 'method.type': 'ln_tuning' trains norms, and this base has none")
    targets = settings.targets or tuple(last_parts(found))
    choose(found, targets, "method.targets", "norm")
    for path, _ in outline.named_modules():
        if path not in found and any(ends_with(path, end) for end in targets):
            raise ConfigError(f"key 'method.targets': would take {path!r} too, which is no norm")
    return dataclasses.replace(settings, targets=targets)


def attach(
    base: PreTrainedModel, settings: LNTuningConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with copies of its norms, in float32."""
    dtype = base.dtype
    wanted = peft.LNTuningConfig(
        task_type=task_of(base), target_modules=list(settings.targets or ())
    )
    with without_peft_warnings():
        model = peft.get_peft_model(base, wanted)
    train_in_float32(
        (m.ln_tuning_layers["default"] for m in model.modules() if isinstance(m, LNTuningLayer)),
        dtype,
    )
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return unload(model)


def num_trainable(outline: PreTrainedModel, settings: LNTuningConfig) -> int:
    """Parameters of the norms."""
    chosen = choose(norms(outline), settings.targets or (), "method.targets", "norm")
    return num_parameters(chosen.values())


METHOD = Method(
    bind=bind,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
)
