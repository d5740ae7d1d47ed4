import random

import pytest
from tokenizers import Tokenizer, decoders, models

from server.engine.text import Detokenizer, TextStream


def _decode(ids: list[int]) -> str:
    """Bytes as tokens."""
    return bytes(ids).decode("utf-8", errors="replace")


def _stream(text: TextStream, data: bytes, *, may_stop: bool = True) -> tuple[str, bool]:
    """Pushes bytes one by one up to a stop; returns what was handed out on the way."""
    given = ""
    for byte in data:
        stopped = text.push(byte, may_stop=may_stop)
        given += text.take(final=stopped)
        if stopped:
            return given, True
    return given, False


def test_incomplete_characters_are_held_back() -> None:
    detokenizer = Detokenizer(_decode)
    pieces = [detokenizer.push(byte) for byte in "aé日🙂!".encode()]
    assert pieces == ["a", "", "é", "", "", "日", "", "", "", "🙂", "!"]
    assert detokenizer.flush() == ""


def test_flush_shows_what_never_completed() -> None:
    detokenizer = Detokenizer(_decode)
    assert [detokenizer.push(byte) for byte in "x🙂".encode()[:-1]] == ["x", "", "", ""]
    assert detokenizer.flush() == "\ufffd"


@pytest.mark.parametrize("seed", range(20))
def test_pieces_join_to_the_whole_text(seed: int) -> None:
    generator = random.Random(seed)
    text = "".join(generator.choice("ab é日🙂\n") for _ in range(200))
    detokenizer = Detokenizer(_decode)
    assert "".join(map(detokenizer.push, text.encode())) + detokenizer.flush() == text


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_not_utf8_never_raise(seed: int) -> None:
    data = random.Random(seed).randbytes(300)
    detokenizer = Detokenizer(_decode)
    text = "".join(map(detokenizer.push, data)) + detokenizer.flush()
    assert text == data.decode("utf-8", errors="replace")


def test_leading_spaces_survive_the_moving_window() -> None:
    vocabulary = {"▁a": 0, "▁b": 1, "c": 2}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.Metaspace()
    ids = [random.Random(0).randrange(3) for _ in range(100)]
    detokenizer = Detokenizer(tokenizer.decode)
    assert "".join(map(detokenizer.push, ids)) == tokenizer.decode(ids)


def test_stop_string_across_tokens() -> None:
    text = TextStream(_decode, ("\n\n", "END"))
    given, stopped = _stream(text, b"one EN two END three")
    assert stopped
    assert given == text.text == "one EN two "
    assert text.matched == "END"


def test_no_part_of_a_stop_string_is_handed_out() -> None:
    text = TextStream(_decode, ("STOP",))
    assert _stream(text, b"go ST") == ("go ", False)
    assert text.take(final=True) == "ST"


def test_earliest_stop_string_wins() -> None:
    def decode(ids: list[int]) -> str:
        return "".join(("x", "a b c")[i] for i in ids)

    text = TextStream(decode, ("c", "b"))
    assert not text.push(0, may_stop=True)
    assert text.push(1, may_stop=True)
    assert (text.text, text.matched) == ("xa ", "b")


def test_stop_strings_before_min_tokens_are_ignored() -> None:
    text = TextStream(_decode, ("ab",))
    given, stopped = _stream(text, b"xab", may_stop=False)
    assert not stopped
    # Completed before the minimum: it stays ignored; the next one counts.
    more, stopped = _stream(text, b"yab")
    assert stopped
    assert given + more == text.text == "xaby"


def test_stop_string_in_the_flushed_rest() -> None:
    text = TextStream(_decode, ("\ufffd",))
    assert _stream(text, "é".encode()[:1]) == ("", False)
    assert text.flush(may_stop=True)
    assert text.text == ""
