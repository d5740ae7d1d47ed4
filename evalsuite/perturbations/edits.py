"""Changes of a text that leave its meaning: letters, spaces, words from a list."""

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random

Edit = Callable[[str, Random], str]
"""The changed text; all chance comes from the generator."""

_WORD = re.compile(r"[^\W\d_]{4,}")
# Letters beside each other on a keyboard.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {
    letter: row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    for row in _ROWS
    for place, letter in enumerate(row)
}


def lowercase(text: str, rng: Random) -> str:
    """All letters small."""
    return text.lower()


def uppercase(text: str, rng: Random) -> str:
    """All letters capital."""
    return text.upper()


def spaces(text: str, rng: Random) -> str:
    """Every space becomes one to three."""
    return re.sub(" ", lambda _: " " * rng.randint(1, 3), text)


def typos(text: str, rng: Random, probability: float = 0.1) -> str:
    """A slip in a tenth of the words of four letters or more; first letters stay."""

    def slipped(found: re.Match[str]) -> str:
        word = found[0]
        return _slip(word, rng) if rng.random() < probability else word

    return _WORD.sub(slipped, text)


def _slip(word: str, rng: Random) -> str:
    """Two letters exchanged, one left out, one doubled, or the key beside one."""
    at = rng.randrange(1, len(word) - 1)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    kind = rng.choice(("exchange", "omit", "double", "beside"))
    if kind == "exchange" and letter != after[0]:
        return before + after[0] + letter + after[1:]
    if kind == "omit":
        return before + after
    if kind == "beside" and letter in _BESIDE:
        return before + rng.choice(_BESIDE[letter]) + after
    return before + letter + letter + after


def swaps(words: Mapping[str, Sequence[str]], probability: float = 1.0) -> Edit:
    """Words or phrases (in lower case) become one of those listed for them; capitals are kept."""
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?![\w'’])", re.IGNORECASE
    )

    def edit(text: str, rng: Random) -> str:
        def swapped(found: re.Match[str]) -> str:
            # Ignoring case, `re` takes a few letters of other alphabets for these: ſ for s.
            listed = words.get(found[0].lower())
            if listed is None or rng.random() >= probability:
                return found[0]
            return _like(found[0], rng.choice(listed))

        return pattern.sub(swapped, text)

    return edit


def _like(old: str, new: str) -> str:
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def chain(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(text: str, rng: Random) -> str:
        for one in edits:
            text = one(text, rng)
        return text

    return edit
