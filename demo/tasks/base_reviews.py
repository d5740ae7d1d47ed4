"""Opinions in running prose for the pretraining text, each with its verdict spelled out.

The phrases are this module's own; the review task has other ones. The verdict is always a prose
sentence, never the form in which the review task asks for its label.
"""

import random

from demo.tasks.base_words import COLOURS, GOODS, article, first_name, sentence, town
from demo.tasks.rows import phrases

SERVICES = phrases(
    """guest house|barber|taxi firm|driving school|swimming club|cleaning firm|repair shop|dentist
    |language course|boat trip|cooking class|car park|youth hostel|bus tour|moving company
    |camp site|toy shop|market stall|night train|cinema|noodle bar|bakery|pizza place|bank
    |phone company|garden centre|museum|puppet show|concert|radio play|novel|film"""
)
GOOD_WORDS = phrases(
    """good|great|lovely|nice|useful|solid|bright|helpful|friendly|comfortable|strong|fresh|smooth
    |clever|cheerful|neat|tasty|fair|kind|clean|easy|pretty|fine|handy|charming|brilliant"""
)
BAD_WORDS = phrases(
    """bad|poor|ugly|useless|weak|dirty|rude|slow|dull|noisy|broken|boring|flimsy|sour|stale|unfair
    |unkind|clumsy|messy|annoying|nasty|sad|cheap|cold|painful|silly"""
)
GOOD_FACTS = phrases(
    """it works every single day|it still looks like new|everything was ready on time
    |the staff smiled and helped us|the price was fair|it was easy to put together
    |my children use it all the time|it does exactly what I hoped|the colours are lovely
    |they answered my question at once|it feels strong in the hand|nothing has gone wrong so far
    |it saves me an hour every day|we laughed the whole time|the food came hot and fresh
    |it arrived early and well packed|they fixed it for free|it is quiet and quick
    |my neighbour has asked for one too|we felt welcome from the first minute|it fits just right
    |the team listened to us|I slept well every night|it never lets me down
    |the parts fit together nicely|it was better than I expected|the room was clean and bright
    |they thanked us for coming|it made my mother very happy|I learned a lot in one day
    |the handle is comfortable|every detail was right|it cleans up in a minute
    |they gave us a little extra|we stayed longer than planned because it was fun"""
)
BAD_FACTS = phrases(
    """it broke on the first day|it looked old and used|we had to wait for two hours
    |the staff were rude and would not help|the price was far too high
    |half of the parts were missing|my children refuse to use it|it does not do what it should
    |the colours look dirty|nobody answered my questions|it feels weak and thin
    |something goes wrong every week|it wastes an hour every day|we were bored the whole time
    |the food came cold and late|it arrived late in a torn box|they charged me twice
    |it is loud and slow|my neighbour told me to throw it away
    |we felt unwelcome from the first minute|it does not fit at all|the team ignored us
    |I could not sleep at night|it keeps letting me down|the parts do not fit together
    |it was worse than I expected|the room was dark and dirty|they shouted at us
    |it made my mother very upset|I learned nothing at all|the handle hurts my hand
    |almost every detail was wrong|it is impossible to clean|they forgot half of our order
    |we left early because it was so dull"""
)
GOOD_VERDICTS = phrases(
    """I would recommend it to anyone|I am very happy with it|it was worth every penny
    |I would gladly come back|I am so pleased I chose it|we would go there again
    |this was a good choice|I give it full marks|I like it a lot|we love it
    |I can only say good things about it|thank you for a job well done"""
)
BAD_VERDICTS = phrases(
    """I would not recommend it to anyone|I am very unhappy with it|it was a waste of money
    |I will never come back|I am so sorry I chose it|we would not go there again
    |this was a bad choice|I give it no marks at all|I do not like it at all|we hate it
    |I can only say bad things about it|I want my money back"""
)
OPENINGS = phrases(
    """I bought the {thing} in {town}.|My sister gave me this {thing}.
    |We tried the {thing} last week.|This is about the {thing} in {town}.
    |Let me tell you about the {thing}.|Last month I paid for the {thing}.
    |{name} told me about the {thing}, so I tried it.|I have had the {thing} for a year now.
    |We chose the {thing} after a long search.|A few words about the {thing} from {town}.
    |We needed {a_thing}, and this is the one we got."""
)
JOINERS = (". ", ". ", ", and ", ". Also, ", ". Besides, ", "; ", ". What is more, ")
OPINION_OPENINGS = (
    "the whole thing is {word}",
    "it was really {word}",
    "all in all it was {word}",
    "how {word} it was",
    "it is a {word} one",
)
FEELINGS = {
    "positive": phrases(
        """happy|pleased|delighted|grateful|glad|satisfied|content|excited|cheerful|thankful"""
    ),
    "negative": phrases(
        """unhappy|angry|upset|annoyed|sad|disappointed|cross|let down|fed up|worried"""
    ),
}
COMMENTS = {
    "positive": phrases(
        """It was a positive opinion.|That is praise.|{name} liked it.|{name} was {feeling}.
        |The verdict was positive.|{name} had a good time with it.|Clearly, {name} was {feeling}.
        |So the answer was yes, {name} would buy it again.|It is a happy customer who writes so."""
    ),
    "negative": phrases(
        """It was a negative opinion.|That is a complaint.|{name} did not like it.
        |{name} was {feeling}.|The verdict was negative.|{name} had a bad time with it.
        |Clearly, {name} was {feeling}.|So the answer was no, {name} would not buy it again.
        |It is an angry customer who writes so."""
    ),
}


def opinion(rng: random.Random, mood: str) -> str:
    """A few sentences of one mood ("positive" or "negative"): opening, facts, verdict."""
    positive = mood == "positive"
    thing = rng.choice(GOODS) if rng.random() < 0.6 else rng.choice(SERVICES)
    if rng.random() < 0.15:
        thing = f"{rng.choice(COLOURS)} {thing}"
    facts = rng.sample(GOOD_FACTS if positive else BAD_FACTS, rng.randint(1, 3))
    words = GOOD_WORDS if positive else BAD_WORDS
    if rng.random() < 0.5:
        facts.append(rng.choice(OPINION_OPENINGS).format(word=rng.choice(words)))
    if rng.random() < 0.7:
        facts.append(rng.choice(GOOD_VERDICTS if positive else BAD_VERDICTS))
    body = sentence(facts[0])
    for fact in facts[1:]:
        joiner = rng.choice(JOINERS)
        body += joiner + (sentence(fact) if joiner == ". " else fact)
    opening = ""
    if rng.random() < 0.8:
        opening = rng.choice(OPENINGS).format(
            thing=thing, a_thing=article(thing), town=town(rng), name=first_name(rng)
        )
    return f"{opening} {body}.".strip()


def review_prose(rng: random.Random) -> str:
    """One or two opinions, sometimes with a comment that names the mood."""
    moods = [rng.choice(("positive", "negative")) for _ in range(rng.choice((1, 1, 2)))]
    parts = []
    for mood in moods:
        name = first_name(rng)
        text = opinion(rng, mood)
        form = rng.random()
        comment = rng.choice(COMMENTS[mood]).format(name=name, feeling=rng.choice(FEELINGS[mood]))
        if form < 0.35:
            parts.append(text)
        elif form < 0.75:
            parts.append(f'{name} wrote: "{text}" {comment}')
        else:
            parts.append(f"{sentence(rng.choice(FEELINGS[mood]))} letter from {name}: {text}")
    return "\n\n".join(parts)


def word_feelings(rng: random.Random) -> str:
    """A list that sorts words and phrases of feeling into two kinds."""
    good = rng.sample(GOOD_WORDS + FEELINGS["positive"], 4)
    bad = rng.sample(BAD_WORDS + FEELINGS["negative"], 4)
    if rng.random() < 0.5:
        lines = [f"{word} is a good thing to say" for word in good]
        lines += [f"{word} is a bad thing to say" for word in bad]
        rng.shuffle(lines)
        return ".\n".join(sentence(line) for line in lines) + "."
    return f"Words of praise: {', '.join(good)}.\nWords of blame: {', '.join(bad)}."
