"""Word lists for the pretraining text: people, places, things, actions.

These pools belong to `base_text` alone. No value here is a slot value of a demo task's test
split (`check_disjoint` verifies it), so the base never meets the test material in training.
"""

import random

from demo.tasks.rows import phrases, words

FIRST_NAMES = words(
    """Adam Agnes Albert Alina Amir Amos Anton April Arthur Astrid Basil Beata Bella Boris Bruno
    Carla Cedric Clara Colin Cora Cyrus Dalia Daria Derek Dora Dylan Edith Edgar Elena Elmer Emil
    Enid Erik Esme Ethel Fabian Faye Felix Fiona Flora Gavin Gemma Greta Gus Hamid Hanna Hazel
    Hugo Ida Igor Ines Iris Ivan Jade Jonas Josef Judith Kamal Karin Kofi Lara Leon Lila Linus
    Lottie Lucas Mabel Magda Marcus Marta Mina Milo Nadia Nell Nico Nora Olaf Olga Oscar Otis
    Paula Pavel Perry Petra Piers Quinn Rafi Ralph Rhoda Rosa Rufus Sabina Saul Selma Simon Stella
    Tariq Tessa Tilda Toby Una Ursula Vera Viktor Wanda Wilma Xenia Yara Yusuf Zelda Zoe"""
)

SURNAME_STARTS = words(
    """Ald Ash Bar Bel Bram Bren Cal Car Clay Cor Dal Den Dun Elm Fair Fen Gar Glen Gran Hal Har
    Hol Kel Kir Lang Lin Mal Mar Mor Nor Oak Pen Quar Rad Ros Rush Sal Shel Stan Tal Thor Val Wal
    Wex Win Wood Yar"""
)
SURNAME_ENDS = words(
    """ber bury by combe den dale don er field ford gate ham ing kin ley low man mere more ner
    ridge row sen shaw son stead ton well wick worth"""
)

SYLLABLES = words(
    """ba be bi bo bu ka ke ki ko ku da de di do du fa fe fi fo ga ge go gu la le li lo lu ma me mi
    mo mu na ne ni no nu pa pe pi po pu ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo za
    zi zo sha tra bri clo dru fle gra pli sto"""
)
SYLLABLE_ENDS = words("n l r s t m k d x sh nd rt lm ck") + ("",) * 12

JOBS = words(
    """baker teacher nurse farmer painter driver cook pilot tailor doctor singer plumber gardener
    writer librarian carpenter dentist sailor waiter potter judge barber clerk engineer
    photographer postman fisherman mechanic florist guard"""
)

PLACES = phrases(
    """the library|the market|the park|the harbour|the school|the hospital|the museum|the bakery
    |the station|the river|the beach|the town hall|the garden|the farm|the forest|the bridge
    |the office|the cinema|the stadium|the castle|the village square|the bus stop|the bank
    |the post office|the swimming pool|the mill|the lighthouse|the church|the zoo|the hotel"""
)

THINGS = phrases(
    """bicycle|wooden box|red scarf|old map|silver key|paper lantern|leather bag|straw hat|clay pot
    |brass bell|green umbrella|small drum|glass jar|wool blanket|garden chair|tin whistle
    |blue kite|coffee grinder|picture frame|rope ladder|bird cage|fishing rod|pocket watch
    |candle holder|sewing kit|chess set|travel guide|rain coat|tool box|water bottle|door handle
    |bread knife|wall clock|flower vase|paint brush|camping stove|pair of boots|pair of gloves
    |bag of flour|basket of apples|box of nails|bunch of keys|jar of honey|pot of soup
    |stack of plates|letter from home|pile of bricks|ticket to the show|book of poems
    |loaf of bread"""
)

# Goods for the service dialogues and reviews written as running prose.
GOODS = phrases(
    """kettle|radio|sofa|bookshelf|alarm clock|food mixer|tablet|tent|pair of sandals|winter jacket
    |garden hose|desk fan|electric drill|carpet|curtain rail|bread bin|coffee table|frying pan
    |guitar|piano stool|rucksack|cot|pram|lawn mower|iron|hair dryer|scooter|skateboard|telescope
    |microscope|wheelbarrow|bath mat|mirror|wardrobe|mattress|pillow|lunch box|raincoat|torch
    |notebook|fountain pen|jigsaw puzzle|board game|pair of jeans|cardigan|pair of slippers
    |dining table|shower curtain|bedside cabinet|rocking chair"""
)

FOODS = words(
    """soup rice bread cheese fish eggs porridge pancakes noodles beans salad plums pears grapes
    carrots potatoes mushrooms cake biscuits jam butter tomatoes onions spinach pie stew dumplings
    cherries walnuts oranges"""
)
ANIMALS = words(
    """cat dog horse goat rabbit hen duck sheep cow parrot mouse fox bear turtle owl donkey frog
    snake monkey camel pony goose pigeon squirrel"""
)
COLOURS = words("red blue green yellow black white brown grey orange purple pink silver golden")
ADJECTIVES = words(
    """small large old new heavy light clean dusty round square long short narrow wide quiet loud
    warm cold soft hard bright dark dry wet quick slow"""
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words(
    """January February March April May June July August September October November
    December"""
)
DAY_SHORT = dict(zip(DAYS, words("mon tue wed thu fri sat sun"), strict=True))
NUMBER_WORDS = words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty"""
)
TIMES_OF_DAY = ("in the morning", "in the afternoon", "in the evening", "at noon", "at night")

FAULTS = phrases(
    """does not heat up|makes a grinding sound|has lost a screw|smells of smoke|keeps falling over
    |has a long scratch on the side|leaks from the bottom|is too small|does not match the picture
    |has no instructions in the box|came without a lid|will not open|is covered in dust
    |has a bent leg|stopped after one hour|is the wrong colour|has a hole in it
    |will not stay closed|was delivered to the wrong house|has a cracked handle|gets far too hot
    |is missing a wheel|has a torn seam|does not fit through the door|flickers all the time
    |was charged twice|arrived three weeks late|has faded in the sun|shows a blank screen
    |has rusted already"""
)
REMEDIES = phrases(
    """send another one|return the money|come and look at it|post a spare part|call back after lunch
    |give a discount|pick it up at the weekend|ask the manager|change the address
    |lend another one until then|write to the factory|check the warehouse|mend it for free
    |send a driver tomorrow|cancel the bill|add a voucher|swap it in the shop
    |order the missing part|email a form|keep a place in the queue|send a label for the parcel
    |take it back|print a new receipt|extend the guarantee|find a larger size"""
)
HOBBIES = phrases(
    """playing chess|baking bread|walking by the sea|reading old letters|growing roses
    |painting boats|collecting stamps|singing in a choir|riding horses|mending clocks
    |watching birds|cooking for friends|swimming in the lake|writing songs|flying kites
    |learning to dance|building model ships|telling stories|picking berries|feeding the ducks"""
)
ACTIONS = phrases(
    """water the plants|lock the back door|feed the cat|buy some milk|post the parcel|book the hall
    |clean the windows|pay the gas bill|wash the car|print the posters|return the library books
    |order more paper|check the oven|paint the fence|sign the form|pack the boxes
    |charge the camera|count the chairs|sweep the yard|answer the letter|bring the ladder
    |update the price list|collect the tickets|fold the towels|test the alarm|label the jars
    |empty the bins|measure the table|hang the pictures|translate the menu"""
)
SUBJECTS = phrases(
    """the new roof|the summer trip|the school play|the water bill|the road works|the parking rules
    |the harvest|the choir|the staff rota|the website|the garden show|the broken lift
    |the tax form|the spring sale|the wedding|the boat race|the lost parcel|the exam results
    |the kitchen plans|the bus times|the music lessons|the fire drill|the rent|the new carpet"""
)


def surname(rng: random.Random) -> str:
    """A plausible made-up family name, about 1,400 forms."""
    return rng.choice(SURNAME_STARTS) + rng.choice(SURNAME_ENDS)


def made_up_word(rng: random.Random) -> str:
    """A pronounceable nonsense word of two or three syllables, lower case."""
    count = rng.choice((2, 2, 3))
    return "".join(rng.choice(SYLLABLES) for _ in range(count)) + rng.choice(SYLLABLE_ENDS)


def first_name(rng: random.Random) -> str:
    """A first name: mostly from the list, sometimes made up so that copying cannot be by heart."""
    return made_up_word(rng).capitalize() if rng.random() < 0.35 else rng.choice(FIRST_NAMES)


def person(rng: random.Random) -> str:
    """A first name, or a first name with a family name."""
    first = first_name(rng)
    return f"{first} {surname(rng)}" if rng.random() < 0.4 else first


def town(rng: random.Random) -> str:
    """A made-up town name."""
    return made_up_word(rng).capitalize() if rng.random() < 0.5 else surname(rng)


def people(rng: random.Random, count: int) -> list[str]:
    """`count` different people."""
    found: list[str] = []
    while len(found) < count:
        name = person(rng)
        if name not in found:
            found.append(name)
    return found


def article(noun: str) -> str:
    """The noun phrase with "a" or "an" in front."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def clock(rng: random.Random) -> str:
    """A time such as "3 pm" or "10:30 am"."""
    minutes = rng.choice(("", "", ":15", ":30", ":45"))
    return f"{rng.randint(1, 12)}{minutes} {rng.choice(('am', 'pm'))}"


def sentence(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]
