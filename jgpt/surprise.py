"""Surprise: how many bits each pixel of a picture costs under the model, by one exact forward pass.

Owns the way from a model's logits to bits at their places in the picture. The sums are those of `evaluate`: over a held-out
split they add up to its bits per dim.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from jgpt import sheet
from jgpt.check import require
from jgpt.data.examples import Picture
from jgpt.data.packing import pack
from jgpt.likelihood import token_nats
from jgpt.loaded import GPT
from jgpt.tasks.image import ImageTask

if TYPE_CHECKING:
    from PIL import Image

ROWS_AT_ONCE: Final = 16  # logits are made piece by piece, so that rows need little memory


@dataclass(frozen=True)
class Surprise:
    """What a picture costs.

    Attributes:
        bits: of each pixel [bits], [height, width], summed over its channels; a code that covers several pixels is shared
            out evenly among them.
        end_bits: of the end of the picture, which is part of a complete code [bits].
        bits_per_token: all of them over the ids of the picture and its end.
        bits_per_dim: all of them over pixels times channels, as `evaluate` counts; None where the code loses any of the
            picture, since they would be bits of another one.
    """

    bits: np.ndarray
    end_bits: float
    bits_per_token: float
    bits_per_dim: float | None


def surprise(model: GPT, name: str, pictures: Sequence[Picture]) -> list[Surprise]:
    """Return the surprise of each picture given its caption.

    Raises:
        ValueError: the task draws no pictures, or a picture is not of the run's shape.
    """
    task = model.tasks[name]
    if not isinstance(task, ImageTask):
        raise ValueError(f"task {name!r} is of kind {task.kind!r}: only pictures have a map of surprise.")
    rows = pack([task.encode(picture) for picture in pictures], task.packing, model.model.context_length)
    found = token_nats(model.model, model.params, rows, batch_size=min(len(rows), ROWS_AT_ONCE))
    out = []
    for picture, document, nats in zip(pictures, rows.documents, found, strict=True):
        trained = np.ones(len(nats), bool) if document.weights is None else document.weights[1:] > 0
        bits = nats[trained].astype(np.float64) / math.log(2)
        pixels = on_pixels(bits[:-1], picture.pixels.shape)
        dimensions, total = task.dimensions(picture), float(bits.sum())
        per_dim = None if dimensions is None else total / dimensions
        out.append(Surprise(pixels, float(bits[-1]), total / len(bits), per_dim))
    return out


def mean(found: Sequence[Surprise]) -> tuple[float, str]:
    """Return the mean over pictures and its unit: bits per dim, or bits per token where the code loses any of them."""
    per_dim = [item.bits_per_dim for item in found if item.bits_per_dim is not None]
    if len(per_dim) == len(found):
        return sum(per_dim) / len(found), "bits per dim"
    return sum(item.bits_per_token for item in found) / len(found), "bits per token"


def on_pixels(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the bits of codes at the pixels they stand for, [height, width]; the sum stays what it is.

    Codes run in raster order: one a channel of each pixel, one a pixel, or one a block of pixels.

    Raises:
        ValueError: so many codes fit none of these.
    """
    height, width = shape[:2]
    channels = shape[2] if len(shape) == 3 else 1
    if len(bits) in (height * width, height * width * channels):
        return bits.reshape(height, width, -1).sum(-1)
    side = math.isqrt(max(height * width // len(bits), 1))
    require(
        height % side == 0 and width % side == 0 and len(bits) * side * side == height * width,
        f"{len(bits)} codes cover a picture of {height} x {width} pixels and {channels} channels in no square blocks: "
        "its surprise has no map.",
    )
    blocks = bits.reshape(height // side, width // side) / side**2
    return blocks.repeat(side, axis=0).repeat(side, axis=1)


def sheet_of(pictures: Sequence[Picture], found: Sequence[Surprise]) -> "Image.Image":
    """Return each picture beside its map, all maps on one scale of colours from 0 to the largest surprise."""
    high = max(float(item.bits.max()) for item in found)
    rows = [
        sheet.Row(
            "{}\n{:.2f} {}".format(picture.caption, *mean([item])).strip(),
            ((picture.pixels,), (sheet.colours(item.bits, 0, high),)),
        )
        for picture, item in zip(pictures, found, strict=True)
    ]
    side = 224 if len(rows) <= 4 else 112
    return sheet.with_colour_bar(sheet.sheet(("picture", "surprise"), rows, side), 0, high, "bits per pixel")
