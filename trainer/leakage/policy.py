"""What to do about training rows that overlap held-out ones, and how to say it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainer.errors import DataError
from trainer.leakage.find import MAX_ROWS_OF_NGRAM, NEAR, NGRAM_SHARE, Leak
from trainer.leakage.sources import SUITE
from understudy.fingerprint import NGRAM, SHINGLE, SKETCH

Policy = Literal["refuse", "drop", "warn"] | None

# Overlaps of each kind that the report lists.
MAX_LISTED = 50
_KINDS = ("group", "exact", "near", "ngram", "partial")
_SAYS = {
    "group": "are of a group of {held}",
    "exact": "ask the same as {held}",
    "near": "are near-duplicates of {held} (Jaccard index of 5 words in a row at least 0.8)",
    "ngram": "hold at least 70% of the 13-grams of {held}",
    "partial": "hold some 13-gram of {held}",
}


@dataclass(frozen=True)
class Report:
    """The overlaps of a run."""

    leaks: tuple[Leak, ...]
    policy: Policy
    sources: tuple[str, ...]
    """What was compared with."""
    drawn: frozenset[str] = frozenset()
    """Those of them that were held out of the training files."""

    @property
    def refused(self) -> tuple[Leak, ...]:
        """The overlaps that stop the run."""
        return tuple(leak for leak in self.leaks if _is_refused(leak, self.policy))

    @property
    def dropped(self) -> frozenset[int]:
        """Indices of the training rows that are left out."""
        if self.policy != "drop":
            return frozenset()
        return frozenset(leak.row for leak in self.leaks if leak.kind != "partial")

    def lines(self) -> list[str]:
        """One line per kind and source of overlap."""
        return [self._line(kind, source) for kind, source in self._found()]

    def to_json(self) -> dict[str, Any]:
        """The content of `leakage.json`."""
        return {
            "policy": self.policy or "refuse what is the same or of the eval suite, report else",
            "compared_with": list(self.sources),
            "definitions": {
                "group": "equal values in the column `data.group_key`",
                "exact": "equal texts, white space at the ends apart; for the eval suite, equal "
                "words",
                "near": f"Jaccard index of {SHINGLE} words in a row at least {NEAR}, from the "
                f"{SKETCH} smallest hashes",
                "ngram": f"at least {NGRAM_SHARE:.0%} of a held-out row's {NGRAM}-grams; one of "
                f"more than {MAX_ROWS_OF_NGRAM} different training rows does not count",
                "partial": f"any {NGRAM}-gram less often",
            },
            "num_rows_dropped": len(self.dropped),
            "overlaps": [
                {
                    "kind": kind,
                    "source": source,
                    "num_rows": len(found),
                    "refused": any(_is_refused(leak, self.policy) for leak in found),
                    "examples": [
                        {"row": leak.where, "held": leak.held, "share": round(leak.share, 4)}
                        for leak in found[:MAX_LISTED]
                    ],
                }
                for kind, source in self._found()
                for found in [self._of(kind, source)]
            ],
        }

    def check(self) -> None:
        """Raises DataError if an overlap stops the run."""
        if not self.refused:
            return
        first = self.refused[0]
        num = sum((one.kind, one.source) == (first.kind, first.source) for one in self.refused)
        remedy = "set data.on_leak to drop, which leaves the training rows out, or to warn"
        if first.source in self.drawn:
            remedy += "; or give data.group_key"
        if first.kind == "group":
            raise DataError(
                f"{first.where}: its group is in data.{first.source} too ({first.held}), as that "
                f"of {num} training rows is; take them out of one, give a share instead of files, "
                f"leave data.group_key out, or {remedy}"
            )
        if first.source == SUITE:
            raise DataError(
                f"{first.where}: is in the eval suite: {_of_suite(first)} ({num} such training "
                f"rows); set data.on_leak to drop, which leaves them out, or to warn"
            )
        if first.kind == "exact":
            raise DataError(
                f"{first.held}: same prompt as training example {first.where} ({num} such training "
                f"rows, {first.source}); remove them from one of the two, or {remedy}"
            )
        raise DataError(
            f"{first.held}: overlaps training example {first.where} ({first.kind}, "
            f"{first.share:.0%}; {num} such training rows, {first.source}); {remedy}"
        )

    def _found(self) -> list[tuple[str, str]]:
        return [
            (kind, source) for kind in _KINDS for source in self.sources if self._of(kind, source)
        ]

    def _of(self, kind: str, source: str) -> list[Leak]:
        return [leak for leak in self.leaks if (leak.kind, leak.source) == (kind, source)]

    def _line(self, kind: str, source: str) -> str:
        found = self._of(kind, source)
        held = f"{source} rows"
        if source == SUITE:
            tasks = Counter(leak.held.partition(" ")[0] for leak in found)
            named = ", ".join(f"{task}: {num}" for task, num in tasks.most_common(3))
            held = f"test items of the eval suite ({named})"
        first = found[0]
        done = " and were dropped" if self.policy == "drop" and kind != "partial" else ""
        return (
            f"leakage: {len(found)} training rows {_SAYS[kind].format(held=held)}{done}, such as "
            f"{first.where} ({first.held})"
        )


def decide(
    leaks: Sequence[Leak],
    policy: Policy,
    sources: Sequence[str],
    drawn: frozenset[str] = frozenset(),
) -> Report:
    """The report on `leaks` under the configuration's `data.on_leak`."""
    return Report(tuple(leaks), policy, tuple(sources), drawn)


def _is_refused(leak: Leak, policy: Policy) -> bool:
    if leak.kind == "partial" or policy in ("drop", "warn"):
        return False
    return policy == "refuse" or leak.kind in ("group", "exact") or leak.source == SUITE


def _of_suite(leak: Leak) -> str:
    if leak.kind == "exact":
        return leak.held
    what = "Jaccard index" if leak.kind == "near" else "share of its 13-grams"
    return f"{leak.held}, {what} {leak.share:.2f}"
