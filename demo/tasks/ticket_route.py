"""A customer's message -> the desk that deals with it, one of five.

The completion begins with a space, as in `review_label`. Shared between train and test because
they define the task: the five desks. Openings, complaints, closings and names come from separate
pools.
"""

import random

from demo.tasks.rows import Row, Split
from demo.tasks.ticket_pools import POOLS

NAME = "ticket_route"
DESKS = ("billing", "delivery", "login", "repair", "booking")


def pool_values(split: Split) -> dict[str, tuple[str, ...]]:
    """All pools of a split by name, for the disjointness check."""
    pools = POOLS[split]
    return {
        "openings": pools.openings,
        "closings": pools.closings,
        "names": pools.names,
        **{desk: getattr(pools, desk) for desk in DESKS},
    }


def make(rng: random.Random, split: Split) -> Row:
    """One message of one to four sentences; all desks are equally likely."""
    pools = POOLS[split]
    desk = rng.choice(DESKS)
    chosen = rng.sample(getattr(pools, desk), rng.randint(1, 2))
    slots = {"name": rng.choice(pools.names)}
    slots |= {f"issue_{number}": issue for number, issue in enumerate(chosen, 1)}
    opening = rng.randrange(len(pools.openings))
    sentences = [pools.openings[opening].format(**slots), *chosen]
    if rng.random() < 0.4:
        sentences.append(rng.choice(pools.closings))
    return Row(
        input=" ".join(f"{text[0].upper()}{text[1:].removesuffix('.')}." for text in sentences),
        completion=f" {desk}",
        template_id=f"{'test' if split == 'test' else 'train'}:o{opening}",
        slots=slots,
        label=desk,
    )
