"""What an artifact holds beside its method's own tensors: modules that PEFT saves as a whole,
trained tokens, and the base's weights where PEFT saves copies of them."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from server.adapters.norms import take_norms
from server.adapters.peft_format import TENSORS
from server.adapters.saved_modules import check_saved_found, take_saved_linears, with_saved
from server.adapters.trained_tokens import TrainedTokens
from server.adapters.vocabulary import Vocabulary, take_vocabulary
from server.adapters.weights import (
    AdapterWeights,
    EmbeddingChange,
    LinearChange,
    NormChange,
    Replacement,
)
from server.errors import AdapterRefusedError
from server.types import BaseInfo


@dataclass(frozen=True)
class Beside:
    """Changes by module path, and those of embeddings and head."""

    linears: Mapping[str, Replacement]
    norms: Mapping[str, NormChange]
    vocabulary: Vocabulary
    head: str
    """Module path of the output head."""

    def weights(
        self,
        linears: Mapping[str, LinearChange],
        *,
        biases: Mapping[str, torch.Tensor] | None = None,
        norms: Mapping[str, NormChange] | None = None,
        embedding: EmbeddingChange | None = None,
    ) -> AdapterWeights:
        """The adapter, with its method's own changes.

        Raises AdapterRefusedError where both change the same in ways that do not go together.
        """
        both = next((path for path in self.norms if path in (norms or ())), None)
        if both is not None:
            raise AdapterRefusedError(
                f"{TENSORS}: {both!r} is in modules_to_save and changed besides; train only one"
            )
        changed = with_saved(linears, self.linears, biases or {})
        head = self.vocabulary.head_change(changed.get(self.head))
        return AdapterWeights(
            linears=changed if head is None else changed | {self.head: head},
            norms={**self.norms, **(norms or {})},
            embedding=self.vocabulary.embedding_change(embedding),
        )


def take_beside(
    config: Mapping[str, Any],
    tensors: MutableMapping[str, torch.Tensor],
    base: BaseInfo,
    trained: TrainedTokens | None = None,
) -> Beside:
    """Takes all that is not the method's own out of `tensors`.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    norms = take_norms(config, tensors, base)
    vocabulary = take_vocabulary(config, tensors, base, trained)
    linears = take_saved_linears(config, tensors, base)
    check_saved_found(config, {*norms, *vocabulary.saved, *linears})
    return Beside(linears, norms, vocabulary, base.head)
