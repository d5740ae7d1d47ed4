"""Short opinions with what they amount to, for the last part of pretraining.

Sentences are put together from parts, so that words and not whole sentences carry the mood. The
sentence patterns are not those of the review task, and the verdict is part of running prose.
"""

import random
from collections.abc import Iterator, Mapping

from demo.tasks.base_words import GOODS, article, first_name, sentence, town
from demo.tasks.rows import phrases

NOUNS = phrases(
    """staff|food|room|price|service|quality|colour|design|sound|screen|handle|seat|driver|waiter
    |guide|team|place|taste|smell|material|instructions|battery|size|view|music|story|people
    |delivery|packing|help|answer|work|owner|bed|engine|software|picture|button|shop|order"""
)
WORDS: Mapping[str, tuple[str, ...]] = {
    "positive": phrases(
        """good|great|lovely|nice|useful|solid|bright|helpful|friendly|comfortable|strong|fresh
        |smooth|clever|cheerful|neat|tasty|fair|kind|clean|easy|pretty|fine|handy|charming
        |brilliant|excellent|wonderful|perfect|fast|quick|quiet|polite|warm|pleasant|reliable
        |fun|simple|amazing|welcome|well made|well packed|satisfying|delightful|superb"""
    ),
    "negative": phrases(
        """bad|poor|ugly|useless|weak|dirty|rude|slow|dull|noisy|broken|boring|flimsy|sour|stale
        |unfair|unkind|clumsy|messy|annoying|nasty|sad|cold|painful|silly|terrible|awful|wrong|late
        |loud|unfriendly|uncomfortable|unhelpful|dark|confusing|lazy|expensive|unpleasant|horrible
        |badly made|badly packed|disappointing|ignored|faulty|gloomy"""
    ),
}
FEELINGS: Mapping[str, tuple[str, ...]] = {
    "positive": phrases("happy|pleased|glad|grateful|satisfied|thankful|in love|full of praise"),
    "negative": phrases("unhappy|upset|sorry|angry|annoyed|disappointed|fed up|full of anger"),
}
VERBS: Mapping[str, tuple[str, ...]] = {
    "positive": phrases("love|like|enjoy|praise|recommend|adore|trust|welcome"),
    "negative": phrases("hate|dislike|regret|blame|reject|despise|distrust|cannot stand"),
}
EVENTS: Mapping[str, tuple[str, ...]] = {
    "positive": phrases(
        """nothing broke|all went well|the thing works|it never fails|it arrived before time
        |somebody helped me|they smiled|my children laughed|it makes life better|we had fun
        |I got more than I paid for|the best of all|it gets better all the time"""
    ),
    "negative": phrases(
        """it broke|all went wrong|the thing does not work|it always fails|it arrived after weeks
        |nobody helped me|they shouted|my children cried|it makes life worse|we had no fun
        |I got less than I paid for|the worst of all|it gets worse all the time"""
    ),
}
ADVICE: Mapping[str, tuple[str, ...]] = {
    "positive": phrases(
        """buy one|go there|worth it|do not miss it|everybody should try it|ten out of ten
        |I shall be back|money well spent|a thing to keep"""
    ),
    "negative": phrases(
        """do not buy one|stay away|not worth it|avoid it|nobody should try it|zero out of ten
        |I shall not be back|money badly spent|a thing to throw out"""
    ),
}
PATTERNS = phrases(
    """I found the {noun} {word}|what {a_word} {noun}|the {noun} seemed {word} to us
    |such {word} {noun} is rare|{word} {noun}, {word2} {noun2}|for me the {noun} is {word}
    |we {verb} the {noun}|I {verb} this {thing} for its {noun}|the {noun} made me {feeling}
    |{event}|{event}, and the {noun} looked {word}|{advice}|{feeling} is the word for how I feel
    |it has {word} {noun} and {word2} {noun2}|{word}, {word2} and once more {word}
    |you could call the {noun} {word}|I {verb} all of it|to my mind {word}"""
)
FRAMES = phrases(
    """{name} wrote about the {thing}: {text} It is a {mood} review.
    |{text} These are {mood} words about the {thing}.
    |Is this opinion positive or negative? {text} It is {mood}.
    |{name} said: "{text}" A {mood} answer, then.
    |{text} Did {name} like the {thing}? {yes}.|{text} So {name} was {feeling}.
    |{text} Would {name} come again? {yes}.|{text} In short, {advice}.
    |{name} in {town}: {text} {name} was {feeling} with the {thing}.
    |Good or bad? {text} {good}.|{text} In one word: {word}.|{text} That was {word}.
    |The {thing} is {good_low}. {text}|{name} is {feeling} with the {thing}. {text}"""
)


def opinion(rng: random.Random, mood: str, thing: str) -> str:
    """One to three sentences of one mood about a thing."""
    parts = []
    for _ in range(rng.randint(1, 3)):
        noun, noun2 = rng.sample(NOUNS, 2)
        word, word2 = rng.sample(WORDS[mood], 2)
        parts.append(
            rng.choice(PATTERNS).format(
                noun=noun,
                noun2=noun2,
                word=word,
                word2=word2,
                a_word=article(word),
                thing=thing,
                verb=rng.choice(VERBS[mood]),
                feeling=rng.choice(FEELINGS[mood]),
                event=rng.choice(EVENTS[mood]),
                advice=rng.choice(ADVICE[mood]),
            )
        )
    return " ".join(f"{sentence(part)}." for part in parts)


def verdicts(rng: random.Random) -> str:
    """One to four opinions of either mood in the same frame."""
    frame = rng.choice(FRAMES)
    lines = []
    for _ in range(rng.randint(1, 4)):
        mood = rng.choice(("positive", "negative"))
        thing = rng.choice(GOODS)
        good = "good" if mood == "positive" else "bad"
        line = frame.format(
            text=opinion(rng, mood, thing),
            mood=mood,
            thing=thing,
            name=first_name(rng),
            town=town(rng),
            yes="Yes" if mood == "positive" else "No",
            good=sentence(good),
            good_low=good,
            word=rng.choice(WORDS[mood]),
            feeling=rng.choice(FEELINGS[mood]),
            advice=rng.choice(ADVICE[mood]),
        )
        lines.append(sentence(line))
    return "\n".join(lines)


def texts(seed: int, num: int) -> Iterator[str]:
    """Yields `num` documents; the same seed gives the same documents on any machine."""
    rng = random.Random(f"base_opinions:{seed}")
    for _ in range(num):
        yield verdicts(rng)


VERDICT_FRAMES = phrases(
    """{text} It is a {mood} review.|{text} These are {mood} words.|{text} A {mood} answer, then.
    |{text} That sounds {mood} to me.|{text} All in all {mood}.|{name} said: "{text}" How {mood}!
    |{text} Was {name} happy with it? {yes}.|{text} So {name} was {feeling}."""
)


def verdict_lines(seed: int, num: int) -> Iterator[str]:
    """Yields `num` documents of eight to sixteen opinions, each with the same kind of verdict.

    The opinions are those of `texts`, packed more densely.
    """
    rng = random.Random(f"verdict_lines:{seed}")
    for _ in range(num):
        frame = rng.choice(VERDICT_FRAMES)
        lines = []
        for _ in range(rng.randint(8, 16)):
            mood = rng.choice(("positive", "negative"))
            lines.append(
                frame.format(
                    text=opinion(rng, mood, rng.choice(GOODS)),
                    mood=mood,
                    name=first_name(rng),
                    yes="Yes" if mood == "positive" else "No",
                    feeling=rng.choice(FEELINGS[mood]),
                )
            )
        yield "\n".join(lines)
