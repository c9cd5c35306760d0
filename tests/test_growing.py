"""Growing text: pieces add up, nothing that later ids may change is given away, stop strings end it wherever they lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jgpt.growing import GrowingText, find, tokens_before


def decode(ids) -> str:
    """Return the text of bytes, half characters replaced."""
    return bytes(ids).decode("utf-8", errors="replace")


def feed_in_steps(text: GrowingText, ids: list[int], sizes: list[int]) -> list[str]:
    """Feed prefixes of the given lengths, then everything."""
    return [*(text.feed(ids[:n]) for n in sorted(sizes)), text.feed(ids, final=True)]


@given(st.text(max_size=20), st.lists(st.integers(0, 40), max_size=8))
def test_pieces_add_up_to_the_whole(text: str, sizes: list[int]) -> None:
    ids = list(text.encode("utf-8"))
    assert "".join(feed_in_steps(GrowingText(decode), ids, sizes)) == text


@given(
    st.text(alphabet="ab\N{EURO SIGN}", max_size=20),
    st.lists(st.text(alphabet="ab\N{EURO SIGN}", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 60), max_size=10),
)
def test_the_text_ends_before_the_first_stop_string_whatever_the_steps(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    """However the ids arrive, what is given away is the text up to the stop string that is whole first."""
    ids, growing = list(text.encode("utf-8")), GrowingText(decode, stops)
    pieces = feed_in_steps(growing, ids, sizes)
    whole = next((n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)), None)
    assert growing.stopped == (whole is not None)
    kept = text if whole is None else text[: min(whole - len(s) for s in stops if text[:whole].endswith(s))]
    assert "".join(pieces) == kept
    cut = decode(ids[: tokens_before(np.array(ids, np.uint8), decode, stops)])
    assert cut[: find(cut, stops)] == kept


def test_half_a_character_and_half_a_stop_string_are_held_back() -> None:
    euro = "\N{EURO SIGN}".encode()
    growing = GrowingText(decode, ["END"])
    assert growing.feed(b"a" + euro[:2]) == "a"
    assert growing.feed(b"a" + euro + b"EN") == "\N{EURO SIGN}"
    assert growing.feed(b"a" + euro + b"ENX") == "ENX"
    assert growing.feed(b"a" + euro + b"ENXEND more") == "" and growing.stopped
    assert growing.feed(b"anything", final=True) == ""


def test_tokens_are_counted_up_to_the_whole_stop_string() -> None:
    ids = np.frombuffer(b"one stop two stop", np.uint8)
    assert tokens_before(ids, decode, ["stop"]) == len("one stop")
    assert tokens_before(ids, decode, ["never"]) == len(ids)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty one would end every text"):
        GrowingText(decode, ["a", ""])
