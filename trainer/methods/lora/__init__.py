"""LoRA and its variants, through PEFT; what is written is LoRA or DoRA as the server reads them."""

from pathlib import Path

import peft

from trainer.methods.lora.attach import attach, detach, num_trainable
from trainer.methods.lora.check import check
from trainer.methods.lora.groups import parameter_groups
from trainer.methods.lora.halves import join
from trainer.methods.lora.start import initialise
from trainer.methods.lora.variants import VARIANTS, Variant, complete
from trainer.methods.method import Method, save_adapter

__all__ = ["METHODS"]


def save(model: peft.PeftModel, directory: Path) -> None:
    """Writes PEFT's two files, of plain LoRA or DoRA."""
    join(model)
    save_adapter(model, directory)


def _method(variant: Variant) -> Method:
    return Method(
        attach=attach,
        detach=detach,
        num_trainable=num_trainable,
        learning_rate=variant.learning_rate,
        complete=complete,
        check=check,
        initialise=initialise,
        parameter_groups=parameter_groups,
        save=save,
    )


METHODS: dict[str, Method] = {name: _method(variant) for name, variant in VARIANTS.items()}
