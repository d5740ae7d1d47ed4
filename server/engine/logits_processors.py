"""What changes a row of logits before its token is drawn, whatever the temperature."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Draw:
    """What to draw from one row of logits."""

    params: SamplingParams
    position: int
    """Tokens generated before this one."""
    banned: tuple[int, ...] = ()
    """Token ids that must not be drawn: the end of sequence before min_tokens."""


def mask(logits: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Overwrites tokens that must not be drawn in `logits` [N, V], of any dtype, with -inf."""
    for row, item in enumerate(draws):
        if item.banned:
            logits[row, list(item.banned)] = float("-inf")
