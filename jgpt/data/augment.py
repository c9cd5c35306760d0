"""Augmentation: training pictures that vary from epoch to epoch.

Owns the three changes (scale, crop, flip); refuses randomness of its own: the caller's generator decides, so that the
same seed, task, epoch and picture give the same change in any process and after any interruption.
"""

from collections.abc import Iterator

import numpy as np

from jgpt.config import AugmentConfig


def changes(config: AugmentConfig) -> bool:
    """Return whether anything is switched on."""
    return config.scale > 0 or config.crop > 0 or config.flip


def augment(pixels: np.ndarray, config: AugmentConfig, random: np.random.Generator) -> np.ndarray:
    """Return a picture enlarged, moved and mirrored at random, of the same shape and type.

    Args:
        pixels: uint8 [height, width] or [height, width, channel].
        config: what is switched on, and how far it goes.
        random: drawn from in the order scale, crop, flip.
    """
    if config.scale > 0:
        pixels = _enlarge(pixels, 1 + config.scale * random.random(), random)
    if config.crop > 0:
        far = config.crop
        top, left = random.integers(0, 2 * far + 1, 2)
        around = ((far, far), (far, far), (0, 0))[: pixels.ndim]
        pixels = np.pad(pixels, around, mode="edge")[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    if config.flip and random.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels


def views(pixels: np.ndarray, config: AugmentConfig) -> Iterator[np.ndarray]:
    """Yield a picture in every way that `augment` may move and mirror it, as it is first; it is not enlarged."""
    far, (height, width) = config.crop, pixels.shape[:2]
    around = np.pad(pixels, ((far, far), (far, far), (0, 0))[: pixels.ndim], mode="edge")
    places = [(top, left) for top in range(2 * far + 1) for left in range(2 * far + 1)]
    for top, left in sorted(places, key=lambda place: place != (far, far)):
        moved = around[top : top + height, left : left + width]
        yield moved
        if config.flip:
            yield moved[:, ::-1]


def number_of_views(config: AugmentConfig) -> int:
    """Return how many `views` a picture has."""
    return (2 * config.crop + 1) ** 2 * (1 + config.flip)


def _enlarge(pixels: np.ndarray, factor: float, random: np.random.Generator) -> np.ndarray:
    """Return a window of 1 / factor of each side, at a random place, brought back to size by bilinear interpolation."""
    out = pixels.astype(np.float32)
    for axis in (0, 1):
        length = pixels.shape[axis]
        start = random.random() * length * (1 - 1 / factor)
        at = (start + (np.arange(length) + 0.5) / factor - 0.5).clip(0, length - 1)
        low = np.minimum(at.astype(int), max(length - 2, 0))
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (pixels.ndim - 1))
        out = np.moveaxis(out, axis, 0)
        high = np.minimum(low + 1, length - 1)
        out = np.moveaxis(out[low] * (1 - share) + out[high] * share, 0, axis)
    return np.rint(out).astype(np.uint8)
