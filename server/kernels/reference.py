"""The plain form of each operation: one sequence, one adapter at a time. Oracle of the tests."""

import torch

from server.kernels.changes import Affine
from server.kernels.sampling import weights_of


def lora_reference(
    x: torch.Tensor,
    adapters: list[tuple[torch.Tensor, torch.Tensor, float] | None],
    out: torch.Tensor,
) -> torch.Tensor:
    """`out` [T, out] plus each row's own update: `adapters[t]` is (A [r, in], B [out, r],
    scaling) of row t, or None."""
    result = out.clone()
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            a, b, scaling = adapter
            result[row] += scaling * (b @ (a @ x[row]))
    return result


def affine_reference(out: torch.Tensor, affines: list[Affine | None]) -> torch.Tensor:
    """`out` [T, out] times the scale of each row's adapter, then plus its shift."""
    result = out.clone()
    for row, affine in enumerate(affines):
        if affine is not None and affine.scale is not None:
            result[row] *= affine.scale.to(out)
        if affine is not None and affine.shift is not None:
            result[row] += affine.shift.to(out)
    return result


def attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention of one sequence: `query` [H, n, D] are the last n of the S positions of
    `key` and `value` [K, S, D]. Returns [n, H, D]."""
    group = query.shape[0] // key.shape[0]
    key = key.repeat_interleave(group, dim=0)
    value = value.repeat_interleave(group, dim=0)
    scores = query @ key.transpose(1, 2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    size = key.shape[1]
    row = torch.arange(size - query.shape[1], size).unsqueeze(1)
    position = torch.arange(size)
    seen = position <= row
    if sliding_window is not None:
        seen &= position > row - sliding_window
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return (weights @ value).transpose(0, 1)


def draw_reference(
    scores: torch.Tensor, factor: float, top_k: int, top_p: float, distance: int, uniform: float
) -> int:
    """The token drawn from `scores` [V], float32, after every edit; the rest as in
    `sampling.Draws`, of one row. Without top-k and top-p tokens are in the order of their ids,
    else of their scores, equals of their ids."""
    if factor == 0.0:
        return int(scores.argmax())
    weights, distances = weights_of(scores, factor)
    is_filtered = top_k < len(scores) or top_p < 1.0
    ids = torch.arange(len(scores))
    if is_filtered:
        ids = scores.sort(descending=True, stable=True).indices
    kept, distances = weights[ids], distances[ids]
    if is_filtered:
        kept = kept[:top_k]
        total = int(kept.sum())
        before = kept.cumsum(0) - kept
        # A token stays while those before it fall short of the nucleus.
        kept = kept[: max(1, sum(int(b) < top_p * float(total) for b in before))]
        if top_p >= 1.0:
            kept = weights[ids][:top_k]
    kept = kept.masked_fill(distances[: len(kept)] > distance, 0)
    cumulative = kept.cumsum(0)
    target = int(uniform * float(cumulative[-1]))
    return int(ids[int((cumulative <= target).sum())])
