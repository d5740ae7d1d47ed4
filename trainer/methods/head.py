"""Feature extraction: nothing but the head of a classifier is trained, over the base as it is."""

import peft
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import HeadConfig, TrainConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method, unload
from trainer.model import task_of

# Adam's own default (arXiv 1412.6980, section 2): a linear map over fixed features is convex.
LEARNING_RATE = 1e-3

# What PEFT calls no modules at all: its configuration then only says which ones are saved.
_NO_MODULES = "dummy-target-modules"


def attach(
    base: PreTrainedModel, settings: HeadConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base`, whose head becomes trainable.

    PEFT has no name for this: it is a LoRA of no modules.
    """
    return peft.get_peft_model(
        base, peft.LoraConfig(task_type=task_of(base), r=1, target_modules=_NO_MODULES)
    )


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return unload(model)


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError unless there is a head to train."""
    if task_of(outline) != "SEQ_CLS":
        raise ConfigError(
            f"key 'method.type': 'head' trains the head of a classifier, and the objective is "
            f"{config.objective.type!r}; set objective: {{type: classification}}"
        )


METHOD = Method(
    attach=attach,
    detach=detach,
    num_trainable=lambda outline, settings: 0,
    learning_rate=LEARNING_RATE,
    check=check,
)
