"""Optimisers by name: torch's, and bitsandbytes' with state of 8 bits."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from trainer.config import OptimiserConfig

Groups = Sequence[dict[str, Any]]


def _paged(groups: Groups, settings: OptimiserConfig) -> Optimizer:
    optimiser: Any = PagedAdamW8bit(
        groups, betas=settings.betas, weight_decay=settings.weight_decay
    )
    # Nothing is paged on CPU, and bitsandbytes would warn so at every parameter.
    optimiser.is_paged = groups[0]["params"][0].is_cuda
    return cast(Optimizer, optimiser)


OPTIMISERS: dict[str, Callable[[Groups, OptimiserConfig], Optimizer]] = {
    "adamw": lambda groups, s: AdamW(groups, betas=s.betas, weight_decay=s.weight_decay),
    "adamw_8bit": lambda groups, s: AdamW8bit(groups, betas=s.betas, weight_decay=s.weight_decay),
    "paged_adamw_8bit": _paged,
    "adafactor": lambda groups, s: Adafactor(groups, weight_decay=s.weight_decay),
    "sgd": lambda groups, s: SGD(groups, momentum=s.betas[0], weight_decay=s.weight_decay),
}
"""Parameter groups and settings -> optimiser. The learning rate is set before each step."""
