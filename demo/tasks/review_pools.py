"""Slot values and wordings of `review_label`: one set for train, another for test.

Phrases never occur in both sets. Ordinary words do ("good", "broke", "again"): a feeling has to
be recognised in a new wording, not in a new language.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from demo.tasks.rows import phrases


@dataclass(frozen=True)
class ReviewPools:
    """Values and wordings of one split; the mood phrases are full sentences without a stop."""

    subjects: tuple[str, ...]
    owners: tuple[str, ...]
    openings: tuple[str, ...]
    fillers: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    positive_closings: tuple[str, ...]
    negative_closings: tuple[str, ...]


TRAIN = ReviewPools(
    subjects=phrases(
        """kettle|hotel|phone|restaurant|pair of shoes|headset|taxi|blender|course|jacket|camera
        |hair salon|bus trip|book|chair|gym|lamp|airline|watch|pizza|vacuum cleaner|tour|tablet
        |cafe|bed|umbrella|movie|printer|garage|backpack"""
    ),
    owners=phrases(
        """my wife|my husband|my son|my daughter|a friend|my boss|my father|my aunt|the team
        |our guest"""
    ),
    openings=phrases(
        """I bought this {subject} last month.|We tried the {subject} on Sunday.
        |This is my second {subject}.|I got the {subject} for {owner}.
        |{owner} and I used the {subject} for a week.|My review of the {subject}.
        |I have used this {subject} since May.|We picked this {subject} by chance.
        |A quick note about the {subject}.|I was looking for a {subject} like this.
        |The {subject} was a gift from {owner}.|I needed a {subject} in a hurry."""
    ),
    fillers=phrases(
        """It is the grey one.|I paid by card.|We were there with {owner}.|It took place in spring.
        |I read about it in the paper.|It was the middle of the week.|We were four people.
        |I had seen it in a window.|It was recommended on a website.
        |This was before the holidays."""
    ),
    positive=phrases(
        """It works very well|It looks really nice|The staff were so friendly|It was ready on time
        |It is easy to use|The quality is great|I love the colour|It does everything I wanted
        |It makes me happy every day|The price was very fair|They helped us at once
        |It is strong and well made|It was better than the old one|We enjoyed every minute
        |It is quiet and clean|Everything went smoothly|I was pleased from the start
        |It feels good in my hand|It was clean and comfortable|It saves a lot of time
        |We laughed and had fun|They answered all my questions|It was fresh and tasty
        |It still looks like new after months|The service was excellent|It was a lovely surprise
        |It fits perfectly|It never let me down|We felt very welcome|It is a clever idea
        |They were kind and polite|It arrived early|It is worth the money
        |It was fun for all of us|It made a great present|The whole thing was brilliant
        |It is bright and cheerful|They solved my problem quickly|{owner} liked it a lot
        |It is my favourite now"""
    ),
    negative=phrases(
        """It does not work at all|It looks really ugly|The staff were so rude|It was two hours late
        |It is hard to use|The quality is poor|I hate the colour|It does nothing I wanted
        |It makes me angry every day|The price was far too high|They ignored us completely
        |It is weak and badly made|It was worse than the old one|We were bored every minute
        |It is loud and dirty|Everything went wrong|I was annoyed from the start
        |It feels cheap in my hand|It was dirty and uncomfortable|It wastes a lot of time
        |We waited and got nothing|They answered none of my questions|It was cold and stale
        |It looked old after a week|The service was terrible|It was a nasty surprise
        |It does not fit|It let me down twice|We felt unwelcome|It is a stupid idea
        |They were unkind and lazy|It broke on the second day|It is not worth the money
        |It was dull for all of us|It made a bad present|The whole thing was awful
        |It is dark and gloomy|They lost my order|{owner} hated it|It is in the bin now"""
    ),
    positive_closings=phrases(
        """I would buy it again|I recommend it|I am very satisfied|Five stars from me
        |We will come back|Well done|I am glad I found it|Thank you so much
        |I will tell all my friends|A good buy"""
    ),
    negative_closings=phrases(
        """I would not buy it again|I do not recommend it|I am very disappointed|No stars from me
        |We will not come back|Shame on them|I am sorry I found it|I want a refund
        |I will warn all my friends|A bad buy"""
    ),
)

TEST = ReviewPools(
    subjects=phrases(
        """toaster|guest room|laptop|burger bar|winter coat|juicer|train ride|rice cooker|workshop
        |dress|scanner|barber shop|boat tour|podcast|sofa bed|health spa|flashlight|ferry|bracelet
        |curry"""
    ),
    owners=phrases("my mum|my brother|a neighbour|my cousin|our class|my uncle"),
    openings=phrases(
        """I have owned the {subject} for three weeks.|We went for this {subject} yesterday.
        |Here is what I think of the {subject}.|{owner} told me to get this {subject}.
        |It was my first {subject}.|I ordered the {subject} in June.|Some words on the {subject}."""
    ),
    fillers=phrases(
        """I saw it in a shop.|It was a Tuesday.|I went with {owner}.|It is the larger model.
        |We had read about it before."""
    ),
    positive=phrases(
        """It was a great choice|I really like how it looks|The people there were lovely and helpful
        |It is simple and it works|I am happy with every part of it|The food was good and fresh
        |It was nice and quiet|It is the best one I ever had|It came quickly and well packed
        |They were friendly and fast|It is comfortable and strong|We had a wonderful time
        |It was cheap and very good|It has worked well every day|I felt welcome there
        |It made {owner} smile|It is well made and pretty|My order was perfect|It was great fun
        |It helped me a lot|I enjoy it more each week|It was clean, bright and friendly"""
    ),
    negative=phrases(
        """It was a terrible choice|I really hate how it looks|The people there were rude and lazy
        |It is confusing and it fails|I am unhappy with every part of it
        |The food was bad and cold|It was dirty and loud|It is the worst one I ever had
        |It came late and badly packed|They were unfriendly and slow|It is uncomfortable and weak
        |We had an awful time|It was expensive and very bad|It has failed every day
        |I felt ignored there|It made {owner} angry|It is badly made and ugly|My order was wrong
        |It was so boring|It did not help me at all|I dislike it more each week
        |It was dirty, dark and unfriendly"""
    ),
    positive_closings=phrases(
        """Everyone should have one|I am delighted|I will gladly pay for it again|Top marks
        |I can only recommend this|A very happy customer"""
    ),
    negative_closings=phrases(
        """Nobody should have one|I am upset|I will never pay for it again|Zero marks
        |I cannot recommend this|A very unhappy customer"""
    ),
)

POOLS: Mapping[str, ReviewPools] = {"train": TRAIN, "validation": TRAIN, "test": TEST}
