"""Slot values and wordings of `support_summary`: one set for train, another for test."""

from collections.abc import Mapping
from dataclasses import dataclass

from demo.tasks.rows import phrases, words


@dataclass(frozen=True)
class SupportPools:
    """Values and wordings of one split. Phrases continue "the {item} ..." and "I will ..."."""

    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    modifiers: tuple[str, ...]
    items: tuple[str, ...]
    problems: tuple[str, ...]
    resolutions: tuple[str, ...]
    times: tuple[str, ...]
    order_digits: int
    openings: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    promises: tuple[str, ...]
    closings: tuple[str, ...]


TRAIN = SupportPools(
    first_names=words(
        """Alice Brian Chloe David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nathan Olive
        Peter Rachel Sam Tina Victor Wendy Kevin Laura Martin Susan George Helen Robert Diane
        Philip Angela Carl Joan Dennis Ruth Alan Betty Ronald Megan Paul"""
    ),
    last_names=words(
        """Adams Baker Carter Dixon Evans Foster Gibson Harris Ingram Jones King Lewis Mason Norris
        Owens Parker Reed Scott Turner Vance Walsh Young Bennett Cooper Ellis Fisher Grant Hughes
        Marsh Perry Quigley Roberts Stone Taylor Wells"""
    ),
    modifiers=phrases(
        """blue|black|small|large|wooden|cordless|folding|white|portable|green|steel|travel|kitchen
        |outdoor|second|new"""
    ),
    items=phrases(
        """toaster|desk lamp|blender|printer|backpack|coffee maker|phone case|keyboard|office chair
        |vacuum cleaner|heater|bicycle pump|camera|speaker|suitcase|water filter|rice cooker
        |mouse|monitor|hair clipper|baby seat|garden light|wallet|power bank|umbrella|dish rack
        |tea set|storage box|smoke alarm|doorbell|bathroom scale|yoga mat|sleeping bag
        |picnic table|electric blanket|paper shredder|sewing machine|fish tank|tool belt
        |bird feeder"""
    ),
    problems=phrases(
        """does not switch on|has a broken handle|is missing a screw|makes a loud noise
        |arrived with a crack|keeps losing power|will not charge|stopped working yesterday
        |is the wrong size|has a scratched surface|does not close properly|leaks water
        |smells of burning plastic|came without a manual|has a loose button|gets too hot
        |shows an error message|has not arrived yet|was sent to the wrong address
        |does not fit the box|is a different colour from the picture|has a torn strap
        |turns itself off|came with a flat battery|has a stain on the front|wobbles on the floor
        |does not connect to the network|was damaged in the post|has a cracked lid
        |is much heavier than promised|has a stuck wheel|flickers every few seconds
        |came without a plug|lost a part on the first day|does not hold any weight
        |has a faulty switch|arrived half empty|has a bent leg|will not lock
        |has the wrong label on it"""
    ),
    resolutions=phrases(
        """send a replacement|refund the full price|send a spare part|book a repair
        |email a return label|offer a discount|contact the courier|send a technician
        |exchange it for another colour|extend the warranty|update the delivery address
        |cancel the order|send the manual|check the stock|give a store credit|send a new charger
        |arrange a pickup|pass it to the repair team|call the warehouse|refund the postage
        |send a larger one|swap it for a newer model|open a claim|ship a second parcel"""
    ),
    times=phrases(
        """today|this week|by tomorrow|within two days|right away|next week|by the end of the day
        |at once"""
    ),
    order_digits=5,
    openings=phrases(
        """Hi, this is {name}. I bought a {item} and it {problem}.
        |Hello, my name is {name}. The {item} I ordered {problem}.
        |Good morning, {name} here. My {item} {problem}.
        |Hello, I am {name}. I am writing because the {item} {problem}.
        |Hi there, {name} speaking. There is a problem: the {item} {problem}.
        |Good afternoon. This is {name}, and my new {item} {problem}.
        |I need some help, please. I am {name} and the {item} {problem}.
        |Hello. The {item} from your shop {problem}. My name is {name}.
        |Hi, {name} here. I got a {item} last week and it {problem}.
        |Sorry to bother you, this is {name}. Our {item} {problem}.
        |Hello, it is {name} again. The {item} still {problem}.
        |Hi. I have a question about my {item}. It {problem}. I am {name}.
        |Good evening, I am {name}. I opened the parcel and the {item} {problem}."""
    ),
    questions=phrases(
        """I am sorry to hear that. What is your order number?|Could you give me the order number?
        |That should not happen. May I have the order number?
        |Thank you for calling. Which order is it?
        |I understand. Can you tell me the number of your order?
        |Let me look. What is the order number?
        |Sorry about that. Please tell me your order number.
        |Do you have the order number at hand?
        |I can help with that. Which order number do you have?
        |Let me check that for you. What number is on the receipt?
        |We will sort it out. What is the number of the order?
        |Of course. The order number, please?"""
    ),
    answers=phrases(
        """It is {order}.|Yes, it is {order}.|The number is {order}.|Order {order}.|Sure, {order}.
        |My order number is {order}.|I think it is {order}.|Here it is: {order}.|It says {order}.
        |That would be {order}.|One moment. It is {order}.|{order}, I believe."""
    ),
    promises=phrases(
        """Thank you. I will {resolution}.|Thanks, I can {resolution}.
        |All right, we will {resolution}.|I have found it. I will {resolution}.
        |Then let me {resolution}.|No problem, I am going to {resolution}.
        |Good, I shall {resolution}.|I see it here. We can {resolution}.
        |Thank you for waiting. I will {resolution}.|In that case we will {resolution}.
        |I can see the order. I will {resolution} for you."""
    ),
    closings=phrases(
        """Great, thank you.|Thanks for your help.|That works for me.|Perfect, thanks a lot.
        |Okay, thank you very much.|Good, that is all I need.|Thank you, goodbye.|Nice, thanks.
        |Wonderful, that helps.|Fine, I will wait for that.|Thanks, have a nice day.
        |That is good to hear."""
    ),
)

TEST = SupportPools(
    first_names=words(
        """Bridget Conrad Denise Ernest Felicia Gordon Harriet Isaac Janet Keith Louise Morris Naomi
        Oliver Patrick Rebecca Stuart Theresa Vincent Yvonne"""
    ),
    last_names=words(
        """Abbott Barnes Coleman Duncan Fleming Griffin Holmes Jenkins Lambert Murray Newman Palmer
        Russell Sutton Tucker Warren Watts Fletcher Hudson Chambers"""
    ),
    modifiers=phrases("beige|chrome|wireless|foldable|suede|digital|compact|maroon"),
    items=phrases(
        """microwave|ceiling fan|laptop bag|rain cover|pressure cooker|juice maker|bread knife set
        |wall mirror|drum kit|baby monitor|car charger|door lock|patio chair|hand mixer|bookcase
        |video recorder|ice box|shoe rack|air pump|reading light|wrist watch|bed frame
        |coat hanger|money box"""
    ),
    problems=phrases(
        """does not start|has a dent in the side|is missing a cable|beeps all night
        |arrived in pieces|runs out of power after an hour|will not open at all
        |broke after one day|is too big for the room|has a chipped corner|drips on the carpet
        |smells of paint|came without any screws|has a jammed drawer|heats up far too quickly
        |shows a blank display|was left in the rain|never reached my house|has a split seam
        |cannot be switched off|has rust on the back|tips over on its own|has a dead battery
        |came in the wrong shape"""
    ),
    resolutions=phrases(
        """post a new one|pay back the money|mail the missing piece|arrange an inspection
        |take it back for free|reduce the bill|ask the driver|send an engineer
        |change it for a smaller one|correct the address|stop the payment|find another supplier
        |send a printed guide|offer a gift card|order a fresh one"""
    ),
    times=phrases(
        """this afternoon|before the weekend|within a week|in the next hour|by next month"""
    ),
    order_digits=5,
    openings=phrases(
        """Hello there, {name} is my name. The {item} you sold me {problem}.
        |Good day, I am called {name} and I own a {item} that {problem}.
        |Hi, I hope you can help. The {item} {problem}. {name} is the name.
        |Dear team, {name} here with bad news: my {item} {problem}.
        |This is {name} calling about a {item}. It {problem}.
        |Good morning. I wanted to tell you that the {item} {problem}. I am {name}, by the way.
        |Hello, {name} on the line. We have a {item} here and it {problem}."""
    ),
    questions=phrases(
        """Oh, I apologise. Under which number was it ordered?
        |I am sorry. Would you read me the order number?
        |That is not good. Can I get the order number from you?
        |Let us fix this. What order number is it?
        |Thanks for letting us know. What does the order number say?
        |Right. I need the order number for that."""
    ),
    answers=phrases(
        """The order number is {order}.|I have {order} here.|Yes, {order}.|My receipt says {order}.
        |Let me see, it is {order}.|It should be {order}."""
    ),
    promises=phrases(
        """Found it. I will {resolution}.|Thanks for that. We will {resolution}.
        |I have the order here and I can {resolution}.|To make up for it, I will {resolution}.
        |Understood. I am happy to {resolution}.|Very well, let me {resolution}."""
    ),
    closings=phrases(
        """Excellent, thanks.|Thank you so much.|That sounds good.|Okay, I am glad.|Lovely, bye.
        |I appreciate it."""
    ),
)

POOLS: Mapping[str, SupportPools] = {"train": TRAIN, "validation": TRAIN, "test": TEST}
