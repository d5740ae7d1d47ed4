"""Methods by name: each gives a base parameters to train, nearly all through PEFT."""

from trainer.methods import (
    bitfit,
    full,
    head,
    ia3,
    layers,
    ln_tuning,
    lora,
    p_tuning,
    prefix_tuning,
    prompt_tuning,
    trainable_tokens,
)
from trainer.methods.method import Method, ParameterGroup, Start

__all__ = ["METHODS", "Method", "ParameterGroup", "Start"]

METHODS: dict[str, Method] = {
    **lora.METHODS,
    "prompt_tuning": prompt_tuning.METHOD,
    "p_tuning": p_tuning.METHOD,
    "prefix_tuning": prefix_tuning.METHOD,
    "ia3": ia3.METHOD,
    "trainable_tokens": trainable_tokens.METHOD,
    "ln_tuning": ln_tuning.METHOD,
    "layers": layers.METHOD,
    "bitfit": bitfit.METHOD,
    "full": full.METHOD,
    "head": head.METHOD,
}
