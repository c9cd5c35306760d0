"""Weights in int8: a quarter of the bytes of f32, with one factor for each output of a matrix.

Owns `Int8Rows`, how a matrix becomes it and how tokens are multiplied by it. Symmetric rounding to the nearest of 255
levels: weight = level * scale, scale = largest weight of the row / 127 (Jacob et al. 2018, section 2.1, with zero point 0).
For inference alone: nothing here has a gradient. Refuses to know which parameters are matrices (`matrices`). Here V counts
the outputs of a matrix and D its inputs.
"""

from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

LEVELS: Final = 127  # of int8 on either side of zero; -128 is not used, so that the levels are symmetric
# Rows up to which a CPU multiplies in int8. XLA:CPU would otherwise make an f32 copy of the weights outside the decoding
# loop, and read that. Processor time against f32, weights of 768 x 3,072, two cores of an AMD EPYC with other work beside
# it: 0.74 at one row, 0.37 at 4, 0.59 at 8, 0.79 at 16 and 0.78 at 32, where the copy takes 0.71.
FEW_ROWS: Final = 16
PART: Final = 128  # an activation is rounded to 15 bits, and they are multiplied as two digits of this base


class Int8Rows(NamedTuple):
    """A matrix whose rows, one an output, are int8 with a factor each.

    Attributes:
        levels: of the weights, perhaps a stack of matrices; outputs come first, since integer products are fastest along
            a row.
        scale: factor of each row.
    """

    levels: Int8[Array, "*A D"]
    scale: Float[Array, "*A"]

    def dense(self) -> Float[Array, "D V"]:
        """Return the matrix by which inputs are multiplied, in f32."""
        return (self.levels.astype(jnp.float32) * self.scale[:, None]).T


def quantise(matrix: Float[Array, "*A D V"]) -> Int8Rows:
    """Return a matrix, or a stack of them, by which inputs are multiplied from the left, in int8."""
    return Int8Rows(*to_levels(jnp.swapaxes(matrix, -1, -2)))


def to_levels(x: Float[Array, "*A K"]) -> tuple[Int8[Array, "*A K"], Float[Array, "*A"]]:
    """Return x as int8 levels and what one level is worth, the same along the last axis."""
    x32 = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x32), axis=-1) / LEVELS
    return jnp.round(x32 / jnp.where(scale > 0, scale, 1.0)[..., None]).astype(jnp.int8), scale


def multiply(x_ND: Float[Array, "N D"], rows: Int8Rows) -> Float[Array, "N V"]:
    """Return x times the matrix, summed in f32 or exactly."""
    if x_ND.shape[0] > FEW_ROWS:
        return _in_floats(x_ND, rows)
    return jax.lax.platform_dependent(x_ND, rows, cpu=_in_integers, default=_in_floats)


def _in_floats(x_ND: Array, rows: Int8Rows) -> Array:
    product_NV = jax.lax.dot_general(
        x_ND, rows.levels.astype(x_ND.dtype), (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    return product_NV * rows.scale[None, :]


def _in_integers(x_ND: Array, rows: Int8Rows) -> Array:
    """Round each input to 15 bits of its row's largest and multiply both digits in int8, with sums in int32."""
    x32_ND = x_ND.astype(jnp.float32)
    most = LEVELS * PART
    unit_N1 = jnp.max(jnp.abs(x32_ND), axis=-1, keepdims=True) / most
    whole_ND = jnp.round(x32_ND / jnp.where(unit_N1 > 0, unit_N1, 1.0))
    high_ND = jnp.floor((whole_ND + PART // 2) / PART)
    digits = jnp.concatenate([high_ND, whole_ND - high_ND * PART]).astype(jnp.int8)
    sums = jax.lax.dot_general(digits, rows.levels, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32).astype(
        jnp.float32
    )
    high_NV, low_NV = jnp.split(sums, 2)
    return (high_NV * PART + low_NV) * unit_N1 * rows.scale[None, :]
