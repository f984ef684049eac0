"""Stop strings: never leaked, wherever the text is cut, in Hangul too."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ax_engines.triton.stops import StopFilter


def run(pieces: list[str], stops: list[str], include: bool = False) -> tuple[str, bool]:
    """Return all that goes out and whether a stop string ended it."""
    one = StopFilter(stops, include=include)
    out = ""
    for piece in pieces:
        text, stopped = one.push(piece)
        out += text
        if stopped:
            return out, True
    return out + one.flush(), False


def test_a_hangul_stop_string_over_three_pieces() -> None:
    assert run(["서울은 수", "도입", "니다. 부산"], ["수도입니다"]) == ("서울은 ", True)
    assert run(["서울은 수", "도입", "니다. 부산"], ["수도입니다"], include=True) == ("서울은 수도입니다", True)


def test_the_first_stop_string_wins_and_of_two_at_one_place_the_longer() -> None:
    assert run(["abcdef"], ["e", "cd"]) == ("ab", True)
    assert run(["abcdef"], ["cd", "cde"], include=True) == ("abcde", True)


def test_what_was_held_back_comes_out_at_the_end() -> None:
    assert run(["안녕", "하세"], ["하세요"]) == ("안녕하세", False)


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    one = StopFilter(["</s>"])
    assert one.push("text <") == ("text ", False)
    assert one.push("b> more") == ("<b> more", False)


pieces = st.lists(st.text("abㄱ가각<", max_size=4), max_size=12)
stops = st.lists(st.text("abㄱ가각<", min_size=1, max_size=3), min_size=1, max_size=3)


@given(pieces, stops, st.booleans())
@example(["a", "a", "b"], ["ab"], False)
@example(["aa", "ab", "ab"], ["abab", "aab"], False)
def test_the_cuts_do_not_matter(pieces: list[str], stops: list[str], include: bool) -> None:
    whole = "".join(pieces)
    out, stopped = run(pieces, stops, include)
    at = min((whole.find(stop) for stop in stops if stop in whole), default=-1)
    assert stopped == (at >= 0)
    if not stopped:
        assert out == whole
    elif not include:
        assert not any(stop in out for stop in stops)
        assert whole.startswith(out)
