"""Which ids may follow which, for texts of a form: a table over the ids of a vocabulary that the sampler walks.

Owns the step from bytes to ids, whatever the tokenizer: an id may hold several characters, or a part of one. Imports no
jax; `decode_loop` keeps the table on the device and looks up one row a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from jgpt.check import require
from jgpt.regular import DEAD, ByteAutomaton, byte_automaton, co_reachable
from jgpt.schema import pattern_of
from jgpt.tokenizers.vocabulary import Vocabulary

MAX_BYTES: Final = 256 * 2**20  # of the table, on the device


@dataclass(frozen=True)
class Automaton:
    """Which ids may follow which.

    Attributes:
        next_MV: next state of each state at each id, -1 where the id may not follow; a row of ids begins in state 0, and
            every state allows an id.
    """

    next_MV: Int[np.ndarray, "M V"]

    def __post_init__(self) -> None:
        states = self.next_MV.shape[0]
        require(
            bool((self.next_MV < states).all()),
            f"automaton.next_MV names state {self.next_MV.max()}: it has {states} states, use 0 to {states - 1}.",
        )
        stuck = np.flatnonzero((self.next_MV < 0).all(-1))
        require(
            len(stuck) == 0, f"automaton.next_MV allows no id in states {stuck[:5].tolist()}: nothing could be drawn."
        )


def automaton_for(
    vocabulary: Vocabulary,
    stop_ids: Sequence[int],
    *,
    pattern: str | None = None,
    schema: Mapping[str, Any] | None = None,
) -> Automaton | None:
    """Return the automaton of texts that match a pattern, or of JSON that a schema accepts; None where neither is given.

    Args:
        vocabulary: of the run.
        stop_ids: ids that end a text; they are allowed exactly where it is whole.
        pattern: a regular expression that the whole text matches, as by `re.fullmatch`.
        schema: a JSON schema, see `schema`.

    Raises:
        ValueError: both are given, one is malformed or too large, or the vocabulary cannot write any such text.
    """
    if schema is not None:
        require(pattern is None, "a pattern and a schema are given: a text has one form, leave one of them out.")
        pattern = pattern_of(schema)
    if pattern is None:
        return None
    require(
        len(stop_ids) > 0, "a pattern needs an id that ends the text, and this task has none: leave the pattern out."
    )
    return _build(vocabulary.text, vocabulary.text_ids.start, vocabulary.size, tuple(stop_ids), pattern)


@lru_cache(maxsize=4)  # tables are large
def _build(tokenizer: Any, start: int, size: int, stop_ids: tuple[int, ...], pattern: str) -> Automaton:
    automaton = byte_automaton(pattern)
    table, states = _walk(automaton, tokenizer.token_bytes(), size, pattern)
    accepts_M = automaton.accepts_M[states]
    following = [np.unique(row[row >= 0]) for row in table]
    keep = co_reachable(following, accepts_M)
    require(
        bool(keep[0]),
        f"no text that this run's tokenizer can write matches the pattern {pattern!r}: use other characters.",
    )
    number = np.append(np.where(keep, np.cumsum(keep) - 1, DEAD), DEAD).astype(np.int32)
    next_MV = np.full((int(keep.sum()), size), DEAD, np.int32)
    next_MV[:, start : start + table.shape[1]] = number[table[keep]]
    accepting = np.flatnonzero(accepts_M[keep])
    for stop in stop_ids:
        next_MV[accepting, stop] = accepting
    return Automaton(next_MV)


def _walk(automaton: ByteAutomaton, tokens: Sequence[bytes], size: int, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (next [states, ids], number in `automaton` of each state) of the states that whole ids lead to.

    Raises:
        ValueError: the table would be too large.
    """
    dead = len(automaton.table)
    table = np.concatenate([automaton.table, np.full((1, 256), DEAD, np.int32)])
    table[table == DEAD] = dead
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))  # the ids that still have a byte stand in front
    sizes = np.array([len(tokens[i]) for i in order])
    bytes_at = [
        np.array([tokens[i][place] for i in order[: int((sizes > place).sum())]], np.uint8)
        for place in range(int(sizes.max(initial=0)))
    ]
    numbers, states, rows = np.full(dead + 1, DEAD, np.int32), [0], []
    numbers[0] = 0
    for state in states:
        if len(states) * size * 4 > MAX_BYTES:
            raise ValueError(
                f"the pattern {pattern[:80]!r} needs more than {len(states) - 1:,} states over {size:,} ids, a table of "
                f"more than {MAX_BYTES >> 20} MiB: repeat less often, or bound what is repeated less tightly."
            )
        at = np.full(len(tokens), state, np.int32)
        for byte in bytes_at:
            at[: len(byte)] = table[at[: len(byte)], byte]
        at[sizes == 0] = dead  # an id without text could be drawn for ever
        row = np.empty_like(at)
        row[order] = at
        for found in np.unique(row):
            if found != dead and numbers[found] == DEAD:
                numbers[found] = len(states)
                states.append(int(found))
        rows.append(row)
    return numbers[np.stack(rows)], np.array(states)
