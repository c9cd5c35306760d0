"""Palettes: pictures of bytes to ids of a fixed set of colours and back, one token a pixel.

Owns the palette (grey levels, or colours found by k-means as in iGPT, Chen et al. 2020, section 3.2). Pictures are
uint8 [height, width] or [height, width, channel]; ids run in raster order. Refuses captions and markers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Int32, UInt8

from jgpt.check import require
from jgpt.tokenizers.image_code import one_thread, require_bytes

MAX_DISTANCES: Final = 1 << 22  # distances held at once: 16 MiB


class Palette:
    """Codes as the nearest of a fixed set of colours.

    Args:
        colours: [codes, channels], uint8; one channel for grey.
    """

    def __init__(self, colours: UInt8[np.ndarray, "codes channels"]) -> None:
        self.colours = colours
        self.size, self.channels = colours.shape
        # grey: the nearest level of every byte, looked up instead of searched
        self._of_byte = self._nearest(np.arange(256, dtype=np.uint8)[:, None]) if self.channels == 1 else None

    @classmethod
    def grey(cls, levels: int) -> "Palette":
        """Return `levels` greys, evenly spaced from 0 to 255.

        Raises:
            ValueError: a byte cannot tell so many greys apart.
        """
        require(
            2 <= levels <= 256,
            f"tokenizer.image_levels is {levels}: a byte holds 2 to 256 greys; change it, or use --tokenizer.image "
            "palette.",
        )
        return cls(np.rint(np.linspace(0, 255, levels)).astype(np.uint8)[:, None])

    @classmethod
    def fit(cls, pictures: Iterable[np.ndarray], size: int, seed: int, *, fewer: bool = False) -> "Palette":
        """Return the `size` colours that k-means finds in at most 200,000 pixels of `pictures`.

        With `fewer`, pictures of fewer distinct colours get a palette of just those.

        Raises:
            ValueError: the pictures hold fewer distinct colours than `size`, and `fewer` is off.
        """
        parts = [p.reshape(-1, 1 if p.ndim == 2 else p.shape[-1]) for p in pictures]
        distinct = parts[0][:0]
        for part in parts:
            distinct = _distinct(np.concatenate([distinct, part]))
            if len(distinct) > size:
                break
        require(
            fewer or len(distinct) >= size,
            f"the training pictures hold {len(distinct)} distinct colours, fewer than tokenizer.image_levels {size}: "
            "lower it.",
        )
        if len(distinct) <= size:
            return cls(distinct)
        pixels = np.concatenate(parts)
        if len(pixels) > 200_000:
            pixels = np.random.default_rng(seed).choice(pixels, 200_000, replace=False)
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(size, random_state=seed, n_init=3, batch_size=4096)  # pyright: ignore[reportArgumentType]
        means.fit(pixels.astype(np.float32))
        colours = np.rint(means.cluster_centers_).clip(0, 255).astype(np.uint8)
        return cls(colours[np.lexsort(colours.T[::-1])])

    @classmethod
    def from_json(cls, text: str, arrays: Mapping[str, np.ndarray] | None = None) -> "Palette":
        """Rebuild from `to_json`; a palette has no arrays."""
        del arrays
        return cls(np.asarray(json.loads(text)["colours"], np.uint8))

    @property
    def cycle(self) -> tuple[range, ...]:
        """Any colour may stand at any pixel."""
        return (range(self.size),)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing beside the JSON form."""
        return {}

    def grid(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return (height, width, 1): one token a pixel."""
        return shape[0], shape[1], 1

    def encode(self, picture: np.ndarray) -> Int32[np.ndarray, " n"]:
        """Return one id per pixel, in raster order.

        Raises:
            ValueError: the picture is not uint8, or has another number of channels than the palette.
        """
        require_bytes(picture)
        channels = 1 if picture.ndim == 2 else picture.shape[-1]
        if channels != self.channels:
            raise ValueError(
                f"a picture of shape {picture.shape} has {channels} channels, the palette has {self.channels}: "
                f"convert it, such as with --data.image-mode {'grey' if self.channels == 1 else 'rgb'}."
            )
        if self._of_byte is not None:
            return self._of_byte[picture.reshape(-1)]
        return self._nearest(picture.reshape(-1, channels))

    def decode(self, ids: Sequence[int] | np.ndarray, shape: Sequence[int]) -> UInt8[np.ndarray, "..."]:
        """Return the picture of `ids` with the given [height, width] or [height, width, channel] shape.

        Raises:
            ValueError: the number of ids is not the number of pixels, or the shape has other channels than the palette.
        """
        channels = 1 if len(shape) == 2 else shape[-1]
        require(
            channels == self.channels,
            f"a picture of shape {tuple(shape)} has {channels} channels, the palette has {self.channels}: give "
            "the shape it was encoded from.",
        )
        if len(ids) != shape[0] * shape[1]:
            raise ValueError(f"{len(ids)} image ids cannot fill a picture of {shape[0]} x {shape[1]} pixels.")
        return self.colours[np.asarray(ids, np.int64)].reshape(tuple(shape))

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps({"type": "palette", "colours": self.colours.tolist()})

    def _nearest(self, pixels: UInt8[np.ndarray, "n channels"]) -> Int32[np.ndarray, " n"]:
        pixels = pixels.astype(np.float32)
        colours = self.colours.astype(np.float32)
        # |p - c|^2 without the term that is the same for every colour c. Exact: integers below 2^24 in float32.
        squares, twice = (colours**2).sum(1), 2 * colours.T
        block = max(MAX_DISTANCES // self.size, 1)
        with one_thread():
            parts = [np.argmin(squares - pixels[i : i + block] @ twice, 1) for i in range(0, len(pixels), block)]
        return np.concatenate(parts).astype(np.int32)


def _distinct(colours: UInt8[np.ndarray, "n channel"]) -> UInt8[np.ndarray, "m channel"]:
    """Return each colour once, in order, told apart as whole numbers."""
    shifts = np.arange(colours.shape[1])[::-1] * 8
    numbers = np.unique((colours.astype(np.int64) << shifts).sum(1))
    return (numbers[:, None] >> shifts).astype(np.uint8)
