"""What people prefer: win rate with its interval, Bradley-Terry strengths, agreement of judges.

A vote names a pair of rows on one sample and says which answer is better, or neither. Ties count
half for each side in the win rate and in Bradley-Terry (Bradley and Terry 1952), fitted by the
minorisation of Hunter 2004, with the bootstrap over samples for its intervals. Agreement is
Krippendorff's alpha for nominal votes (Krippendorff 2011), which allows missing votes.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalsuite.stats import wilson
from evalsuite.types import Floats

TIE = "tie"


@dataclass(frozen=True)
class Vote:
    """One judge on one pair of answers."""

    judge: str
    task: str
    sample: str
    first: str
    """Row label; the pair is ordered by label, whatever the order shown."""
    second: str
    winner: str
    """`first`'s or `second`'s label, or `tie`."""


@dataclass(frozen=True)
class Judgement:
    """All votes together."""

    num_votes: int
    num_judges: int
    wins: Mapping[tuple[str, str], tuple[int, int, int]]
    """By ordered pair of labels: wins of the first, of the second, ties."""
    strengths: Mapping[str, tuple[float, float, float]]
    """Bradley-Terry log-strengths, the mean being 0, with 95% bounds."""
    alpha: float
    """Krippendorff's; NaN where no two judges voted on the same pair."""


def judge(votes: Sequence[Vote], num_resamples: int = 500, seed: int = 0) -> Judgement:
    """What the votes say. Resamples draw samples, since votes on one are not independent."""
    labels = sorted({label for vote in votes for label in (vote.first, vote.second)})
    items = sorted({(vote.task, vote.sample) for vote in votes})
    place = {item: index for index, item in enumerate(items)}
    by_item = np.zeros((len(items), len(labels), len(labels)))
    wins: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for vote in votes:
        row, one, two = place[vote.task, vote.sample], *map(labels.index, (vote.first, vote.second))
        outcome = 2 if vote.winner == TIE else 0 if vote.winner == vote.first else 1
        wins[vote.first, vote.second][outcome] += 1
        by_item[row, one, two] += (1.0, 0.0, 0.5)[outcome]
        by_item[row, two, one] += (0.0, 1.0, 0.5)[outcome]
    rng = np.random.default_rng(seed)
    drawn = [
        bradley_terry(by_item[rng.integers(0, len(items), len(items))].sum(axis=0))
        for _ in range(num_resamples)
    ]
    low, high = np.percentile(np.array(drawn), [2.5, 97.5], axis=0)
    strengths = bradley_terry(by_item.sum(axis=0))
    return Judgement(
        num_votes=len(votes),
        num_judges=len({vote.judge for vote in votes}),
        wins={pair: (found[0], found[1], found[2]) for pair, found in sorted(wins.items())},
        strengths={
            label: (float(strengths[i]), float(low[i]), float(high[i]))
            for i, label in enumerate(labels)
        },
        alpha=krippendorff_alpha(votes),
    )


def bradley_terry(wins: Floats, prior: float = 0.1) -> Floats:
    """Log-strengths [L] from wins [L, L] of row over column; their mean is 0.

    `prior` of a win each way between every two rows keeps strengths finite where one always wins.
    """
    num = len(wins)
    counted = wins + prior * (1 - np.eye(num))
    games = counted + counted.T
    won = counted.sum(axis=1)
    strengths = np.ones(num)
    for _ in range(10_000):
        moved = won / (games / (strengths[:, None] + strengths[None, :])).sum(axis=1)
        moved /= np.exp(np.log(moved).mean())
        if np.max(np.abs(np.log(moved / strengths))) < 1e-12:
            break
        strengths = moved
    return np.asarray(np.log(moved))


def krippendorff_alpha(votes: Sequence[Vote]) -> float:
    """1 for perfect agreement, 0 for that of chance. NaN without two votes on any pair.

    Where all votes are the same there is no chance disagreement to compare with: NaN too.
    """
    units: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for vote in votes:
        outcome = vote.winner if vote.winner == TIE else str(vote.winner == vote.first)
        units[vote.task, vote.sample, vote.first, vote.second].append(outcome)
    pairable = [values for values in units.values() if len(values) > 1]
    totals = Counter(value for values in pairable for value in values)
    num = sum(totals.values())
    if not num:
        return math.nan
    observed = 0.0
    for values in pairable:
        counts = Counter(values)
        same = sum(count * (count - 1) for count in counts.values())
        observed += (len(values) * (len(values) - 1) - same) / (len(values) - 1)
    expected = (num * num - sum(count * count for count in totals.values())) / (num - 1)
    return 1 - observed / expected if expected else math.nan


def judgement_fields(found: Judgement, confidence: float = 0.95) -> dict[str, Any]:
    """The judgement as JSON values."""
    pairs = []
    for (first, second), (won, lost, ties) in found.wins.items():
        num = won + lost + ties
        low, high = wilson(won + ties / 2, num, confidence)
        pairs.append(
            {
                "first": first,
                "second": second,
                "wins": won,
                "losses": lost,
                "ties": ties,
                "win_rate": (won + ties / 2) / num,
                "ci_low": low,
                "ci_high": high,
            }
        )
    return {
        "num_votes": found.num_votes,
        "num_judges": found.num_judges,
        "pairs": pairs,
        "bradley_terry": {
            label: {"strength": value, "ci_low": low, "ci_high": high}
            for label, (value, low, high) in found.strengths.items()
        },
        "krippendorff_alpha": None if math.isnan(found.alpha) else found.alpha,
    }
