"""Full colour: 8 bits of red, green and blue, one token each, so that nothing is lost and bits per dim are exact.

Owns the ids: value v of channel c is 256 c + v, so that each channel has ids of its own. A pixel (7, 0, 255) is 7, 256,
767. Refuses grey, which needs 256 ids and one token a pixel (`Palette.grey(256)`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Int32, UInt8

from jgpt.check import require
from jgpt.tokenizers.image_code import require_bytes

CHANNELS: Final = 3
VALUES: Final = 256
FIRST: Final = np.arange(CHANNELS, dtype=np.int32) * VALUES  # id of value 0 of each channel


class RGB:
    """Codes as the bytes themselves, channel by channel."""

    size: int = CHANNELS * VALUES

    @classmethod
    def from_json(cls, text: str, arrays: Mapping[str, np.ndarray] | None = None) -> "RGB":
        """Rebuild from `to_json`; there is nothing to remember."""
        del text, arrays
        return cls()

    @property
    def cycle(self) -> tuple[range, ...]:
        """Red, green, blue, and again."""
        return tuple(range(first, first + VALUES) for first in FIRST.tolist())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing beside the JSON form."""
        return {}

    def grid(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return (height, width, 3). Raises ValueError where the shape is not [height, width, 3]."""
        require(
            len(shape) == 3 and shape[-1] == CHANNELS,
            f"a picture of shape {tuple(shape)} has no three channels, which tokenizer.image 'rgb' needs: use "
            "--data.image-mode rgb, or for grey --tokenizer.image grey --tokenizer.image-levels 256.",
        )
        return shape[0], shape[1], CHANNELS

    def encode(self, picture: np.ndarray) -> Int32[np.ndarray, " n"]:
        """Return three ids per pixel, in raster order. Raises ValueError where it is not uint8 [height, width, 3]."""
        require_bytes(picture)
        self.grid(picture.shape)
        return (picture + FIRST).reshape(-1).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray, shape: Sequence[int]) -> UInt8[np.ndarray, "..."]:
        """Return the picture of ids. Raises ValueError where they are too many or few, or of another channel."""
        rows, columns, _ = self.grid(shape)
        require(
            len(ids) == rows * columns * CHANNELS,
            f"{len(ids)} image ids cannot fill a picture of {rows} x {columns} pixels with {CHANNELS} ids each.",
        )
        values = np.asarray(ids, np.int64).reshape(tuple(shape)) - FIRST
        require(
            bool(((0 <= values) & (values < VALUES)).all()),
            f"image ids of another channel stand where red, green and blue should follow each other in {list(ids)[:6]}...",
        )
        return values.astype(np.uint8)

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps({"type": "rgb"})
