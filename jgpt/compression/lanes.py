"""In which order ids are coded: rows side by side in lanes that step together.

Owns the layout, which encoder and decoder must agree on and which follows from sizes alone. A text is cut into rows as
training cuts it (`StreamRows`: every `length` pairs, positions from 0 in each), and a lane takes consecutive rows, so that
the first id of each row is known when it begins. Only the lanes themselves begin with an id that must be told.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from jgpt.batch import Document

MAX_LANES: Final = 32  # more are no faster an id on a CPU, where their caches no longer fit the processor's
LANE_TOKENS: Final = 1024  # at least, where there are several lanes: telling where one begins costs about a byte


class Lanes(NamedTuple):
    """Rows that are coded together. Here N counts steps, and all lanes stand at the same position.

    Attributes:
        tokens_BM: ids of each lane, M = N + 1; the decoder fills in those that are coded.
        coded_BN: whether the id at step + 1 is coded; else it is given, or the lane is over.
        positions_N: position of each step's input in its row.
    """

    tokens_BM: Int32[np.ndarray, "B M"]
    coded_BN: Bool[np.ndarray, "B N"]
    positions_N: Int32[np.ndarray, " N"]


def text_starts(pairs: int, length: int) -> tuple[int, np.ndarray, int]:
    """Return (lanes to compute, first pair of each lane that holds any, steps).

    The lanes to compute are a power of two, so that few shapes are ever compiled.
    """
    lanes = 1
    while lanes < MAX_LANES and pairs >= 2 * lanes * LANE_TOKENS:
        lanes *= 2
    rows = -(-pairs // length)
    steps = -(-rows // lanes) * length
    return lanes, np.arange(0, pairs, steps), min(steps, pairs)


def text_lanes(pairs: int, length: int, starts: Sequence[int] | np.ndarray) -> Lanes:
    """Return empty lanes of a text.

    Args:
        pairs: ids of the text after its first.
        length: of a row.
        starts: the id each lane begins with.
    """
    lanes, first, steps = text_starts(pairs, length)
    tokens_BM = np.zeros((lanes, steps + 1), np.int32)
    tokens_BM[: len(first), 0] = starts
    at_BN = first[:, None] + np.arange(steps)[None, :]
    coded_BN = np.zeros((lanes, steps), bool)
    coded_BN[: len(first)] = at_BN < pairs
    return Lanes(tokens_BM, coded_BN, (np.arange(steps) % length).astype(np.int32))


def fill_text(lanes: Lanes, tokens: np.ndarray) -> Lanes:
    """Return `lanes` with the ids of a text in their places."""
    pairs, filled = int(lanes.coded_BN.sum()), lanes.tokens_BM.copy()
    steps = lanes.coded_BN.shape[1]
    for lane, first in enumerate(range(0, pairs, steps)):
        part = tokens[first : first + steps + 1]
        filled[lane, : len(part)] = part
    return lanes._replace(tokens_BM=filled)


def text_of(lanes: Lanes) -> np.ndarray:
    """Return the ids of a text from its lanes, without its first."""
    return lanes.tokens_BM[:, 1:][lanes.coded_BN]


def picture_lanes(documents: Sequence[Document]) -> Iterator[tuple[slice, Lanes]]:
    """Yield pictures of one size in groups, one a lane, with the numbers of the pictures in each group.

    Args:
        documents: of equally many ids; those of weight zero are given.
    """
    lanes = 1
    while lanes < min(MAX_LANES, len(documents)):
        lanes *= 2
    for first in range(0, len(documents), lanes):
        group = documents[first : first + lanes]
        steps = len(group[0].tokens) - 1
        tokens_BM, coded_BN = np.zeros((lanes, steps + 1), np.int32), np.zeros((lanes, steps), bool)
        for lane, document in enumerate(group):
            weights = np.ones(steps + 1) if document.weights is None else document.weights
            tokens_BM[lane] = document.tokens
            coded_BN[lane] = weights[1:] > 0
        yield slice(first, first + len(group)), Lanes(tokens_BM, coded_BN, np.arange(steps, dtype=np.int32))
