"""What one adapter makes of the input embeddings."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class EmbeddingTable:
    """One adapter's embeddings where they are not the base's. Whatever factor the base puts on its
    embeddings is in these tensors already.

    The state of token t is `factor * (W[t] + A[t] B)`, where W is `weight` or the base's; tokens in
    `token_ids` (ascending) take `rows` instead.
    """

    weight: torch.Tensor | None = None
    """[vocabulary, hidden]."""
    a: torch.Tensor | None = None
    """[vocabulary, r]."""
    b: torch.Tensor | None = None
    """[r, hidden]."""
    factor: torch.Tensor | None = None
    """[hidden]."""
    token_ids: torch.Tensor | None = None
    """[n]."""
    rows: torch.Tensor | None = None
    """[n, hidden]."""

    def lookup(
        self, token_ids: torch.Tensor, states: torch.Tensor, row_multiple: int
    ) -> torch.Tensor:
        """The embeddings [T, hidden] of `token_ids` [T], whose base embeddings are `states`."""
        if self.weight is not None:
            states = self.weight[token_ids]
        if self.a is not None:
            assert self.b is not None
            h = F.pad(self.a[token_ids], (0, 0, 0, -len(token_ids) % row_multiple))
            states = states + (h @ self.b)[: len(token_ids)]
        if self.factor is not None:
            states = states * self.factor
        if self.token_ids is not None:
            assert self.rows is not None
            place = torch.searchsorted(self.token_ids, token_ids).clamp_(max=len(self.rows) - 1)
            own = self.token_ids[place] == token_ids
            states = torch.where(own.unsqueeze(1), self.rows[place], states)
        return states
