"""Training of the learned image code: its loss, one jitted step, and what is measured at the end.

Owns the optimisation alone. The network and the saved form are `jgpt.tokenizers.image_learned`'s, files and printing are
the verb's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jgpt.check import require
from jgpt.config import AugmentConfig
from jgpt.data.augment import augment
from jgpt.tokenizers import image_learned
from jgpt.tokenizers.image_code import Loss, loses
from jgpt.tokenizers.image_learned import Learned

ABSOLUTE: Final = 0.1  # weight of the absolute error beside the squared one: edges are sharper for it
SLOPES: Final = 0.5  # weight of the squared error of differences between neighbours


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a learned code is trained."""

    stride: int = 4
    """Pixels to a cell, each way: a picture of 64 x 64 has 16 x 16 tokens at 4, 8 x 8 at 8."""
    codes: int = 1000
    """Ids: one of the keys of LEVELS."""
    width: int = 64
    """Channels inside the network."""
    blocks: int = 2
    """Residual blocks of the encoder, and of the decoder."""
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 4e-3
    flip: bool = True
    """Half of the pictures are mirrored left to right."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.codes in image_learned.LEVELS,
            f"codes is {self.codes}: use one of {', '.join(map(str, image_learned.LEVELS))}.",
        )
        for name in ("stride", "width", "blocks", "steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: must be at least 1.")
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}: must be positive.")


@dataclass(frozen=True)
class Measured:
    """What a learned code does on pictures it was not trained on.

    Attributes:
        loss: what it loses.
        used: share of the ids that occur.
    """

    loss: Loss
    used: float


def loss_of(
    weights: dict[str, Array], pixels: Float[Array, "batch height width channel"], levels: tuple[int, ...], stride: int
) -> Float[Array, ""]:
    """Return the mean squared error, plus a little of the absolute error and of the error of slopes.

    Rounding passes its gradient straight through (Mentzer et al. 2023, section 3).
    """
    numbers = image_learned.bounded(jnp, image_learned.latents(jnp, weights, pixels, stride), levels)
    rounded = numbers + jax.lax.stop_gradient(jnp.round(numbers) - numbers)
    wrong = image_learned.pictures(jnp, weights, rounded, levels, stride) - pixels
    slopes = sum(jnp.mean(jnp.diff(wrong, axis=axis) ** 2) for axis in (1, 2) if wrong.shape[axis] > 1)
    return jnp.mean(wrong**2) + ABSOLUTE * jnp.mean(jnp.abs(wrong)) + SLOPES * slopes


def fit(
    pictures: Sequence[np.ndarray], config: FitConfig, say: Callable[[int, float], None] = lambda step, loss: None
) -> Learned:
    """Return a code trained on pictures of one shape.

    Args:
        pictures: uint8 [height, width] or [height, width, 3].
        config: how.
        say: called after every step with its number, from 1, and the loss.

    Raises:
        ValueError: the pictures have no whole number of cells.
        FloatingPointError: the loss is no longer a number.
    """
    shape, levels = pictures[0].shape, image_learned.LEVELS[config.codes]
    channels = 1 if len(shape) == 2 else shape[-1]
    weights = image_learned.init(config.stride, channels, levels, config.width, config.blocks, config.seed)
    Learned(weights, config.stride, channels, levels).grid(shape)
    schedule = optax.warmup_cosine_decay_schedule(
        0, config.learning_rate, min(30, config.steps // 10 + 1, config.steps - 1), config.steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @jax.jit
    def step(weights: Any, moments: Any, pixels: Float[Array, "batch height width channel"]) -> tuple[Any, Any, Array]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, pixels, levels, config.stride)
        updates, moments = optimizer.update(gradients, moments, weights)
        return optax.apply_updates(weights, updates), moments, loss

    random = np.random.default_rng(config.seed)
    changed = AugmentConfig(flip=config.flip)
    weights = {name: jnp.asarray(array) for name, array in weights.items()}
    moments = optimizer.init(weights)
    for number in range(1, config.steps + 1):
        chosen = random.integers(0, len(pictures), config.batch_size)
        batch = np.stack([augment(pictures[i], changed, random) for i in chosen])
        pixels = batch.reshape(*batch.shape[:3], channels).astype(np.float32) / 127.5 - 1
        weights, moments, loss = step(weights, moments, jnp.asarray(pixels))
        value = float(loss)
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {number}: use a learning_rate (--learning-rate) below {config.learning_rate:g}."
            )
        say(number, value)
    trained = {name: np.asarray(array) for name, array in weights.items()}
    return Learned(trained, config.stride, channels, levels, image_learned.marks(pictures))


def measure(code: Learned, pictures: Sequence[np.ndarray]) -> Measured:
    """Return what `code` does on pictures, through the NumPy encoder that runs will use."""
    seen = np.unique(np.concatenate([code.encode(picture) for picture in pictures]))
    return Measured(loses(code, pictures), len(seen) / code.size)
