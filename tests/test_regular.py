"""Patterns as automata: what they accept is what Python's re accepts, and what they cannot be is said."""

import functools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.regular import ByteAutomaton, byte_automaton

PATTERNS = (
    "", "a*b", "a?b{2,3}", "(a|b)*a(a|b){3}", "[0-9]{2}-[^ab]", "é|ü.", "(?i)straße|K[c-e]", r"\w+\s\S", r"(?a:\d)\D",
    "^ab$", r"\Aab\Z", "(?s).{2}", "(?x) a  b # two", "(|a)+b", "((a*)*)*", "[\U0001f600-\U0001f64f]?x",
    r"[\w-]+@[\w-]+\.(?:com|org)", "(?P<n>a)+?b", "x{0}y", "[^\x00-\uffff]", r"\x00",
)  # fmt: skip
ALPHABET = "ab0-é ßK\nüx\U0001f600K٣\x00@.y"


@functools.cache
def built(pattern: str) -> ByteAutomaton:
    return byte_automaton(pattern)


def accepts(automaton: ByteAutomaton, text: bytes) -> bool:
    """Walk the table."""
    state = 0
    for byte in text:
        state = automaton.table[state, byte]
        if state < 0:
            return False
    return bool(automaton.accepts_M[state])


def drawn(automaton: ByteAutomaton, rng: np.random.Generator) -> bytes:
    """Return a random accepted text."""
    state, out = 0, bytearray()
    while True:
        on = np.flatnonzero(automaton.table[state] >= 0)
        if automaton.accepts_M[state] and (len(on) == 0 or rng.random() < 0.3):
            return bytes(out)
        out.append(int(rng.choice(on)))
        state = automaton.table[state, out[-1]]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_of_the_automaton_match(pattern: str) -> None:
    """Random walks end in valid UTF-8 that Python's re matches from end to end."""
    automaton, rng = built(pattern), np.random.default_rng(0)
    for _ in range(30):
        text = drawn(automaton, rng)
        assert re.fullmatch(pattern, text.decode("utf-8")), text


@settings(max_examples=100, deadline=None)
@given(pattern=st.sampled_from(PATTERNS), text=st.text(ALPHABET, max_size=7))
def test_the_automaton_accepts_exactly_what_matches(pattern: str, text: str) -> None:
    assert accepts(built(pattern), text.encode()) == bool(re.fullmatch(pattern, text))


@settings(max_examples=100, deadline=None)
@given(character=st.characters(exclude_categories=["Cs"]))
def test_classes_of_characters_are_those_of_python(character: str) -> None:
    """Every character of Unicode, not only those of one alphabet."""
    for source in (r"\w", r"\s", r"\D", ".", "(?i)[k-s]"):
        assert accepts(built(source), character.encode()) == bool(re.fullmatch(source, character))


@pytest.mark.parametrize(("pattern", "states"), [("(a|b)*", 1), ("abc|abd", 4), ("[a-z]{4}", 5), ("(aa|aaa)*|a{7}", 4)])
def test_equal_states_are_one(pattern: str, states: int) -> None:
    """The smallest automaton is known for these; the last one accepts all lengths but 1, states for 0, 1, and 2 or more."""
    assert len(byte_automaton(pattern).table) == (3 if pattern.endswith("{7}") else states)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("(", "unterminated subpattern at position 0"),
        (r"(a)\1", "back-reference"),
        ("(?=a)b", "look-around"),
        (r"a\bb", "word boundary"),
        ("a$b", "$ inside"),
        ("a++", "possessive"),
        ("(?>a)b", "atomic"),
        ("((a{20}){20}){20}", "more than 400 parts"),
        ("(a|b)*a(a|b){30}", "more than 300 states"),
        ("(a?){150}", "more than 300 states, or too long"),
        (r"[^\s\S]", "matches no text at all"),
        (r"\p{L}", "bad escape"),
        ("\ud800", "matches no text at all"),
        ("(" * 3000 + ")" * 3000, "no regular expression"),
    ],
)
def test_what_cannot_be_followed_is_an_error(pattern: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("MAX_PARTS", 400), ("MAX_STATES", 300), ("MAX_WORK", 2_000)):
        monkeypatch.setattr(f"jgpt.regular.{name}", limit)
    with pytest.raises(ValueError) as error:
        byte_automaton(pattern)
    assert value in str(error.value) and "the pattern" in str(error.value)
