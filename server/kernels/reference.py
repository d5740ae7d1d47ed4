"""The plain form of each operation: one sequence, one adapter at a time. Oracle of the tests."""

import torch


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
