"""Word lists of the instruction text beside those of `base_words`.

As there, no value is a slot value of a demo task's test split.
"""

import random
from collections.abc import Mapping

from demo.tasks.rows import phrases, words


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Splits a block of `first-second` at white space and hyphens."""
    found = (word.partition("-") for word in text.split())
    return tuple((first, second) for first, _, second in found)


SHE_NAMES = words(
    """Agnes Alina Astrid Bella Carla Clara Cora Daria Dora Edith Elena Enid Esme Ethel Fiona Flora
    Gemma Greta Hanna Ida Ines Iris Judith Karin Lara Lottie Mabel Magda Marta Nadia Nell Nora Olga
    Paula Petra Rhoda Rosa Sabina Selma Stella Tessa Tilda Una Ursula Vera Wanda Wilma Zelda"""
)
HE_NAMES = words(
    """Adam Albert Amos Anton Arthur Basil Boris Bruno Cedric Colin Cyrus Derek Dylan Edgar Elmer
    Emil Erik Fabian Felix Gavin Gus Hamid Hugo Igor Ivan Jonas Josef Kamal Leon Linus Lucas Marcus
    Milo Nico Olaf Oscar Otis Pavel Ralph Rufus Saul Simon Tariq Toby Viktor Yusuf"""
)
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "fruit": words("apple pear plum cherry grape banana lemon melon mango peach apricot fig kiwi"),
    "vegetable": words("carrot onion cabbage leek spinach potato turnip pea bean cucumber radish"),
    "animal": words("cat dog horse goat sheep cow donkey camel fox bear wolf tiger lion rabbit"),
    "bird": words("owl eagle sparrow crow swan robin heron penguin pigeon gull stork parrot"),
    "tool": words("hammer saw drill spanner chisel pliers shovel axe screwdriver rake wrench"),
    "piece of furniture": words(
        "table sofa wardrobe bench stool cupboard bed desk armchair sideboard"
    ),
    "vehicle": words("car bus lorry bicycle tram van scooter tractor motorbike ambulance taxi"),
    "colour": words("red blue green yellow purple pink brown grey black white turquoise"),
    "part of the body": words("arm leg knee elbow shoulder ear nose chin neck ankle finger thumb"),
    "drink": words("water milk tea coffee juice lemonade cocoa cider wine beer"),
    "metal": words("iron gold silver copper tin lead zinc steel bronze aluminium"),
    "musical instrument": words("piano violin guitar drum cello harp oboe organ"),
    "item of clothing": words("shirt sock coat hat glove scarf skirt jumper boot belt blouse cap"),
    "sport": words("tennis football rowing hockey golf cricket judo fencing rugby swimming boxing"),
    "flower": words("tulip daisy lily poppy daffodil orchid sunflower snowdrop carnation"),
    "tree": words("oak elm pine willow birch maple cedar beech poplar spruce"),
    "insect": words("ant bee wasp beetle butterfly moth mosquito cricket fly ladybird"),
    "shape": words("circle square triangle rectangle star diamond cube cone"),
    "job": words("teacher baker nurse farmer pilot plumber judge tailor dentist barber waiter"),
    "building": words("house castle church barn tower factory hospital school library museum"),
}
# No category stands beside another one of its group: a crow is an animal too.
OVERLAPS = (("animal", "bird", "insect"), ("tree", "fruit"), ("colour", "metal", "flower", "fruit"))


def apart(rng: random.Random, count: int) -> list[str]:
    """`count` categories that have no members in common."""
    found: list[str] = []
    for name in rng.sample(sorted(CATEGORIES), len(CATEGORIES)):
        near = {other for group in OVERLAPS if name in group for other in group}
        if not near & set(found):
            found.append(name)
    return found[:count]


OPPOSITES: tuple[tuple[str, str], ...] = pairs(
    """hot-cold big-small early-late high-low open-closed full-empty heavy-light wet-dry
    hard-soft fast-slow loud-quiet rich-poor young-old long-short wide-narrow deep-shallow
    clean-dirty happy-sad strong-weak thick-thin bright-dark near-far sharp-blunt rough-smooth
    sweet-sour cheap-expensive easy-difficult first-last left-right up-down in-out day-night
    summer-winter friend-enemy love-hate buy-sell give-take begin-end win-lose push-pull
    arrive-leave remember-forget question-answer always-never everything-nothing before-after
    true-false safe-dangerous brave-cowardly polite-rude inside-outside"""
)
SYNONYMS: tuple[tuple[str, str], ...] = pairs(
    """big-large small-little quick-fast begin-commence shut-close end-finish happy-glad
    sad-unhappy angry-furious clever-smart ill-sick rich-wealthy brave-courageous shout-yell
    buy-purchase help-assist gift-present present-gift road-street stone-rock speak-talk
    correct-right error-mistake hard-difficult easy-simple strange-odd quiet-silent
    tired-weary look-gaze jump-leap reply-answer choose-select mend-repair hide-conceal
    garbage-rubbish physician-doctor story-tale near-close wet-damp start-begin"""
)
PLURALS: Mapping[str, str] = dict(
    pairs(
        """child-children mouse-mice tooth-teeth foot-feet goose-geese man-men woman-women
        leaf-leaves knife-knives wolf-wolves shelf-shelves loaf-loaves city-cities baby-babies
        berry-berries box-boxes bus-buses dish-dishes watch-watches potato-potatoes hero-heroes
        sheep-sheep deer-deer ox-oxen key-keys toy-toys house-houses roof-roofs chair-chairs
        lamp-lamps table-tables garden-gardens letter-letters bridge-bridges church-churches
        fox-foxes lady-ladies story-stories wife-wives half-halves thief-thieves"""
    )
)
CAPITALS: Mapping[str, str] = dict(
    pairs(
        """Germany-Berlin Spain-Madrid Italy-Rome Austria-Vienna Norway-Oslo Sweden-Stockholm
        Finland-Helsinki Poland-Warsaw Greece-Athens Ireland-Dublin Hungary-Budapest Egypt-Cairo
        Kenya-Nairobi Japan-Tokyo China-Beijing Canada-Ottawa Cuba-Havana Peru-Lima Chile-Santiago
        Russia-Moscow Turkey-Ankara Iceland-Reykjavik Bulgaria-Sofia Romania-Bucharest Iraq-Baghdad
        Denmark-Copenhagen Belgium-Brussels Ukraine-Kyiv Ghana-Accra Thailand-Bangkok"""
    )
)
PLAIN_FACTS: tuple[tuple[str, str], ...] = tuple(
    (f"{question}?", answer.strip())
    for line in phrases(
        """What colour is grass? Green|What colour is snow? White|What colour is the sky on a clear
        day? Blue|How many legs does a spider have? Eight|How many legs does a dog have? Four
        |How many wheels does a bicycle have? Two|How many days are there in a week? Seven
        |How many months are there in a year? Twelve|How many hours are there in a day? Twenty-four
        |How many minutes are there in an hour? Sixty|What do bees make? Honey|What do cows give?
        Milk|Who bakes bread? A baker|Who teaches at a school? A teacher|Who mends pipes? A plumber
        |What is frozen water called? Ice|What do we call a young cat? A kitten|What do we call a
        young dog? A puppy|What do we call a young cow? A calf|What do we call a young sheep? A lamb
        |What do we call a young horse? A foal|In which season does snow fall? In winter|Which month
        comes first in the year? January|Which month comes last in the year? December|What do you
        use to cut paper? Scissors|What do you use to open a lock? A key|What shines in the sky at
        night? The moon|Where do fish live? In water|What does a thermometer measure? Temperature
        |What does a clock show? The time|How many sides does a triangle have? Three|How many
        corners does a square have? Four|What do plants need to grow? Light and water|At how many
        degrees Celsius does water boil? At one hundred|Which star gives us light in the day? The
        sun|What do hens lay? Eggs|What is wool made from? The hair of sheep|What falls from clouds?
        Rain|Which animal barks? A dog|Which animal gives wool? A sheep|What do you read? A book"""
    )
    for question, _, answer in (" ".join(line.split()).partition("?"),)
)
HARD_SPELLINGS: Mapping[str, str] = dict(
    pairs(
        """receive-recieve believe-beleive friend-freind definitely-definately separate-seperate
        because-becuase tomorrow-tommorow beginning-begining really-realy until-untill
        necessary-neccessary address-adress different-diffrent people-peple business-buisness
        government-goverment surprise-suprise weird-wierd which-wich their-thier writing-writting
        truly-truely argument-arguement calendar-calender library-libary February-Febuary
        Wednesday-Wensday interesting-intresting across-accross together-togeather water-watter
        always-allways garden-gardan letter-leter village-vilage answer-anser question-qestion"""
    )
)
# base, third person, past, participle, -ing form, then things it is done to
VERB_TABLE = """
write writes wrote written writing: a letter; a long report; a song about rain; three postcards
eat eats ate eaten eating: a pear; the last biscuit; soup with bread; too many plums
take takes took taken taking: the early bus; a map; the wrong coat; a photograph of the bridge
see sees saw seen seeing: a fox; the lighthouse; an old friend; smoke over the mill
buy buys bought bought buying: two tickets; a new saddle; fresh fish; a lamp for the hall
sell sells sold sold selling: the boat; honey; an old piano; baskets at the market
break breaks broke broken breaking: a plate; the window; the record; both oars
bring brings brought brought bringing: a cake; the keys; good news; a chair for the guest
find finds found found finding: a coin; the missing page; a quiet place; the way home
teach teaches taught taught teaching: the children; a course on maps; French; young sailors
give gives gave given giving: a speech; the dog some water; a short answer; flowers to the nurse
keep keeps kept kept keeping: bees; a diary; the secret; the receipt
lose loses lost lost losing: a glove; the match; the thread; an umbrella on the train
drink drinks drank drunk drinking: cold milk; a cup of tea; water from the well; the last juice
sing sings sang sung singing: an old song; in the choir; for the guests; the second verse
drive drives drove driven driving: a lorry; the tram; to the coast; very slowly
build builds built built building: a wall; a small boat; a nest box; the new stage
choose chooses chose chosen choosing: the green one; a name for the horse; the longer road
draw draws drew drawn drawing: a plan of the house; a circle; two horses; the harbour
forget forgets forgot forgotten forgetting: the password; her birthday; to lock the gate
grow grows grew grown growing: beans; roses; tall tomatoes; herbs on the balcony
know knows knew known knowing: the answer; the whole village; a good dentist; the words by heart
send sends sent sent sending: a parcel; the bill; a card from the coast; an answer by post
speak speaks spoke spoken speaking: to the judge; Greek; about the plan; very quietly
steal steals stole stolen stealing: an apple; the bicycle; some time; the show
throw throws threw thrown throwing: the ball; a stone into the lake; away the old paper; a party
wear wears wore worn wearing: a red hat; gloves; heavy boots; a coat in June
win wins won won winning: the race; a prize; the last game; a basket of fruit
carry carries carried carried carrying: a ladder; the shopping; two buckets; the tent
paint paints painted painted painting: the fence; a portrait; the door blue; boats at sea
clean cleans cleaned cleaned cleaning: the windows; the stove; the cage; the stairs twice
repair repairs repaired repaired repairing: the roof; a clock; the old pump; shoes
cook cooks cooked cooked cooking: rice; a large stew; supper for ten; eggs
visit visits visited visited visiting: the museum; an aunt; the old mill; a farm in the hills
watch watches watched watched watching: the birds; a film; the boats; the rain
study studies studied studied studying: the map; law; the old letters; insects
plan plans planned planned planning: a journey; the feast; a new path; the week
open opens opened opened opening: the box; a shop; the window; the letter with a knife
"""


def _verbs() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    found = []
    for line in VERB_TABLE.strip().splitlines():
        forms, objects = line.split(": ")
        found.append((words(forms), tuple(objects.split("; "))))
    return tuple(found)


VERBS = _verbs()
"""Per verb: base, third person, past, participle, -ing form; and what it is done to."""
