"""What an image code is: pictures of bytes to ids and back, and how the ids lie on the picture.

Owns the protocol and the measure of what a code loses; refuses any particular code.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8


class Loss(NamedTuple):
    """What encoding and decoding loses: nothing where `rmse` is 0.

    Attributes:
        rmse: root of the mean squared difference over pixels and channels [grey levels of 255].
        psnr: peak signal to noise, 20 log10(255 / rmse) [dB]; infinite where nothing is lost.
    """

    rmse: float
    psnr: float


@runtime_checkable
class ImageCode(Protocol):
    """A code for pictures, uint8 [height, width] or [height, width, channel].

    Attributes:
        size: number of ids, from 0.
        cycle: which ids may stand where: token i of a picture is from `cycle[i % len(cycle)]`.
    """

    size: int

    @property
    def cycle(self) -> tuple[range, ...]:
        """Ids of the tokens of one cell, which repeat for every cell."""
        ...

    def grid(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return (rows, columns, tokens of a cell) of a picture's tokens, which run cell by cell in raster order.

        Raises:
            ValueError: the code cannot express pictures of this shape.
        """
        ...

    def encode(self, picture: np.ndarray) -> Int32[np.ndarray, " n"]:
        """Return the ids of a picture. Raises ValueError where it is not uint8 or has a shape the code cannot express."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray, shape: Sequence[int]) -> UInt8[np.ndarray, "..."]:
        """Return the picture of ids. Raises ValueError where their number does not fit `shape`."""
        ...

    def to_json(self) -> str:
        """Return the JSON form; its "type" is the name in IMAGE_CODES that rebuilds it."""
        ...

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is too large for JSON, saved beside it as `.npz`; mostly empty."""
        ...


def tokens(code: ImageCode, shape: Sequence[int]) -> int:
    """Return the number of tokens of a picture. Raises ValueError as `ImageCode.grid`."""
    return math.prod(code.grid(shape))


def loses(code: ImageCode, pictures: Iterable[np.ndarray]) -> Loss:
    """Return what `code` loses on pictures. Raises ValueError where there are none."""
    squares, count = 0, 0
    for picture in pictures:
        again = code.decode(code.encode(picture), picture.shape)
        squares += int(((again.astype(np.int64) - picture) ** 2).sum())
        count += picture.size
    if not count:
        raise ValueError("0 pictures were given to measure a code on: give at least one.")
    rmse = math.sqrt(squares / count)
    return Loss(rmse, 20 * math.log10(255 / rmse) if rmse else math.inf)


def is_exact(code: ImageCode, picture: np.ndarray) -> bool:
    """Return whether a picture comes back from `code` as it was."""
    return np.array_equal(code.decode(code.encode(picture), picture.shape), picture)


def require_bytes(picture: np.ndarray) -> None:
    """Refuse pictures that are not uint8. Raises ValueError."""
    if picture.dtype != np.uint8:
        raise ValueError(f"a picture is {picture.dtype}: must be uint8, 0 to 255; scale and convert it.")
