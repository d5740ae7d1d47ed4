"""Wordings of `ticket_route`: one set for train, another for test.

Phrases never occur in both sets. The words that tell a desk do ("paid", "parcel", "password"): a
request has to be recognised in a new wording, not in a new language.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from demo.tasks.rows import phrases, words


@dataclass(frozen=True)
class TicketPools:
    """Wordings of one split; the issues are full sentences without a stop."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    names: tuple[str, ...]
    billing: tuple[str, ...]
    delivery: tuple[str, ...]
    login: tuple[str, ...]
    repair: tuple[str, ...]
    booking: tuple[str, ...]


TRAIN = TicketPools(
    openings=phrases(
        """hello, my name is {name}|good day|this is {name} writing|I have a question
        |hi, {name} here|please help me|dear team|I hope someone reads this|it is me, {name}, again
        |I am a customer of yours"""
    ),
    closings=phrases(
        """please answer soon|what can I do|I am waiting for your reply|have a nice day
        |it is urgent|please look into it|this is not the first time|I count on you"""
    ),
    names=words(
        """Alma Bert Connie Dave Ellen Floyd Gail Howard Irma Jerry Kim Lena Mike Nina Otis Pete
        Rita Sandy Ted Vince"""
    ),
    billing=phrases(
        """I was charged twice|the invoice shows the wrong amount|I want my money back
        |my card was charged too much|I paid but it says I did not pay|I need a copy of my bill
        |the discount is missing on my invoice|the price on the bill is too high
        |when do I get my refund|you took the payment two times|I do not understand this fee
        |my last payment was refused|please send me a receipt|the tax on my bill is wrong
        |I want to pay by bank transfer|can I pay in small parts|I was billed for last month
        |the refund did not reach my bank|there is a strange charge on my card
        |my credit is not on the bill|how much do I have to pay|the receipt has the wrong name
        |you still owe me twenty dollars|I paid too much money"""
    ),
    delivery=phrases(
        """my parcel has not arrived|where is my package|the courier came to the wrong house
        |the driver left the box in the rain|my package is late|when will my order arrive
        |please change the shipping address|the parcel went to my old address
        |the tracking number does not work|nobody rang the bell and the parcel is gone
        |half of my order was not in the box|the package was sent to another town
        |my parcel is stuck at the depot|can you ship it a day earlier
        |the box was open when it came|I got the parcel of another customer
        |the courier did not wait for me|it was shipped a week ago and is not here
        |please deliver it in the evening|the tracking page shows nothing
        |I want the package sent to my office|has my order been shipped
        |the driver could not find my street|the shipping takes far too long"""
    ),
    login=phrases(
        """I forgot my password|I cannot log in|my account is locked|the code by email never comes
        |my user name is not known|the password reset link is dead|I want to change my email address
        |someone else is in my account|please delete my account|I cannot sign in on my phone
        |the page says wrong password|how do I make a new account|my account has the wrong email
        |I am logged out every hour|the sign in page does not load|please unlock my profile
        |the login code is not accepted|I lost the phone that gets my codes
        |I want to close my profile|I have two accounts and need one
        |my new password is not accepted|the app does not know my user name
        |how can I change my password|my profile picture will not save"""
    ),
    repair=phrases(
        """the screen is cracked|my machine makes a strange noise|the battery is dead after an hour
        |it does not switch on|a button is broken|the engine stops after a minute
        |the handle came off
        |water leaks out of the bottom|it gets very hot and smells|the lid does not close
        |the motor is broken|the wheel is loose|it shows an error and stops|the cable is damaged
        |the fan is very loud|one part is bent|can you fix my old radio
        |the display stays black|the door of the oven is stuck|the pump is leaking
        |it broke after two weeks|I need a new spare part|my heater does not get warm
        |the charger is broken"""
    ),
    booking=phrases(
        """I want to book a table for two|please move my appointment to Friday
        |can I cancel my reservation|is there a free room next week|I need a visit on Monday morning
        |I would like to reserve two seats|my appointment was not in your calendar
        |can we come an hour later|do you have a table tonight|please book a room for my parents
        |I want to change the date of my visit|are there any seats left
        |I cannot come tomorrow, give me another day|what times are free on Tuesday
        |please confirm my reservation|I booked the wrong day|can I bring a third guest
        |we want to stay one night longer|I need an appointment this month
        |please put me on the waiting list|is my room reserved for Sunday
        |I would like to come at nine|we need a room with three beds|can you hold a seat for me"""
    ),
)

TEST = TicketPools(
    openings=phrases(
        """good evening, {name} is my name|to whom it may concern|I write because I need help
        |hello there, I am {name}|greetings from {name}|a short request"""
    ),
    closings=phrases(
        "kindly write back|I am counting the days|what happens now|let me know|that would be great"
    ),
    names=words("Adele Barney Claire Duncan Estelle Fletcher Gloria Harvey Jolene Kenneth"),
    billing=phrases(
        """you charged my card two times|my bill has a wrong amount on it|I would like a refund
        |there is an extra fee on the invoice|my payment is not in your books
        |the bill is higher than the price I saw|the bank says you refused my payment
        |I have paid the same invoice again by mistake|please send the receipt for my tax office
        |I never got the money back|why was I billed in May|the discount is not on my bill"""
    ),
    delivery=phrases(
        """the package did not come|I am still waiting for my parcel
        |the courier took my package back|it was shipped to the wrong address
        |my order should have arrived on Monday|the driver threw the parcel over the fence
        |can the parcel go to my neighbour|the tracking says it arrived but it is not here
        |the box came without half of the order|when will you ship my package
        |a parcel for somebody else arrived here|the delivery is four days late"""
    ),
    login=phrases(
        """my password does not work|I am locked out of my account|the reset email does not come
        |I cannot get into my profile|it says that my user name is wrong
        |please close my account for good|I want another email on my account
        |a stranger used my password|signing in fails on the app|no code comes to my phone
        |my account was deleted|how do I get a new password"""
    ),
    repair=phrases(
        """the display has a crack|it makes a loud noise when I switch it on
        |the battery does not last|the machine stopped and will not start
        |a wheel came off|there is water under the machine|the button is stuck
        |it smells burnt when it is hot|the plug is bent and loose|can someone fix the motor
        |the fan is broken|I need a spare lid"""
    ),
    booking=phrases(
        """can I get a table on Saturday|I have to cancel my appointment|are two rooms free in June
        |I want to reserve a seat at the window|please move our visit by one week
        |is nine on Thursday still free|we would like to book for four guests
        |my reservation is on the wrong day|I need an earlier appointment
        |can we stay two more nights|please confirm the room|we come with one more person"""
    ),
)

POOLS: Mapping[str, TicketPools] = {"train": TRAIN, "validation": TRAIN, "test": TEST}
