"""Support dialogue -> one sentence that says who has what problem and what will be done.

Shared between train and test because they define the task: the speaker labels, the sentence
frame of the summary, and digits (test order numbers start with 7, 8 or 9, train ones with 1 to
6). Everything else, values and wordings, comes from separate pools.
"""

import random
from dataclasses import fields

from demo.tasks.rows import Row, Split
from demo.tasks.support_pools import POOLS

NAME = "support_summary"
SUMMARY = "Customer {name} (order {order}) says the {item} {problem}. The agent will {resolution}."
SLOT_POOLS = ("first_names", "last_names", "modifiers", "items", "problems", "resolutions", "times")
TEMPLATE_POOLS = ("openings", "questions", "answers", "promises", "closings")


def pool_values(split: Split) -> dict[str, tuple[str, ...]]:
    """All pools of a split by name, for the disjointness check."""
    pools = POOLS[split]
    return {
        field.name: getattr(pools, field.name)
        for field in fields(pools)
        if field.name in SLOT_POOLS + TEMPLATE_POOLS
    }


def make(rng: random.Random, split: Split) -> Row:
    """One dialogue of four to six turns with its summary."""
    pools = POOLS[split]
    item = rng.choice(pools.items)
    if rng.random() < 0.5:
        item = f"{rng.choice(pools.modifiers)} {item}"
    resolution = rng.choice(pools.resolutions)
    if rng.random() < 0.6:
        resolution = f"{resolution} {rng.choice(pools.times)}"
    first_digit = rng.choice("789" if split == "test" else "123456")
    rest = "".join(rng.choice("0123456789") for _ in range(pools.order_digits - 1))
    slots = {
        "name": f"{rng.choice(pools.first_names)} {rng.choice(pools.last_names)}",
        "item": item,
        "problem": rng.choice(pools.problems),
        "order": first_digit + rest,
        "resolution": resolution,
    }
    parts = {
        name: rng.randrange(len(getattr(pools, name)))
        for name in ("openings", "questions", "answers", "promises")
    }
    lines = [
        f"Customer: {pools.openings[parts['openings']]}",
        f"Agent: {pools.questions[parts['questions']]}",
        f"Customer: {pools.answers[parts['answers']]}",
        f"Agent: {pools.promises[parts['promises']]}",
    ]
    if rng.random() < 0.6:
        parts["closings"] = rng.randrange(len(pools.closings))
        lines.append(f"Customer: {pools.closings[parts['closings']]}")
    side = "test" if split == "test" else "train"
    return Row(
        input="\n".join(lines).format(**slots),
        completion=SUMMARY.format(**slots),
        template_id=f"{side}:" + "/".join(f"{name[0]}{at}" for name, at in parts.items()),
        slots=slots,
    )
