"""EVA: the directions in which a layer's inputs vary most (arXiv 2410.07170)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from peft.utils.incremental_pca import IncrementalPCA
from torch import Tensor, nn

from trainer.errors import DataError

# As in PEFT's EvaConfig: components that turn less than this, as a cosine, have settled.
SETTLED = 0.99
# Inputs at a time: a few batches of PEFT's example, which has 4 texts of up to 512 tokens.
NUM_INPUTS = 1024


class _Directions:
    """Principal components of one layer's inputs, from batches of them."""

    def __init__(self, rank: int, width: int) -> None:
        # PEFT's EVA takes the fast decomposition; it computes twice the components.
        fast = 2 * rank <= width
        self._pca = IncrementalPCA(rank, lowrank=fast, lowrank_seed=42 if fast else None)
        self._rank = rank
        self._held: list[Tensor] = []
        self._num_held = 0
        self.settled = False

    def add(self, inputs: Tensor) -> None:
        """Inputs [..., in]."""
        rows = inputs.detach().flatten(0, -2).float()
        self._held.append(rows)
        self._num_held += len(rows)
        if self._num_held >= max(NUM_INPUTS, 4 * self._rank):
            self._fit()

    def result(self) -> Tensor | None:
        """Components [r, in], orthonormal; None for fewer inputs than components."""
        if self._num_held >= 2 * self._rank:
            self._fit()
        return getattr(self._pca, "components_", None)

    def _fit(self) -> None:
        before = getattr(self._pca, "components_", None)
        self._pca.partial_fit(torch.cat(self._held))
        self._held, self._num_held = [], 0
        if before is not None:
            cosines = nn.functional.cosine_similarity(before, self._pca.components_)
            self.settled = bool((cosines >= SETTLED).all())


def _width(linear: nn.Module) -> int:
    size = linear.in_features
    assert isinstance(size, int)
    return size


@torch.no_grad()
def principal_directions(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    ranks: Mapping[str, int],
    examples: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
) -> dict[str, Tensor]:
    """For each of `layers` the first `ranks[name]` components [r, in] of what it gets to see.

    Runs `model` over the examples until all have settled. PEFT's own loop runs until then however
    long it takes, and shares out ranks anew, so that an adapter's size would be known only after
    it. Raises DataError for fewer inputs than components.
    """
    found = {name: _Directions(ranks[name], _width(m)) for name, m in layers.items()}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: found[name].add(args[0]))
        for name, module in layers.items()
    ]
    was_training = model.training
    model.eval()
    try:
        for example in examples:
            loss(model, example)
            if all(directions.settled for directions in found.values()):
                break
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    results = {name: directions.result() for name, directions in found.items()}
    for name, components in results.items():
        if components is None:
            raise DataError(
                f"method.init 'eva': {name} saw fewer inputs than twice its rank {ranks[name]}; "
                "give more training examples, or lower method.rank"
            )
    return {name: components for name, components in results.items() if components is not None}
