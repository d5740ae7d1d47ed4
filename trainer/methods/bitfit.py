"""BitFit: trained biases, those of a PEFT adapter with `bias: all` and nothing else."""

import peft
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.config.methods import BitFitConfig
from trainer.errors import ConfigError
from trainer.methods.biases import biased, copy_biases, restore_biases, train_biases_in_float32
from trainer.methods.method import Method, unload
from trainer.model import task_of

# Within those that Ben Zaken et al. (arXiv 2106.10199, appendix) search, 1e-4 to 1e-3.
LEARNING_RATE = 4e-4


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError for a base without biases."""
    if not biased(outline):
        raise ConfigError(
            f"key 'method.type': 'bitfit' trains biases, and this base "
            f"({outline.config.model_type}) has none; take ia3 or ln_tuning, which are as small"
        )


def attach(
    base: PreTrainedModel, settings: BitFitConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base`, its biases replaced by copies in float32: PEFT trains them where they are."""
    dtype = base.dtype
    kept = copy_biases(base)
    model = peft.get_peft_model(
        base,
        # PEFT has no method of biases alone: this one adapts nothing.
        peft.LoraConfig(
            task_type=task_of(base),
            r=1,
            lora_alpha=1,
            target_modules=DUMMY_TARGET_MODULES,
            bias="all",
        ),
    )
    train_biases_in_float32(kept, dtype)
    model.__dict__["kept_biases"] = kept
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    base = unload(model)
    restore_biases(model.__dict__["kept_biases"])
    return base


def num_trainable(outline: PreTrainedModel, settings: BitFitConfig) -> int:
    """Parameters of the biases."""
    return sum(module.get_parameter("bias").numel() for module in biased(outline).values())


METHOD = Method(
    check=check,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
)
