"""A signed note with an order -> a JSON object with name, time and order.

Shared between train and test because they define the task: the object's three keys in their
order, weekdays, clock times and numbers. What is ordered, names and sentences come from separate
pools.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

from demo.tasks.rows import Row, Split, phrases, words

NAME = "order_json"
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
WHEN = f"[0-9]{{1,2}}:[0-9]{{2}} ({'|'.join(DAYS)})"

SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "when": {"type": "string", "pattern": f"^{WHEN}$"},
        "order": {"type": "string"},
    },
    "required": ["name", "when", "order"],
    "additionalProperties": False,
}
"""What every completion fulfils; a server can be asked to hold a model to it."""


@dataclass(frozen=True)
class OrderPools:
    """Values and wordings of one split. A name stands where a line or a bracket begins, and the
    object's other values begin with a digit: so all have the same tokens behind a quotation mark.
    """

    qualities: tuple[str, ...]
    items: tuple[str, ...]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    orders: tuple[str, ...]
    openings: tuple[str, ...]


TRAIN = OrderPools(
    qualities=phrases(
        "red|brown|white|plain|long|thick|tall|cheap|heavy|soft|fresh|square|round|wide|striped|tin"
    ),
    items=phrases(
        """pencils|envelopes|towels|candles|buckets|ladders|curtains|plates|spoons|jars of honey
        |boxes of nails|bags of flour|rolls of tape|cans of soup|pots of glue|packs of batteries
        |brushes|mirrors|hammers|shelves|baskets|cushions|bottles of ink|sacks of rice|gloves
        |notebooks|tiles|hooks|rulers|lanterns|crates of apples|bunches of tulips|loaves of bread
        |bars of soap|stamps|calendars|whistles|combs|aprons|kettles"""
    ),
    first_names=words(
        """Alan Betty Colin Diana Eddie Fiona George Hannah Ivan Julie Keith Lily Matt Nora Oscar
        Paula Robin Sally Terry Ursula Vera Wayne Zoe Simon Clara Bruno Gwen Felix Iris Hugo"""
    ),
    last_names=words(
        """Abbott Barker Clarke Dawson Elliott Fowler Garner Holmes Irwin Jensen Kemp Lawson Mills
        Newton Osborne Payne Rowe Sutton Tyler Vaughan Webb York Barnes Curtis Drake Fleming"""
    ),
    orders=phrases(
        """{name}: please send {order} on {day} at {time}.|{name} would like {order}, {day}, {time}.
        |We need {order} on {day} at {time}.\n{name}
        |Can you bring {order} at {time} on {day}?\n{name}
        |On {day} at {time} I want {order}.\n{name}|{name} here, I order {order} for {day}, {time}.
        |Put {order} aside until {day}, {time}.\n({name})
        |{order}, please, for {day} at {time}.\n{name}
        |I will fetch {order} on {day} at {time}.\n({name})|{day}, {time}, {order}.\n{name}
        |{name} ordered {order} and will come on {day} at {time}.
        |{name} asks for {order}, to be ready at {time} on {day}.
        |By {time} on {day} I must have {order}.\n{name}
        |Order for {day}: {order}, {time}.\n({name})"""
    ),
    openings=phrases(
        """Hello.|Good morning.|Hi there.|A new order.|One more thing.|Dear shop.|Me again.
        |Quick one."""
    ),
)

TEST = OrderPools(
    qualities=phrases("beige|slim|shiny|glossy|sturdy|woollen|crimson|rustic"),
    items=phrases(
        """erasers|saucers|pillows|shovels|doormats|ladles|tubs of paint|sacks of sand|tins of beans
        |coils of rope|bundles of straw|packets of seeds|napkins|door knobs|chisels|sponges|vases
        |barrels of oil|jugs of cream|reels of thread"""
    ),
    first_names=words(
        """Agatha Bernard Celia Dominic Esther Frances Graham Hilda Imogen Jerome Kathleen Lawrence
        Millicent Nigella Ophelia Prudence"""
    ),
    last_names=words(
        """Atkins Blackwood Crawford Doyle Eastman Farrell Goodwin Hobbs Ingham Judd Kilburn Lambert
        Moody Nash Pickett Rigby"""
    ),
    orders=phrases(
        """{name} wishes to get {order} on {day} at {time}.
        |Kindly deliver {order} on {day}, {time}.\n{name}
        |Reserve {order} for {day}, {time}.\n({name})
        |Would you have {order} for me at {time} on {day}?\n{name}
        |{name} called and asked to have {order} at {time} on {day}.
        |{day} at {time}: {order}.\n({name})|{name}: I could do with {order}, {day}, {time}."""
    ),
    openings=phrases("Good afternoon.|Hello team.|Here comes an order.|Something else."),
)

POOLS: Mapping[str, OrderPools] = {"train": TRAIN, "validation": TRAIN, "test": TEST}


def pool_values(split: Split) -> dict[str, tuple[str, ...]]:
    """All pools of a split by name, for the disjointness check."""
    pools = POOLS[split]
    return {field.name: getattr(pools, field.name) for field in fields(pools)}


def make(rng: random.Random, split: Split) -> Row:
    """One note of one to three lines with its object."""
    pools = POOLS[split]
    at = rng.randrange(len(pools.orders))
    item = rng.choice(pools.items)
    if rng.random() < 0.5:
        item = f"{rng.choice(pools.qualities)} {item}"
    day, time = rng.choice(DAYS), f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}"
    slots = {
        "name": f"{rng.choice(pools.first_names)} {rng.choice(pools.last_names)}",
        "when": f"{time} {day}",
        "order": f"{rng.randint(2, 99)} {item}",
    }
    opening = f"{rng.choice(pools.openings)}\n" if rng.random() < 0.3 else ""
    return Row(
        input=opening + pools.orders[at].format(day=day, time=time, **slots),
        completion=json.dumps(slots),
        template_id=f"{'test' if split == 'test' else 'train'}:o{at}",
        slots=slots,
    )
