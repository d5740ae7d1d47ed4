"""Review -> ` positive` or ` negative`.

The completion begins with a space, so that the label is tokenized as it is in running text; the
prompt therefore ends without one.

Shared between train and test because they define the task: the two labels. Subjects, owners,
openings, fillers and all mood phrases come from separate pools.
"""

import random
from dataclasses import fields

from demo.tasks.review_pools import POOLS
from demo.tasks.rows import Row, Split

NAME = "review_label"
LABELS = ("positive", "negative")


def pool_values(split: Split) -> dict[str, tuple[str, ...]]:
    """All pools of a split by name, for the disjointness check."""
    pools = POOLS[split]
    return {field.name: getattr(pools, field.name) for field in fields(pools)}


def make(rng: random.Random, split: Split) -> Row:
    """One review of two to five sentences; both labels are equally likely."""
    pools = POOLS[split]
    label = rng.choice(LABELS)
    moods, closings = (
        (pools.positive, pools.positive_closings)
        if label == "positive"
        else (pools.negative, pools.negative_closings)
    )
    opening = rng.randrange(len(pools.openings))
    slots = {"subject": rng.choice(pools.subjects), "owner": rng.choice(pools.owners)}
    sentences = [pools.openings[opening].removesuffix(".")]
    if rng.random() < 0.3:
        sentences.append(rng.choice(pools.fillers).removesuffix("."))
    chosen = rng.sample(moods, rng.randint(1, 3))
    if rng.random() < 0.6:
        chosen.append(rng.choice(closings))
    for number, mood in enumerate(chosen, 1):
        slots[f"mood_{number}"] = mood
    filled = [text.format(**slots) for text in sentences + chosen]
    return Row(
        input=" ".join(f"{text[0].upper()}{text[1:]}." for text in filled),
        completion=f" {label}",
        template_id=f"{'test' if split == 'test' else 'train'}:o{opening}",
        slots=slots,
        label=label,
    )
