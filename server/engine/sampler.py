"""Draws the next token of each sequence, one vectorised pass.

The randomness of a draw is one uniform number, a function of (seed, position) alone; the token is
where the cumulative distribution first exceeds it: in the order of token ids, or, with top-k or
top-p, of logits from the largest, equals in the order of ids. So a request's tokens never depend
on its neighbours. Bias and penalties come first (`logits_processors.py`), then filters in the
order of transformers: temperature, top-k, top-p, min-p.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from server.engine.logits_processors import Draw, edit, mask
from server.types import SamplingParams

# Sorting a whole vocabulary costs more than the rest of a small step, and nearly every top-k or
# top-p set lies among the likeliest few tokens. Rows that need more are sorted whole.
_SHORTLIST = 256

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """A token id per row of `logits` [N, V], None where the row is not finite.

    `logits` may be overwritten.
    """
    mask(logits, draws)
    edits = {row: item.edits for row, item in enumerate(draws) if item.edits is not None}
    if edits:
        logits = logits.float()
        edit(logits, edits)
    highest, best = logits.max(dim=-1)
    # max propagates NaN, so one number per row tells of every NaN and +inf.
    finite = highest.isfinite().tolist()
    token_ids = best.tolist()
    random = [i for i, item in enumerate(draws) if item.params.temperature > 0.0 and finite[i]]
    if random:
        rows = logits if len(random) == len(draws) else logits[random]
        _fill(token_ids, random, _sample(rows, [draws[i] for i in random]))
    return [token_id if ok else None for ok, token_id in zip(finite, token_ids, strict=True)]


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1): two rounds of SplitMix64 (Steele, Lea, Flood 2014) over seed and
    position."""
    mixed = _mix(_mix(_words(seeds)) + (_words(positions) + np.uint64(1)) * _GOLDEN)
    # 48 bits: u * total stays below total in float64.
    return (mixed >> np.uint64(16)).astype(np.float64) * 2.0**-48


def sample_seed(seed: int, index: int) -> int:
    """The seed of a request's sample: its own for the first. Others are mixed, so that the second
    sample of seed 0 is not the first one of seed 1."""
    if index == 0:
        return seed
    return int(_mix(_words([seed]) + _words([index]) * _GOLDEN)[0])


def _words(values: Sequence[int]) -> npt.NDArray[np.uint64]:
    return np.array([value & 0xFFFFFFFFFFFFFFFF for value in values], dtype=np.uint64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    size = logits.shape[1]
    params = [item.params for item in draws]
    temperature = torch.tensor([p.temperature for p in params], device=logits.device)
    # Shifted first: dividing by a tiny temperature must not overflow upwards.
    scores = logits.float()
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature.unsqueeze(1)
    probabilities = scores.softmax(-1)
    uniform = torch.from_numpy(
        uniforms([p.seed for p in params], [item.position for item in draws])
    ).to(logits.device)
    result = [0] * len(draws)
    whole = [i for i, p in enumerate(params) if not 0 < p.top_k < size and p.top_p >= 1.0]
    if whole:
        kept = _drop_below_min_p(probabilities[whole], [params[i] for i in whole])
        cumulative = kept.cumsum(-1, dtype=torch.float64)
        _fill(result, whole, _invert(cumulative, uniform[whole]).tolist())
    filtered = sorted(set(range(len(draws))) - set(whole))
    if filtered:
        # Rows of a vocabulary are copied only where some stay behind.
        ids, is_open = _shortlist(logits[filtered] if whole else logits)
        rows = torch.tensor(filtered, device=logits.device)
        chosen, enough = _invert_filtered(
            probabilities[rows.unsqueeze(1), ids],
            [params[i] for i in filtered],
            uniform[filtered],
            size,
            is_open,
        )
        _fill(result, filtered, ids.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist())
        for i in (i for i, ok in zip(filtered, enough.tolist(), strict=True) if not ok):
            ids = logits[i : i + 1].sort(dim=-1, descending=True, stable=True).indices
            values = probabilities[i : i + 1].gather(1, ids)
            chosen, _ = _invert_filtered(values, params[i : i + 1], uniform[i : i + 1], size)
            result[i] = int(ids[0, chosen[0]])
    return result


def _shortlist(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens [N, S] with the largest of `logits` [N, V], largest first, equals in the order of
    their ids; and which of them [N, S] have equals that found no place.

    By logits, as rounding makes equals of probabilities.
    """
    size = logits.shape[1]
    # topk leaves open which of equals it takes, and in which order.
    values, ids = logits.topk(min(_SHORTLIST + 1, size))
    is_open = torch.zeros_like(ids, dtype=torch.bool)
    if size > _SHORTLIST:
        is_open = values == values[:, -1:]
        is_open, values, ids = (t[:, :_SHORTLIST] for t in (is_open, values, ids))
    if bool((values[:, 1:] == values[:, :-1]).any()):
        ids = ids.sort(dim=-1).values
        order = logits.gather(1, ids).sort(dim=-1, descending=True, stable=True).indices
        ids = ids.gather(1, order)
    return ids, is_open


def _fill(result: list[int], rows: list[int], token_ids: list[int]) -> None:
    for row, token_id in zip(rows, token_ids, strict=True):
        result[row] = token_id


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Per row of `cumulative` [N, V] (float64) the first index above uniform times the total."""
    target = uniform.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def _invert_filtered(
    sorted_probabilities: torch.Tensor,
    params: Sequence[SamplingParams],
    uniform: torch.Tensor,
    vocab_size: int,
    is_open: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws from rows [N, S] of descending probabilities after top-k, top-p and min-p.

    Returns indices into the S columns, and whether the S columns hold everything that the row's
    filters keep: not where they keep a token that `is_open` [N, S], one of equals that others have
    no place beside.
    """
    device = uniform.device
    size = sorted_probabilities.shape[1]
    k = torch.tensor([p.top_k if p.top_k > 0 else 1 << 62 for p in params], device=device)
    p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)
    rank = torch.arange(size, device=device)
    kept = sorted_probabilities.double().masked_fill(rank >= k.unsqueeze(1), 0.0)
    cumulative = kept.cumsum(-1)
    # With a top-k set the nucleus is taken of its renormalised distribution.
    total = torch.where(k <= size, cumulative[:, -1], 1.0)
    nucleus = (p * total).unsqueeze(1)
    # The smallest set that reaches the nucleus: a token stays while those before it fall short.
    kept = kept.masked_fill((cumulative - kept >= nucleus) & (rank > 0), 0.0)
    kept = _drop_below_min_p(kept, params)
    enough = (k <= size) | (cumulative[:, -1] >= nucleus.squeeze(1)) | (kept[:, -1] == 0.0)
    # Of a top-k set that ends beyond the columns the total, and so the nucleus, is not known.
    enough &= (k <= size) | (k >= vocab_size) | (p >= 1.0)
    if is_open is not None:
        enough &= ~(is_open & (kept > 0.0)).any(-1)
    return _invert(kept.cumsum(-1), uniform), enough


def _drop_below_min_p(
    probabilities: torch.Tensor, params: Sequence[SamplingParams]
) -> torch.Tensor:
    """`probabilities` [N, S], with 0 for tokens less than min-p times as likely as the row's
    likeliest. They need not add up to 1."""
    if not any(p.min_p for p in params):
        return probabilities
    min_p = torch.tensor([p.min_p for p in params], device=probabilities.device)
    threshold = min_p.unsqueeze(1) * probabilities.amax(-1, keepdim=True)
    return probabilities.masked_fill(probabilities < threshold, 0.0)
