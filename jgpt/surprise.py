"""Surprise: how many bits each pixel of a picture costs under the model, by one exact forward pass.

Owns the way from a model's logits to bits at their places in the picture. The sums are those of `evaluate`: over a held-out
split they add up to its bits per dim.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgpt import sheet
from jgpt.batch import PADDING_SEGMENT, Document
from jgpt.check import require
from jgpt.config import ModelConfig
from jgpt.data.examples import Picture
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.tasks.image import ImageTask

if TYPE_CHECKING:
    from PIL import Image

LOGITS_AT_ONCE: Final = 1 << 24  # of a batch of rows: 64 MiB in f32


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


def token_nats(model: GPT, documents: Sequence[Document]) -> list[np.ndarray]:
    """Return the negative log-likelihood [nats] of every token of each document but the first, given those before it.

    Raises:
        ValueError: a document is longer than the context.
    """
    context = model.model.context_length
    longest = max(len(document.tokens) for document in documents) - 1
    require(
        longest <= context,
        f"a document has {longest + 1} tokens, model.context_length is {context}: it was trained on shorter ones; shorten it.",
    )
    vocab = model.model.vocab_size or model.tokenizer.size
    rows = max(1, min(len(documents), LOGITS_AT_ONCE // (longest * vocab)))
    run = _compiled(model.model)
    out = []
    for start in range(0, len(documents), rows):
        part = documents[start : start + rows]
        tokens_BS, targets_BS, segments_BS = (np.full((rows, longest), PADDING_SEGMENT, np.int32) for _ in range(3))
        for row, document in enumerate(part):
            ids = document.tokens.astype(np.int32) + document.offset
            here = slice(0, len(ids) - 1)
            tokens_BS[row, here], targets_BS[row, here], segments_BS[row, here] = ids[:-1], ids[1:], PADDING_SEGMENT + 1
        nats_BS = jax.device_get(run(model.params, tokens_BS, targets_BS, segments_BS))
        out += [nats_BS[row, : len(document.tokens) - 1] for row, document in enumerate(part)]
    return out


def surprise(model: GPT, name: str, pictures: Sequence[Picture]) -> list[Surprise]:
    """Return the surprise of each picture given its caption.

    Raises:
        ValueError: the task draws no pictures, or a picture is not of the run's shape.
    """
    task = model.tasks[name]
    if not isinstance(task, ImageTask):
        raise ValueError(f"task {name!r} is of kind {task.kind!r}: only pictures have a map of surprise.")
    documents = [task.encode(picture) for picture in pictures]
    out = []
    for picture, document, nats in zip(pictures, documents, token_nats(model, documents), strict=True):
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


@cache
def _compiled(cfg: ModelConfig) -> Any:
    """Return the jitted function behind `token_nats`, one a config."""
    return jax.jit(partial(_nats, cfg))


def _nats(
    cfg: ModelConfig,
    params: Any,
    tokens_BS: Int[Array, "B S"],
    targets_BS: Int[Array, "B S"],
    segments_BS: Int[Array, "B S"],
) -> Float[Array, "B S"]:
    """Return -log softmax(logits)[target] at every position."""
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1], dtype=jnp.int32)[None, :], tokens_BS.shape)
    logits_BSV, _ = gpt.apply(cfg, params, tokens_BS, positions_BS, segments_BS)
    target_BS = jnp.take_along_axis(logits_BSV, targets_BS[:, :, None], axis=-1)[:, :, 0]
    return jax.nn.logsumexp(logits_BSV, axis=-1) - target_BS
