r"""Regular expressions as automata over UTF-8 bytes: Python's own meaning of them, or a refusal.

Owns the way from a pattern to a table of states; refuses tokens and models. Patterns are read by Python's own parser and
each class of characters is looked up with Python's own `re`, so that a text the automaton accepts is one that
`re.fullmatch` accepts, in the Unicode version of this Python as well. Sizes are bounded: a few characters such as
`(a|b)*a(a|b){30}` may ask for a billion states, and get an error.

Worked example, `a|é` (é is the bytes C3 A9): state 0 goes to 1 by 61 and to 2 by C3, state 2 goes to 1 by A9, 1 accepts.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from re import _constants as op  # the parser behind `re.compile` has no public name
from re import _parser
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jgpt.check import require

MAX_PARTS: Final = 20_000  # states before subsets are taken: `a{20000}` is the longest
MAX_STATES: Final = 10_000  # of the result, before equal ones are merged
MAX_WORK: Final = 3_000_000  # states in all subsets together: seconds
DEAD: Final = -1  # where no text goes on
SURROGATES: Final = range(0xD800, 0xE000)  # no characters of their own: UTF-8 has none
CATEGORIES: Final = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
ENDS: Final = {
    op.AT_BEGINNING: "^",
    op.AT_BEGINNING_STRING: r"\A",
    op.AT_END: "$",
    op.AT_END_STRING: r"\Z",
}
REFUSED: Final = {
    op.ASSERT: "a look-around (?=...) or (?<=...)",
    op.ASSERT_NOT: "a look-around (?!...) or (?<!...)",
    op.GROUPREF: r"a back-reference such as \1",
    op.GROUPREF_EXISTS: "a condition on a group (?(1)...)",
    op.ATOMIC_GROUP: "an atomic group (?>...)",
    op.POSSESSIVE_REPEAT: "a possessive repeat such as a++",
    op.AT: "an anchor or word boundary inside",
}
Ranges = tuple[tuple[int, int], ...]


class ByteAutomaton(NamedTuple):
    """A deterministic automaton over bytes that starts in state 0; from every state some text leads to acceptance.

    Attributes:
        table: next state of each state at each byte; DEAD where no text goes on.
        accepts_M: whether the text so far is one.
    """

    table: Int[np.ndarray, "M 256"]
    accepts_M: Bool[np.ndarray, " M"]


def byte_automaton(pattern: str) -> ByteAutomaton:
    """Return the smallest automaton of the texts that `re.fullmatch(pattern, text)` accepts.

    Raises:
        ValueError: the pattern is malformed, not regular, too large, or matches nothing.
    """
    try:
        re.compile(pattern)
        parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern {_short(pattern)} is no regular expression of Python's re: {error}.") from None
    parts = _Parts(pattern)
    items = list(parsed)
    while items and items[0][0] is op.AT and items[0][1] in (op.AT_BEGINNING, op.AT_BEGINNING_STRING):
        items = items[1:]  # the whole text must match anyway
    while items and items[-1][0] is op.AT and items[-1][1] in (op.AT_END, op.AT_END_STRING):
        items = items[:-1]
    try:
        end = parts.add(items, parts.new(), parsed.state.flags)
    except RecursionError:
        raise ValueError(f"the pattern {_short(pattern)} is nested too deeply: write it flatter.") from None
    table, accepts_M = _subsets(parts, end)
    out = _merge_equal(*_drop_hopeless(table, accepts_M))
    require(bool(out.accepts_M.any()), f"the pattern {_short(pattern)} matches no text at all: nothing could be drawn.")
    return out


class _Parts:
    """A nondeterministic automaton under construction (Thompson 1968): states, free steps, and steps by a range of bytes."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.free: list[list[int]] = []
        self.steps: list[list[tuple[int, int, int]]] = []  # (lowest byte, highest byte, next state)

    def new(self) -> int:
        """Return a new state."""
        if len(self.free) >= MAX_PARTS:  # not `require`: no message is made ten thousand times over
            raise ValueError(
                f"the pattern {_short(self.pattern)} unfolds into more than {MAX_PARTS:,} parts: repeat less often."
            )
        self.free.append([])
        self.steps.append([])
        return len(self.free) - 1

    def add(self, items: Any, at: int, flags: int) -> int:
        """Return the state in which `items`, parsed, have been read from state `at` on."""
        for kind, value in items:
            at = self._add(kind, value, at, flags)
        return at

    def _add(self, kind: Any, value: Any, at: int, flags: int) -> int:
        if kind in (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN):
            return self._character(_characters(_source(kind, value), flags & (re.I | re.A | re.S)), at)
        if kind is op.SUBPATTERN:
            _, plus, minus, items = value
            return self.add(items, at, (flags | plus) & ~minus)
        if kind is op.BRANCH:
            end = self.new()
            for items in value[1]:
                self.free[self.add(items, at, flags)].append(end)
            return end
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):  # greedy or not, the same texts match
            least, most, items = value
            for _ in range(least):
                at = self.add(items, at, flags)
            if most is op.MAXREPEAT:
                loop = self.new()
                self.free[at].append(loop)
                self.free[self.add(items, loop, flags)].append(loop)
                return loop
            end = self.new()
            for _ in range(most - least):
                self.free[at].append(end)
                at = self.add(items, at, flags)
            self.free[at].append(end)
            return end
        what = REFUSED.get(kind, str(kind))
        if kind is op.AT and value in ENDS:
            what = f"{ENDS[value]} inside"
        raise ValueError(
            f"the pattern {_short(self.pattern)} has {what}, which an automaton cannot follow: say it without (the whole "
            "text is matched, from its first character to its last)."
        )

    def _character(self, ranges: Ranges, at: int) -> int:
        """Read one character of `ranges`; ways that end alike share their states."""
        end = self.new()
        known: dict[tuple, int] = {(): end}

        def state(rest: tuple) -> int:
            if rest not in known:
                known[rest] = self.new()
                self.steps[known[rest]].append((*rest[0], state(rest[1:])))
            return known[rest]

        for low, high in ranges:
            for steps in _utf8(low, high):
                self.steps[at].append((*steps[0], state(steps[1:])))
        return end


def _source(kind: Any, value: Any) -> str:
    """Return a pattern of one character that means what the parsed item does."""
    if kind is op.ANY:
        return "."
    items = value if kind is op.IN else [(op.LITERAL, value)]
    out = "^" if kind is op.NOT_LITERAL else ""
    for what, argument in items:
        if what is op.NEGATE:
            out += "^"
        elif what is op.LITERAL:
            out += f"\\U{argument:08x}"
        elif what is op.RANGE:
            out += f"\\U{argument[0]:08x}-\\U{argument[1]:08x}"
        else:
            out += CATEGORIES[argument]
    return f"[{out}]"


@lru_cache(maxsize=256)
def _characters(source: str, flags: int) -> Ranges:
    """Return the code points that a pattern of one character matches."""
    out = []
    for run in re.finditer(f"{source}+", _all_characters(), flags):
        low, high = (i + len(SURROGATES) * (i >= SURROGATES.start) for i in (run.start(), run.end() - 1))
        if low < SURROGATES.start <= high:
            out.append((low, SURROGATES.start - 1))
            low = SURROGATES.stop
        out.append((low, high))
    return tuple(out)


@lru_cache(maxsize=1)
def _all_characters() -> str:
    return "".join(chr(i) for i in range(0x110000) if i not in SURROGATES)


def _utf8(low: int, high: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the UTF-8 of a range of characters as ranges a byte: all combinations of them, and nothing else."""
    for top in (0x7F, 0x7FF, 0xFFFF):  # the last characters of 1, 2 and 3 bytes
        if low <= top < high:
            yield from _utf8(low, top)
            yield from _utf8(top + 1, high)
            return
    for i in range(1, len(chr(high).encode())):
        tail = (1 << 6 * i) - 1  # of i continuation bytes
        if low & ~tail != high & ~tail:
            if low & tail:
                yield from _utf8(low, low | tail)
                yield from _utf8((low | tail) + 1, high)
                return
            if high & tail != tail:
                yield from _utf8(low, (high & ~tail) - 1)
                yield from _utf8(high & ~tail, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))


def _subsets(parts: _Parts, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return table and acceptance of the deterministic automaton, by taking sets of states (Rabin and Scott 1959)."""

    def closed(states: frozenset[int]) -> frozenset[int]:
        found, left = set(states), list(states)
        while left:
            for other in parts.free[left.pop()]:
                if other not in found:
                    found.add(other)
                    left.append(other)
        return frozenset(i for i in found if parts.steps[i] or i == end)

    first = closed(frozenset([0]))
    numbers, sets, rows = {first: 0}, [first], []
    known: dict[frozenset[int], int] = {}
    work = 0
    for subset in sets:
        work += len(subset)
        targets: list[set[int]] = [set() for _ in range(256)]
        for state in subset:
            for low, high, other in parts.steps[state]:
                for byte in range(low, high + 1):
                    targets[byte].add(other)
        row = np.full(256, DEAD, np.int32)
        for byte, found in enumerate(targets):
            if not found:
                continue
            raw = frozenset(found)
            if raw not in known:
                known[raw] = numbers.setdefault(closed(raw), len(sets))
                if known[raw] == len(sets):
                    sets.append(closed(raw))
            row[byte] = known[raw]
        rows.append(row)
        if len(sets) > MAX_STATES or work > MAX_WORK:
            raise ValueError(
                f"the pattern {_short(parts.pattern)} needs more than {MAX_STATES:,} states, or too long to find them: repeat "
                "less often, or give its alternatives different beginnings."
            )
    return np.stack(rows), np.array([end in subset for subset in sets])


def _drop_hopeless(table: np.ndarray, accepts_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the automaton without steps to states from which no text is accepted; state 0 stays."""
    keep = co_reachable([np.unique(row[row >= 0]) for row in table], accepts_M)
    keep[0] = True
    number = np.append(np.where(keep, np.cumsum(keep) - 1, DEAD), DEAD).astype(np.int32)
    return number[table[keep]], accepts_M[keep]


def co_reachable(following: list[np.ndarray], accepts_M: Bool[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Return the states from which acceptance can be reached.

    Args:
        following: states that follow each state.
        accepts_M: which accept.
    """
    before: list[list[int]] = [[] for _ in following]
    for state, others in enumerate(following):
        for other in others:
            before[other].append(state)
    good = accepts_M.copy()
    left = np.flatnonzero(good).tolist()
    while left:
        for state in before[left.pop()]:
            if not good[state]:
                good[state] = True
                left.append(state)
    return good


def _merge_equal(table: np.ndarray, accepts_M: np.ndarray) -> ByteAutomaton:
    """Return the automaton with equal states merged (Moore 1956): classes are split until their members agree.

    Rows are compared by two products with random odd numbers modulo 2**64: by chance unequal ones agree once in 2**100.
    """
    weights = np.random.default_rng(0).integers(1, 2**63, (2, 257), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    kind_M, count = accepts_M.astype(np.int64), 0
    while True:
        nexts = np.append(kind_M + 1, 0)[table]  # DEAD is the last entry, 0
        rows = np.concatenate([kind_M[:, None] + 1, nexts], axis=1).astype(np.uint64)
        marks = np.stack([(rows * weight).sum(1, dtype=np.uint64) for weight in weights], axis=1)
        _, first, kind_M = np.unique(marks, axis=0, return_index=True, return_inverse=True)
        kind_M = kind_M.reshape(-1)
        if len(first) == count:
            break
        count = len(first)
    order = np.argsort(first)  # the class of state 0 comes first
    number = np.append(np.argsort(order), DEAD).astype(np.int32)
    return ByteAutomaton(number[np.append(kind_M, count)[table]][first[order]], accepts_M[first[order]])


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:77] + "...")
