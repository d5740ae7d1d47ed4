"""Methods by name: each gives a base parameters to train, nearly all through PEFT."""

from trainer.methods import head, lora, prompt_tuning
from trainer.methods.method import Method, ParameterGroup, Start

__all__ = ["METHODS", "Method", "ParameterGroup", "Start"]

METHODS: dict[str, Method] = {
    **lora.METHODS,
    "prompt_tuning": prompt_tuning.METHOD,
    "head": head.METHOD,
}
