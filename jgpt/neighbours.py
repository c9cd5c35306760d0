"""Nearest pictures by their pixels: exact, and in bounded memory, so that a copy of a training picture shows.

Owns the search; refuses to know where pictures come from.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

import numpy as np
from jaxtyping import Float, Int64

BLOCK_NUMBERS: Final = 1 << 22  # of a block of pictures and of its distances: 32 MiB each


def nearest(
    queries: Iterable[np.ndarray], pictures: Iterable[np.ndarray]
) -> tuple[Int64[np.ndarray, " queries"], Float[np.ndarray, " queries"]]:
    """Return for each query the index of the nearest picture, and its distance [root mean square, grey levels].

    Nearest in L2, the first of several that are as near. Exact: squares of bytes are added up as whole numbers below 2^53
    in float64. Pictures are read once, a block at a time; the queries stand in memory whole.

    Args:
        queries: uint8 pictures of one shape.
        pictures: uint8 pictures of that shape, at least one.

    Raises:
        ValueError: there is no query or no picture, or their shapes differ.
    """
    wanted = [np.asarray(query) for query in queries]
    if not wanted:
        raise ValueError("no picture was given to find the nearest one of: give at least one.")
    shape = wanted[0].shape
    q = _flat(wanted, shape)
    q_squares = (q * q).sum(1)
    best, where = np.full(len(q), np.inf), np.zeros(len(q), np.int64)
    rows = max(1, BLOCK_NUMBERS // max(q.shape))
    remaining, start = iter(pictures), 0
    while block := list(islice(remaining, rows)):
        p = _flat(block, shape)
        squares = (p * p).sum(1)[None, :] - 2 * (q @ p.T) + q_squares[:, None]
        index = squares.argmin(1)
        found = squares[np.arange(len(q)), index]
        closer = found < best
        best[closer], where[closer] = found[closer], index[closer] + start
        start += len(block)
    if not start:
        raise ValueError("there is no picture to search among: give at least one.")
    return where, np.sqrt(best / q.shape[1])


def _flat(pictures: list[np.ndarray], shape: tuple[int, ...]) -> Float[np.ndarray, "pictures numbers"]:
    for picture in pictures:
        if picture.shape != shape:
            raise ValueError(f"a picture of shape {picture.shape} is compared with one of {shape}: resize it.")
    return np.stack(pictures).reshape(len(pictures), -1).astype(np.float64)
