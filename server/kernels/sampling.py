"""Drawing tokens where the logits are, in exact integers.

A token's weight is 2^44 times its probability relative to the row's likeliest token, cut to an
integer. Sums of integers have no rounding and no order, so the token that a row draws does not
depend on how a device cuts the row, and ties are ties everywhere. What weighs less than 2^-44 of
the likeliest is never drawn.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

MAX_TOP = 64
"""Most log-probabilities of a row beside the drawn token's."""
MAX_VOCABULARY = (1 << 19) - 1
"""Beyond it the sum of weights may not fit 63 bits."""
FRACTION_BITS = 32
POLYNOMIAL = (2147483648, 1488521986, 515877902, 119165493, 20571132, 2737501, 234126)
"""2^-f for f in [0, 1), times 2^31: coefficients of f^k with signs in turn. Off by 6e-9 at most."""
WEIGHT_SHIFT = 13
"""From 2^31 to 2^44."""
MAX_EXPONENT = 63
NO_MIN_P = 1 << 62


@dataclass(frozen=True)
class Draws:
    """How a token is drawn from each of N rows of logits, on the host.

    Edits come first, in the order of the lists; then filters: temperature, top-k, top-p, min-p.
    """

    reals: npt.NDArray[np.float64]
    """[N, 4]: log2(e) / temperature, 0 for greedy; top-p; a number in [0, 1) that decides;
    repetition penalty."""
    counts: npt.NDArray[np.int64]
    """[N, 9]: top-k, at least the vocabulary for none; `max_distance` of min-p; log-probabilities
    wanted beside the token's own, -1 for none at all; row of `masks`, -1 for none; the beginnings
    of the four lists in `token_ids`, and the last one's end: tokens that are banned, those whose
    logit `values` are added to, those that the penalty is for, those that `values` are added to."""
    token_ids: npt.NDArray[np.int32]
    """No token is there twice in one list."""
    values: npt.NDArray[np.float32]
    """As long as `token_ids`."""
    masks: npt.NDArray[np.uint8]
    """[n, bytes]: packed bits, lowest first, of the only tokens that may be drawn."""

    @property
    def max_top(self) -> int:
        """Most log-probabilities that a row wants beside its token's."""
        return max(0, int(self.counts[:, 2].max(initial=0)))


@dataclass(frozen=True)
class Drawn:
    """What came of it."""

    token_ids: list[int | None]
    """None where the row is not finite, or nothing may be drawn."""
    logprobs: list[float]
    """Of the tokens, before edits and filters. Means nothing where none was wanted."""
    tops: list[list[tuple[int, float]]]
    """The likeliest tokens and their log-probabilities, of equals the lowest token first."""


class Sampler(Protocol):
    """Draws a token from each row."""

    def __call__(self, logits: torch.Tensor, draws: Draws) -> Drawn:
        """Draws from `logits` [N, V] of any float type, which it leaves as they are. Requires
        `draws.max_top` up to `MAX_TOP` and V up to `MAX_VOCABULARY`."""


def warm_up(sampler: Sampler, logits: torch.Tensor) -> None:
    """Draws from the first row of `logits` [N, V] without other log-probabilities and with most:
    what is compiled when it first runs is compiled now, and not while requests wait."""
    size = logits.shape[1]
    if size > MAX_VOCABULARY:
        return
    for num_top in (0, MAX_TOP):
        sampler(
            logits[:1],
            Draws(
                np.zeros((1, 4)),
                np.array([[size, NO_MIN_P, num_top, -1, 0, 0, 0, 0, 0]]),
                np.empty(0, np.int32),
                np.empty(0, np.float32),
                np.empty((0, -(-size // 8)), np.uint8),
            ),
        )


def factor_of(temperature: float) -> float:
    """log2(e) / temperature: what a distance of logits is multiplied with."""
    return min(float(np.log2(np.e)) / max(float(np.float32(temperature)), 1e-300), 1e300)


def max_distance(min_p: float) -> int:
    """The largest distance to the likeliest token, in powers of 2 times 2^32, that min-p allows."""
    share = float(np.float32(min_p))
    return NO_MIN_P if share <= 0.0 else int(-np.log2(share) * 2.0**FRACTION_BITS)


def weights_of(scores: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and distances [..., V], both int64, of float32 `scores` [..., V] with a finite
    maximum."""
    difference = (scores.amax(-1, keepdim=True) - scores).double()
    distance = (difference * factor).clamp(max=float(MAX_EXPONENT))
    fixed = (distance * 2.0**FRACTION_BITS).long()
    fraction = fixed & ((1 << FRACTION_BITS) - 1)
    weight = torch.full_like(fixed, POLYNOMIAL[-1])
    for coefficient in POLYNOMIAL[-2::-1]:
        weight = coefficient - ((fraction * weight) >> FRACTION_BITS)
    return (weight << WEIGHT_SHIFT) >> (fixed >> FRACTION_BITS), fixed
