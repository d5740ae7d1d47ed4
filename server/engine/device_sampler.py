"""Draws the next tokens by the kernels' own sampler: what is drawn how, as arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from server.engine.logits_processors import Draw
from server.engine.sampler import uniforms
from server.kernels import (
    MAX_TOP,
    MAX_VOCABULARY,
    Draws,
    Sampler,
    factor_of,
    max_distance,
)
from server.types import TokenLogprob, TopLogprob

_List = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
_NOTHING = np.empty(0, dtype=np.int64)


def takes(size: int, num_logprobs: int | None) -> bool:
    """Whether a device's sampler draws from so many tokens, with so many log-probabilities."""
    return size <= MAX_VOCABULARY and (num_logprobs or 0) <= MAX_TOP


def draw_on_device(
    sampler: Sampler, logits: torch.Tensor, draws: Sequence[Draw], wanted: Sequence[int | None]
) -> list[tuple[int | None, TokenLogprob | None]]:
    """A token per row of `logits` [N, V], None where the row is not finite, with its
    log-probability and the `wanted` largest of them, None for none at all."""
    drawn = sampler(logits, arrays(draws, wanted, logits.shape[1]))
    found: list[tuple[int | None, TokenLogprob | None]] = []
    for token_id, logprob, top, count in zip(
        drawn.token_ids, drawn.logprobs, drawn.tops, wanted, strict=True
    ):
        entry = None
        if count is not None:
            tops = tuple(TopLogprob(other, value) for other, value in top)
            entry = TokenLogprob(token_id or 0, logprob, tops)
        found.append((token_id, entry))
    return found


def arrays(draws: Sequence[Draw], wanted: Sequence[int | None], size: int) -> Draws:
    """`draws` from rows of `size` tokens as a device reads them."""
    params = [item.params for item in draws]
    reals = np.empty((len(draws), 4))
    reals[:, 0] = [factor_of(p.temperature) if p.temperature > 0.0 else 0.0 for p in params]
    reals[:, 1] = [p.top_p for p in params]
    reals[:, 2] = uniforms([p.seed for p in params], [item.position for item in draws])
    reals[:, 3] = [p.repetition_penalty for p in params]
    counts = np.empty((len(draws), 9), dtype=np.int64)
    counts[:, 0] = [p.top_k if 0 < p.top_k < size else size for p in params]
    counts[:, 1] = [max_distance(p.min_p) for p in params]
    counts[:, 2] = [-1 if count is None else count for count in wanted]
    masks: list[npt.NDArray[np.uint8]] = []
    for row, item in enumerate(draws):
        counts[row, 3] = -1 if item.allowed is None else len(masks)
        if item.allowed is not None:
            masks.append(np.frombuffer(item.allowed, dtype=np.uint8))
    lists = [entry for item in draws for entry in _lists(item)]
    ends = np.cumsum([0, *(len(ids) for ids, _ in lists)])
    counts[:, 4:8] = ends[:-1].reshape(-1, 4)
    counts[:, 8] = ends[4::4]
    return Draws(
        reals,
        counts,
        np.concatenate([_NOTHING, *(ids for ids, _ in lists)]).astype(np.int32),
        np.concatenate([np.empty(0, np.float32), *(values for _, values in lists)]),
        np.stack(masks) if masks else np.empty((0, -(-size // 8)), dtype=np.uint8),
    )


def _lists(item: Draw) -> tuple[_List, _List, _List, _List]:
    """Tokens that are banned, biased, penalized for repetition, and for how often they came."""
    banned = _without_values(np.unique(np.array(item.banned, dtype=np.int64)))
    edits = item.edits
    if edits is None:
        nothing = _without_values(_NOTHING)
        return banned, nothing, nothing, nothing
    params = edits.params
    is_repeating = params.repetition_penalty != 1.0
    repeated = np.unique(edits.seen) if is_repeating else _NOTHING
    lowered = _without_values(_NOTHING)
    if params.frequency_penalty or params.presence_penalty:
        # In float32, as the plain form has it.
        frequency, presence = (
            np.float32(params.frequency_penalty),
            np.float32(params.presence_penalty),
        )
        lowered = edits.generated, -(edits.counts * frequency + presence)
    return banned, (edits.bias_ids, edits.bias), _without_values(repeated), lowered


def _without_values(ids: npt.NDArray[np.int64]) -> _List:
    return ids, np.zeros(len(ids), dtype=np.float32)
