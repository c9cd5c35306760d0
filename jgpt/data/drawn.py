"""Black and white pictures drawn at random from grey ones: what the published likelihoods of binarised MNIST are measured on.

Owns the draw (Salakhutdinov and Murray 2008, section 5: a pixel is white with its brightness as the probability); refuses to
decide when a picture is drawn anew, which is the task's.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from jgpt.data.examples import Picture, Splits

SEED: Final = 0  # the same for every run, so that all are scored on the same pictures


def draw(brightness: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return uint8 0 or 255 in every channel of every pixel, 255 with probability `brightness` / 255."""
    return np.where(random.random(brightness.shape) * 255 < brightness, np.uint8(255), np.uint8(0))


def drawn(splits: Splits) -> Splits:
    """Return splits whose pictures are drawn once, each by its place, and remember what they were drawn from."""

    def part(number: int, examples: Sequence[Any]) -> list[Any]:
        return [
            replace(e, pixels=draw(e.pixels, np.random.default_rng((SEED, number, i))), brightness=e.pixels)
            if isinstance(e, Picture)
            else e
            for i, e in enumerate(examples)
        ]

    return replace(splits, train=part(0, splits.train), validation=part(1, splits.validation), baselines={})
