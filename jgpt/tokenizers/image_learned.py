"""A learned code for larger pictures: a convolutional encoder and decoder with finite scalar quantisation between.

Owns the network in one place: `latents`, `bounded` and `pictures` are written for any array module, so that training in
jax (`jgpt.image_fit`) and encoding here in NumPy run the same lines. Refuses to train, and to import jax.

Quantisation: Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple", section 3. A cell of the picture
is a vector of a few numbers, each bounded and rounded to one of its `levels`; the id of a cell is the number that these
levels spell. No codebook is learned, and none can collapse.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Int32, UInt8, UInt64

from jgpt.check import require
from jgpt.tokenizers.image_code import one_thread, require_bytes

# Recommended levels by the number of ids they make: table 1 of the paper.
LEVELS: Final[dict[int, tuple[int, ...]]] = {
    240: (8, 6, 5),
    1000: (8, 5, 5, 5),
    4375: (7, 5, 5, 5, 5),
    15360: (8, 8, 8, 6, 5),
}
EDGE: Final = 1e-3  # keeps tanh from having to reach the outermost level


def init(
    stride: int, channels: int, levels: Sequence[int], width: int, blocks: int, seed: int
) -> dict[str, np.ndarray]:
    """Return fresh weights, f32, by name.

    Args:
        stride: pixels to a cell, each way.
        channels: of a picture.
        levels: of each number of a cell.
        width: channels inside.
        blocks: residual blocks of the encoder, and of the decoder.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    patch, depth = stride * stride * channels, len(levels)
    shapes = {"encode/in": (patch, width), "encode/out": (width, depth), "decode/in": (depth, width)}
    shapes["decode/out"] = (width, patch)
    for side in ("encode", "decode"):
        for block in range(blocks):
            shapes[f"{side}/{block}/up"] = (9 * width, width)
            shapes[f"{side}/{block}/down"] = (width, width)
    out = {}
    for name, (fan_in, fan_out) in shapes.items():
        scale = math.sqrt(1 / fan_in) * (0.1 if name.endswith("down") else 1)  # blocks begin near the identity
        out[f"{name}/w"] = (random.standard_normal((fan_in, fan_out)) * scale).astype(np.float32)
        out[f"{name}/b"] = np.zeros(fan_out, np.float32)
    return out


def latents(xp: Any, weights: Mapping[str, Any], pixels: Any, stride: int) -> Any:
    """Return unbounded numbers [n, rows, columns, depth] of pictures [n, height, width, channel] in [-1, 1].

    Args:
        xp: the array module, numpy or jax.numpy.
        weights: from `init`.
        pixels: f32.
        stride: pixels to a cell, each way.
    """
    n, height, width, channels = pixels.shape
    x = pixels.reshape(n, height // stride, stride, width // stride, stride, channels)
    x = xp.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(n, height // stride, width // stride, stride * stride * channels)
    return _tower(xp, weights, x, "encode")


def bounded(xp: Any, x: Any, levels: Sequence[int]) -> Any:
    """Return numbers [n, rows, columns, depth] that round to whole levels around 0: -2 to 2 for five, -4 to 3 for eight."""
    count = xp.asarray(np.array(levels, np.float32).reshape(1, 1, 1, -1))
    half = (count - 1) * (1 - EDGE) / 2
    offset = xp.where(count % 2 == 0, np.float32(0.5), np.float32(0))
    return xp.tanh(x + xp.arctanh(offset / half)) * half - offset


def pictures(xp: Any, weights: Mapping[str, Any], rounded: Any, levels: Sequence[int], stride: int) -> Any:
    """Return pictures [n, height, width, channel], in [-1, 1] but for overshoot, of whole levels around 0."""
    half = xp.asarray((np.array(levels, np.float32) // 2).reshape(1, 1, 1, -1))
    x = _tower(xp, weights, rounded / half, "decode")
    n, rows, columns, patch = x.shape
    channels = patch // stride**2
    x = xp.transpose(x.reshape(n, rows, columns, stride, stride, channels), (0, 1, 3, 2, 4, 5))
    return x.reshape(n, rows * stride, columns * stride, channels)


def _tower(xp: Any, weights: Mapping[str, Any], x: Any, side: str) -> Any:
    """Return a dense layer, residual blocks of a 3 x 3 convolution and a dense layer, and a dense layer."""
    x = _dense(weights, f"{side}/in", x)
    block = 0
    while f"{side}/{block}/up/w" in weights:
        x = x + _dense(weights, f"{side}/{block}/down", _silu(xp, _convolution(xp, weights, f"{side}/{block}/up", x)))
        block += 1
    return _dense(weights, f"{side}/out", _silu(xp, x))


def _dense(weights: Mapping[str, Any], name: str, x: Any) -> Any:
    rows = x.reshape(-1, x.shape[-1])  # one large product: its gradient is twice as fast as one of many small ones
    return (rows @ weights[f"{name}/w"] + weights[f"{name}/b"].reshape(1, -1)).reshape(*x.shape[:-1], -1)


def _convolution(xp: Any, weights: Mapping[str, Any], name: str, x: Any) -> Any:
    """Return a 3 x 3 convolution with zeros around, as the sum of nine products, which XLA runs fastest on a CPU."""
    rows, columns, width = x.shape[1:]
    padded = xp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = weights[f"{name}/w"].reshape(9, width, -1)
    total = 0
    for shift in range(9):
        top, left = divmod(shift, 3)
        total = total + padded[:, top : top + rows, left : left + columns].reshape(-1, width) @ kernel[shift]
    return (total + weights[f"{name}/b"].reshape(1, -1)).reshape(*x.shape[:-1], -1)


def _silu(xp: Any, x: Any) -> Any:
    return x * (0.5 + 0.5 * xp.tanh(x / 2))  # x * sigmoid(x), in a form that cannot overflow


def marks(pictures: Iterable[np.ndarray]) -> UInt64[np.ndarray, " n"]:
    """Return 64 bits of a hash of each picture's shape and bytes, by which equal ones are found later."""
    digests = (
        hashlib.blake2b(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes(), digest_size=8).digest()
        for picture in pictures
    )
    return np.frombuffer(b"".join(digests), "<u8")


class Learned:
    """Codes as cells of a learned encoder, one token a cell of stride x stride pixels.

    Args:
        weights: from training.
        stride: pixels to a cell, each way.
        channels: of the pictures, 1 for grey.
        levels: of each number of a cell.
        fitted_to: `marks` of the pictures that the weights were trained on; None = not known.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        stride: int,
        channels: int,
        levels: Sequence[int],
        fitted_to: UInt64[np.ndarray, " n"] | None = None,
    ) -> None:
        self.weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
        self.stride, self.channels, self.levels = stride, channels, tuple(levels)
        self.fitted_to = fitted_to
        self.size = math.prod(levels)
        self._places = np.cumprod([1, *levels[:-1]])

    @classmethod
    def from_json(cls, text: str, arrays: Mapping[str, np.ndarray] | None = None) -> "Learned":
        """Rebuild from `to_json` and `arrays`."""
        state = json.loads(text)
        return cls(arrays or {}, state["stride"], state["channels"], state["levels"])

    @property
    def cycle(self) -> tuple[range, ...]:
        """Any id may stand in any cell."""
        return (range(self.size),)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The weights."""
        return dict(self.weights)

    def grid(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return (height / stride, width / stride, 1). Raises ValueError where the shape does not fit."""
        channels = 1 if len(shape) == 2 else shape[-1]
        require(
            channels == self.channels,
            f"a picture of shape {tuple(shape)} has {channels} channels, the learned tokenizer {self.channels}: use "
            f"--data.image-mode {'grey' if self.channels == 1 else 'rgb'}, or fit another tokenizer.",
        )
        require(
            shape[0] % self.stride == 0 and shape[1] % self.stride == 0,
            f"a picture of {shape[0]} x {shape[1]} pixels has no whole number of cells of {self.stride} x {self.stride}: "
            "choose another --data.image-size.",
        )
        return shape[0] // self.stride, shape[1] // self.stride, 1

    def encode(self, picture: np.ndarray) -> Int32[np.ndarray, " n"]:
        """Return one id a cell, in raster order. Raises ValueError as `grid`, and for pictures that are not uint8."""
        require_bytes(picture)
        self.grid(picture.shape)
        pixels = picture.reshape(1, *picture.shape[:2], self.channels).astype(np.float32) / 127.5 - 1
        with one_thread():
            rounded = np.rint(bounded(np, latents(np, self.weights, pixels, self.stride), self.levels))
        digits = rounded.astype(np.int64) + np.array(self.levels) // 2
        return (digits @ self._places).reshape(-1).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray, shape: Sequence[int]) -> UInt8[np.ndarray, "..."]:
        """Return the picture of ids. Raises ValueError as `grid`, and where their number does not fit."""
        rows, columns, _ = self.grid(shape)
        require(
            len(ids) == rows * columns,
            f"{len(ids)} image ids cannot fill a picture of {shape[0]} x {shape[1]} pixels in {rows} x {columns} cells.",
        )
        digits = np.asarray(ids, np.int64)[:, None] // self._places % np.array(self.levels)
        rounded = (digits - np.array(self.levels) // 2).astype(np.float32).reshape(1, rows, columns, -1)
        with one_thread():
            pixels = pictures(np, self.weights, rounded, self.levels, self.stride)
        return np.rint((pixels + 1) * 127.5).clip(0, 255).astype(np.uint8).reshape(tuple(shape))

    def to_json(self) -> str:
        """Return the JSON form of all but the weights."""
        return json.dumps(
            {"type": "learned", "stride": self.stride, "channels": self.channels, "levels": list(self.levels)}
        )
