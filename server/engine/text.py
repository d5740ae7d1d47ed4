"""Text of a generation as it grows: incomplete UTF-8 and possible stop strings are held back."""

from collections.abc import Callable

Decode = Callable[[list[int]], str]

_REPLACEMENT = "\ufffd"
# Tokens decoded together before the window moves on: context for tokenizers whose text depends
# on the neighbours, short enough to decode at every token.
_WINDOW = 16


class Detokenizer:
    """Turns token ids into text that never changes again.

    tokenizers' own DecodeStream raises on byte sequences that are not UTF-8, which a model may
    well produce.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._given = ""
        self._boundary = 0

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if text.endswith(_REPLACEMENT):
            return ""
        new = text[len(self._given) :]
        self._given = text
        if len(self._ids) >= _WINDOW and self._boundary:
            # Move the window to the last place where the text ended between characters.
            self._ids = self._ids[self._boundary :]
            self._given = self._decode(self._ids)
        self._boundary = len(self._ids)
        return new

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        new = self._decode(self._ids)[len(self._given) :]
        self._given += new
        return new


class TextStream:
    """The visible text of a generation, up to the first of `stop`.

    `text` is all of it so far; `take` hands out what is new and decided.
    """

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        self._detokenizer = Detokenizer(decode)
        assert all(stop), "an empty stop string"
        self._stop = stop
        self._taken = 0
        self.text = ""
        self.matched = ""
        """The stop string met, if any; `text` ends before it."""

    def push(self, token_id: int, *, may_stop: bool) -> bool:
        """Adds a token. True if a stop string was completed by it; `may_stop` False ignores
        those."""
        return self._add(self._detokenizer.push(token_id), may_stop)

    def flush(self, *, may_stop: bool) -> bool:
        """Adds what was held back because a character was incomplete; True as in `push`."""
        return self._add(self._detokenizer.flush(), may_stop)

    def take(self, *, final: bool) -> str:
        """The decided text not yet handed out. What may begin a stop string stays undecided
        until `final`."""
        end = len(self.text) - (0 if final else self._held())
        new = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return new

    def _add(self, new: str, may_stop: bool) -> bool:
        before = len(self.text)
        self.text += new
        if not (new and may_stop):
            return False
        found = []
        for stop in self._stop:
            position = self.text.find(stop, max(0, before - len(stop) + 1))
            if position >= 0:
                found.append((position, stop))
        if not found:
            return False
        position, self.matched = min(found)
        self.text = self.text[:position]
        return True

    def _held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(self.text)), 0, -1):
            tail = self.text[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0
