"""The batches of a run before it runs: how many, and the largest of them."""

from dataclasses import dataclass

from trainer.batches import BatchPlan
from trainer.config import TrainConfig
from trainer.examples import Examples
from trainer.methods import METHODS


@dataclass(frozen=True)
class LargestBatch:
    """The forward pass that takes most memory. Virtual tokens apart."""

    num_rows: int
    length: int
    """Tokens of its longest example."""
    num_terms: int
    """Positions that the loss looks at."""


def largest_batch(config: TrainConfig, examples: Examples, plan: BatchPlan) -> LargestBatch:
    """Of the first epoch; later ones draw other batches of the same windows.

    Packing may spread the same tokens over fewer and longer rows, of no more tokens in all.
    """
    num_virtual = METHODS[config.method.type].num_virtual_tokens(config.method)
    lengths = examples.lengths
    steps = range(min(plan.steps_per_epoch, plan.num_steps))
    batches = (batch for step in steps for batch in plan.batches_of(step))
    chosen = max(batches, key=lambda batch: len(batch) * (int(lengths[batch].max()) + num_virtual))
    num_terms = sum(max(1, examples[int(i)].num_learnt) for i in chosen)
    return LargestBatch(len(chosen), int(lengths[chosen].max()), num_terms)
