"""A few plain facts and a question -> the answer as a pirate would give it.

Shared between train and test because they define the task: one answer frame per kind of question,
clock times and numbers. Names, things, places, events, trades and the wordings of facts and
questions come from separate pools.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

from demo.tasks.rows import Row, Split, phrases, words

NAME = "pirate_answer"

ANSWERS: Mapping[str, str] = {
    "where": "Arr, the {thing} be {place}, matey!",
    "when": "Aye, the {event} be at {time}, says I!",
    "who": "Yo ho, {name} be the one, I swear!",
    "many": "Shiver me timbers, there be {number} {goods}!",
}


@dataclass(frozen=True)
class PiratePools:
    """Values of one split, and two pools of wordings for each kind of question."""

    things: tuple[str, ...]
    places: tuple[str, ...]
    events: tuple[str, ...]
    names: tuple[str, ...]
    jobs: tuple[str, ...]
    goods: tuple[str, ...]
    where_facts: tuple[str, ...]
    where_questions: tuple[str, ...]
    when_facts: tuple[str, ...]
    when_questions: tuple[str, ...]
    who_facts: tuple[str, ...]
    who_questions: tuple[str, ...]
    many_facts: tuple[str, ...]
    many_questions: tuple[str, ...]


TRAIN = PiratePools(
    things=phrases(
        """spyglass|parrot|anchor|rope|lamp|compass|flag|barrel|sword|hammock|kettle|axe|saddle
        |violin|purse|ladder|blanket|mirror|drum|candle|letter|saw|bell|whistle|globe|comb"""
    ),
    places=phrases(
        """in the cellar|under the stairs|behind the stove|on the roof|near the well|by the gate
        |in the blue chest|below the deck|on the long shelf|inside the hut|next to the mast
        |at the old mill|under the oak|in the hall|over the door|beside the pond|in the attic
        |behind the church"""
    ),
    events=phrases(
        """feast|market|wedding|race|concert|auction|parade|lesson|dance|trial|supper|voyage|fair
        |meeting|match|sermon"""
    ),
    names=words(
        """Ada Bart Cora Dirk Elsie Finn Gerta Hank Inga Jonas Kitty Lars Molly Nils Otto Polly
        Rufus Selma Tobias Una Victor Wilma"""
    ),
    jobs=phrases(
        """mends the nets|cooks the soup|feeds the hens|guards the tower|bakes the bread
        |cleans the deck|steers the boat|tends the fire|sells the fish|keeps the keys
        |sweeps the yard|milks the goats|counts the money|paints the fence|draws the maps
        |chops the wood"""
    ),
    goods=phrases(
        """cannons|coins|oranges|sails|sheep|barrels|chairs|islands|fishes|chests|boats|crabs
        |bottles|ropes|shells|horses|hats|candles"""
    ),
    where_facts=phrases(
        """the {thing} is {place}|you find the {thing} {place}|somebody left the {thing} {place}
        |{place} you see the {thing}|I saw the {thing} {place}|the {thing} has its home {place}"""
    ),
    where_questions=phrases(
        """Where is the {thing}?|Where can I find the {thing}?|Tell me where the {thing} is.
        |What place is the {thing} in?|I want the {thing}. Where is it?
        |Does anyone know where to find the {thing}?|Where do I have to look for the {thing}?
        |The {thing}, where is it?"""
    ),
    when_facts=phrases(
        """the {event} begins at {time}|at {time} there is the {event}|the {event} is at {time}
        |come to the {event} at {time}|the bell rings for the {event} at {time}
        |the {event} was set for {time}"""
    ),
    when_questions=phrases(
        """When is the {event}?|At what time does the {event} begin?|Tell me when the {event} is.
        |What is the time of the {event}?|When do we have to be at the {event}?
        |Does anyone know when the {event} is?|The {event}, when is it?
        |When will the {event} be?"""
    ),
    who_facts=phrases(
        """{name} {job}|it is {name} who {job}|every day {name} {job}|as ever {name} {job}
        |{name} is the person who {job}|only {name} {job}"""
    ),
    who_questions=phrases(
        """Who {job}?|Who is it that {job}?|Tell me who {job}.
        |What is the name of the one who {job}?
        |Does anyone know who {job}?|Who is the one that {job}?|Who {job} here?
        |Somebody {job}. Who is it?"""
    ),
    many_facts=phrases(
        """there are {number} {goods}|we have {number} {goods}|they own {number} {goods}
        |you can see {number} {goods}|the captain bought {number} {goods}
        |{number} {goods} are on the list"""
    ),
    many_questions=phrases(
        """How many {goods} are there?|What is the number of {goods}?|Tell me the number of {goods}.
        |How many {goods} can you see?|Does anyone know how many {goods} there are?
        |The {goods}, how many are there?|How many {goods} do we have?
        |I want to know how many {goods} there are."""
    ),
)

TEST = PiratePools(
    things=phrases(
        "cutlass|rudder|tambourine|toolbox|needle|pistol|crowbar|bugle|wig|quill|hourglass|harpoon"
    ),
    places=phrases(
        """in the pantry|under the bridge|behind the curtain|on the pier|near the windmill
        |inside the cave|at the tavern|beside the fountain|in the wardrobe|under the bench"""
    ),
    events=phrases("banquet|regatta|duel|picnic|funeral|lecture|opera|tournament"),
    names=words("Barnaby Cosima Desmond Edwina Ferdinand Gudrun Humphrey Isolde Mortimer Winifred"),
    jobs=phrases(
        """rows the ferry|polishes the brass|brews the beer|shoes the horses|repairs the sails
        |waters the roses|writes the songs|shears the sheep"""
    ),
    goods=phrases("pearls|daggers|melons|monkeys|lobsters|tents|goblets|rafts|turtles|pigeons"),
    where_facts=phrases("the {thing} lies {place}|they keep the {thing} {place}"),
    where_questions=phrases(
        "In which place is the {thing}?|Do you know where the {thing} is?|Where did the {thing} go?"
    ),
    when_facts=phrases("the {event} starts at {time}|they hold the {event} at {time}"),
    when_questions=phrases(
        "What time is the {event}?|When does the {event} start?|Do you know when the {event} is?"
    ),
    who_facts=phrases("the one who {job} is {name}|here {name} {job}"),
    who_questions=phrases("Do you know who {job}?|Which person {job}?|Who was it that {job}?"),
    many_facts=phrases("I counted {number} {goods}|the village has {number} {goods}"),
    many_questions=phrases(
        """How many {goods} did you see?|Do you know how many {goods} there are?
        |How many {goods} are in it?"""
    ),
)

POOLS: Mapping[str, PiratePools] = {"train": TRAIN, "validation": TRAIN, "test": TEST}


def pool_values(split: Split) -> dict[str, tuple[str, ...]]:
    """All pools of a split by name, for the disjointness check."""
    pools = POOLS[split]
    return {field.name: getattr(pools, field.name) for field in fields(pools)}


def make(rng: random.Random, split: Split) -> Row:
    """Two to four facts of different kinds, and a question about one of them."""
    pools = POOLS[split]
    values = {
        "thing": rng.choice(pools.things),
        "place": rng.choice(pools.places),
        "event": rng.choice(pools.events),
        "time": f"{rng.randint(1, 12)}{rng.choice(('', ':15', ':30', ':45'))}",
        "name": rng.choice(pools.names),
        "job": rng.choice(pools.jobs),
        "number": str(rng.randint(2, 99)),
        "goods": rng.choice(pools.goods),
    }
    kinds = rng.sample(sorted(ANSWERS), rng.randint(2, 4))
    kind = rng.choice(kinds)
    facts = [rng.choice(getattr(pools, f"{each}_facts")).format(**values) for each in kinds]
    questions = getattr(pools, f"{kind}_questions")
    at = rng.randrange(len(questions))
    asked = questions[at].format(**values)
    passage = " ".join(f"{fact[0].upper()}{fact[1:]}." for fact in facts)
    return Row(
        input=f"{passage}\n{asked}",
        completion=ANSWERS[kind].format(**values),
        template_id=f"{'test' if split == 'test' else 'train'}:{kind}/{at}",
        slots={key: value for key, value in values.items() if f"{{{key}}}" in ANSWERS[kind]},
    )
