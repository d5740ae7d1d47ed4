"""Log-probabilities, always those of the model's own distribution: before penalties, bias,
temperature and filters."""

from collections.abc import Sequence

import torch

from server.types import TokenLogprob, TopLogprob


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """[N, V] natural log-probabilities in float32."""
    return logits.float().log_softmax(-1)


def token_logprobs(
    logprobs: torch.Tensor, token_ids: Sequence[int], num_top: int
) -> list[TokenLogprob]:
    """One entry per row of `logprobs` [N, V]: the given token's, and the `num_top` largest."""
    index = torch.tensor(token_ids, device=logprobs.device).unsqueeze(1)
    chosen = logprobs.gather(1, index).squeeze(1).tolist()
    if num_top == 0:
        return [TokenLogprob(i, p) for i, p in zip(token_ids, chosen, strict=True)]
    values, ids = (t.tolist() for t in logprobs.topk(min(num_top, logprobs.shape[1])))
    return [
        TokenLogprob(i, p, tuple(TopLogprob(j, q) for j, q in zip(top, tops, strict=True)))
        for i, p, top, tops in zip(token_ids, chosen, ids, values, strict=True)
    ]
