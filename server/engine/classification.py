"""What becomes of a classification's hidden state: labels with their probabilities."""

import torch
import torch.nn.functional as F

from server.adapters.weights import AdapterWeights
from server.engine.answer import Progress, virtual_tokens
from server.engine.sequence import Sequence
from server.types import Classified, LabelScore, Request


class Classification:
    """Applies the adapter's head to the final hidden state of the prompt's last token."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        num_virtual, num_given = virtual_tokens(request)
        token_ids = list(request.prompt_token_ids)
        self.sequences = [
            Sequence(
                answer=self,
                order=(-request.priority, progress.number, 0),
                token_ids=token_ids,
                num_virtual=num_virtual,
                num_given=num_given,
                logits_from=num_virtual + len(token_ids) - 1,
                wants_state=True,
            )
        ]
        self._logits: list[float] = []

    def accept(self, sequence: Sequence, state: torch.Tensor) -> bool:
        """Takes the last token's state [1, hidden]; False if the logits are not finite.

        In float32, a request at a time: so the bits depend on no other.
        """
        assert sequence.placed is not None
        assert sequence.placed.head is not None
        logits = F.linear(state.float(), sequence.placed.head)[0]
        if not bool(logits.isfinite().all()):
            return False
        self._logits = logits.tolist()
        self.sequences.remove(sequence)
        return True

    def terminal(self) -> Classified | None:
        """The terminal event, once there are logits."""
        if not self._logits:
            return None
        assert self.request.lease is not None
        weights = self.request.lease.weights
        assert isinstance(weights, AdapterWeights)
        assert weights.classifier is not None
        logits = torch.tensor(self._logits, dtype=torch.float64)
        # Of a single label, as in transformers' pipelines, against its absence.
        probabilities = logits.softmax(0) if len(logits) > 1 else logits.sigmoid()
        scores = sorted(
            map(LabelScore, weights.classifier.labels, probabilities.tolist(), self._logits),
            key=lambda score: -score.logit,
        )
        return Classified(tuple(scores), self.progress.usage(self.request, 0))
