"""What adaptors share: text from tokens, stop strings, one end, bounded pictures."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ax_engines.triton.adaptor import Answer
from ax_engines.triton.engines.choice import Choice, refuse_size
from ax_engines.triton.engines.pictures import decode, decode_all
from ax_engines.triton.engines.text import PATIENCE, Text
from ax_engines.wire import Chunk, Sampling
from tests.engines.pictures import data_url, encoded, picture


class Bytes:
    """A tokenizer whose tokens are bytes, 256 the special one."""

    def decode(self, tokens: list[int], **_: object) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


def told(tokens: list[int]) -> list[str]:
    """Return the pieces of text that come for tokens, the rest last."""
    text = Text(Bytes())
    return [text.push(token) for token in tokens] + [text.rest()]


@given(st.text(), st.integers(0, 3))
def test_characters_come_whole_and_nothing_is_lost(text: str, specials: int) -> None:
    tokens = [256] * specials + list(text.encode())
    pieces = told(tokens)
    assert "".join(pieces) == text
    assert all(piece.encode().decode() == piece for piece in pieces)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_do_not_hold_the_rest_back(data: bytes) -> None:
    pieces = told([*data, *b"end"])
    assert "".join(pieces).endswith("end")
    assert "".join(told([0x80] * 20)[: PATIENCE + 1])


def collect(sampling: Sampling) -> tuple[Choice, list[Answer]]:
    """Return a choice and what it answers."""
    answers: list[Answer] = []
    return Choice(0, sampling, answers.append), answers


@given(st.lists(st.text(alphabet="가나다라", max_size=3)), st.text(alphabet="가나다라", min_size=1, max_size=3))
def test_a_stop_string_never_leaks_and_tokens_are_counted_once(pieces: list[str], stop: str) -> None:
    choice, answers = collect(Sampling(0, stop=(stop,)))
    used = 0
    for piece in pieces:
        used += 1
        if choice.add(piece):
            break
    choice.end("length")
    chunks = [answer for answer in answers if isinstance(answer, Chunk)]
    text = "".join(chunk.text for chunk in chunks)
    whole = "".join(pieces)
    assert text == whole.partition(stop)[0]
    assert [chunk.finish for chunk in chunks if chunk.finish] == ["stop" if stop in whole else "length"]
    assert sum(chunk.tokens for chunk in chunks) == used
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == used


def test_text_told_from_its_beginning_is_sent_once_without_half_characters() -> None:
    choice, answers = collect(Sampling(0))
    for text, tokens in [("안", 2), ("안\ufffd", 3), ("안녕", 4), ("안녕", 5), ("안녕하", 7)]:
        choice.add_until(text, tokens)
    choice.end("stop", choice.withheld("안녕하\ufffd"))
    chunks = [answer for answer in answers if isinstance(answer, Chunk)]
    assert [(chunk.text, chunk.tokens) for chunk in chunks] == [("안", 2), ("녕", 2), ("하", 3), ("\ufffd", 0)]


def test_a_choice_ends_once() -> None:
    choice, answers = collect(Sampling(0))
    choice.add("a")
    choice.end("cancelled")
    choice.end("stop")
    refusal = refuse_size(9, 1, 9)
    assert refusal
    choice.fail(refusal)
    assert [answer.finish for answer in answers if isinstance(answer, Chunk)] == [None, "cancelled"]


def test_pictures_are_upright_and_opaque() -> None:
    turned = Image.new("RGB", (4, 8), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    turned.save(out, "JPEG", exif=exif)
    assert decode(data_url(out.getvalue(), "JPEG")).size == (8, 4)
    glass = decode(picture(3, 3, mode="RGBA", colour=(255, 0, 0, 0)))
    assert (glass.mode, glass.getpixel((1, 1))) == ("RGB", (255, 255, 255))
    assert decode(picture(5, 6, "WEBP")).size == (5, 6)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.com/a.png", "no data URL"),
        ("data:image/png;base64,!!!!", "Only base64 data is allowed"),
        (data_url(encoded(64, 64, "GIF")), "cannot be decoded"),
        (data_url(encoded(64, 64)[:-40]), "cannot be decoded"),
        (data_url(b"<svg/>"), "cannot be decoded"),
        (data_url(encoded(8000, 6000, mode="1", colour=0)), "has 8000x6000 pixels"),
        ("data:image/png;base64," + "A" * (12 * 1024**2), "larger than"),
    ],
)
def test_what_is_no_picture_within_bounds_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(url)


def test_the_pictures_of_a_request_are_bounded_together() -> None:
    assert [one.size for one in decode_all([picture(3, 4), picture(5, 6)])] == [(3, 4), (5, 6)]
    with pytest.raises(ValueError, match="more than 100000000 pixels together"):
        decode_all([picture(6000, 6000, mode="1", colour=0)] * 3)
