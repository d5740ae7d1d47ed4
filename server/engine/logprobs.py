"""Log-probabilities, always those of the model's own distribution: before penalties, bias,
temperature and filters."""

from collections.abc import Sequence

import torch

from server.types import TokenLogprob, TopLogprob

_NUM_ROWS = 64


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """[N, V] natural log-probabilities in float32."""
    return logits.float().log_softmax(-1)


def target_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], num_top: int
) -> list[TokenLogprob]:
    """As `token_logprobs`, of rows of logits [N, V] that are many: a few of them at a time, as
    their log-probabilities take as much memory as the logits."""
    result: list[TokenLogprob] = []
    for start in range(0, len(token_ids), _NUM_ROWS):
        part = slice(start, start + _NUM_ROWS)
        result += token_logprobs(log_probabilities(logits[part]), token_ids[part], num_top)
    return result


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
