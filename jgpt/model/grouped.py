"""Products of rows with the matrix of their group, for rows that are sorted by group.

Owns how they are computed on each device: by `jax.lax.ragged_dot` on accelerators (a kernel of its own on TPUs; on GPUs nobody
has looked yet), and block by
block on CPUs, where XLA would multiply every row by every group's matrix (three to six times as long for eight groups).
"""

from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ROWS: Final = 128  # of a block on CPUs, at most


@jax.custom_vjp
def grouped_product(
    x_ND: Float[Array, "N D"], w_EDF: Float[Array, "E D F"], sizes_E: Int[Array, " E"]
) -> Float[Array, "N F"]:
    """Return each row times the matrix of its group; 0 for rows behind the last group.

    Args:
        x_ND: rows, those of the first group first.
        w_EDF: one matrix a group.
        sizes_E: rows of each group; at most N together.
    """
    return _product(x_ND, w_EDF, sizes_E)


# one after the other under vmap, for which ragged_dot has no rule: slices are mapped over, and each device has one of them
@jax.custom_batching.sequential_vmap
def _product(x_ND: Array, w_EDF: Array, sizes_E: Array) -> Array:
    return jax.lax.platform_dependent(x_ND, w_EDF, sizes_E, cpu=_by_blocks, default=jax.lax.ragged_dot)


@jax.custom_batching.sequential_vmap
def _slopes(x_ND: Array, w_EDF: Array, sizes_E: Array, slope_NF: Array) -> tuple[Array, Array]:
    """Return the gradients of rows and matrices."""
    return jax.lax.platform_dependent(
        x_ND, w_EDF, sizes_E, slope_NF, cpu=_slopes_by_blocks, default=_slopes_of_ragged_dot
    )


def _slopes_of_ragged_dot(x_ND: Array, w_EDF: Array, sizes_E: Array, slope_NF: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x_ND, w_EDF: jax.lax.ragged_dot(x_ND, w_EDF, sizes_E), x_ND, w_EDF)[1](slope_NF)


grouped_product.defvjp(
    lambda x_ND, w_EDF, sizes_E: (_product(x_ND, w_EDF, sizes_E), (x_ND, w_EDF, sizes_E)),
    lambda saved, slope_NF: (*_slopes(*saved, slope_NF), None),
)


class _Blocks(NamedTuple):
    """Rows of one group each, in blocks of which the last of a group may be partly empty.

    Attributes:
        group_b: of each block.
        rows_bq: row at each place of each block; N where a place is empty.
        place_N: of each row among the places of all blocks.
        real_N1: false for rows behind the last group.
    """

    group_b: Array
    rows_bq: Array
    place_N: Array
    real_N1: Array


def _blocks(N: int, sizes_E: Array) -> _Blocks:
    E = len(sizes_E)
    q = min(ROWS, max(N // E, 1))
    blocks = N // q + min(E, N)  # each group begins a block, and those that are full need no more than N / q
    ends_E, in_blocks_E = jnp.cumsum(sizes_E), -(-sizes_E // q)
    last_E = jnp.cumsum(in_blocks_E)  # block behind each group's last
    first_E, starts_E = last_E - in_blocks_E, ends_E - sizes_E
    numbers_b = jnp.arange(blocks)
    group_b = jnp.minimum(jnp.searchsorted(last_E, numbers_b, side="right"), E - 1)
    rows_bq = (starts_E[group_b] + (numbers_b - first_E[group_b]) * q)[:, None] + jnp.arange(q)[None, :]
    rows_bq = jnp.where(rows_bq < ends_E[group_b][:, None], rows_bq, N)
    rows_N = jnp.arange(N)
    group_N = jnp.minimum(jnp.searchsorted(ends_E, rows_N, side="right"), E - 1)
    place_N = first_E[group_N] * q + rows_N - starts_E[group_N]
    return _Blocks(group_b, rows_bq, place_N, (rows_N < ends_E[-1])[:, None])


def _cut(x_ND: Array, blocks: _Blocks) -> Array:
    """Return rows in blocks, 0 at empty places."""
    return x_ND.at[blocks.rows_bq].get(mode="fill", fill_value=0)


def _joined(x_bqF: Array, blocks: _Blocks) -> Array:
    """Return the rows of blocks in their order."""
    flat = x_bqF.reshape(-1, x_bqF.shape[-1])
    return jnp.where(blocks.real_N1, flat.at[blocks.place_N].get(mode="clip"), 0)


def _by_blocks(x_ND: Array, w_EDF: Array, sizes_E: Array) -> Array:
    blocks = _blocks(len(x_ND), sizes_E)
    y_bqF = jax.lax.map(lambda block: block[0] @ w_EDF[block[1]], (_cut(x_ND, blocks), blocks.group_b))
    return _joined(y_bqF, blocks)


def _slopes_by_blocks(x_ND: Array, w_EDF: Array, sizes_E: Array, slope_NF: Array) -> tuple[Array, Array]:
    blocks = _blocks(len(x_ND), sizes_E)

    def body(dw_EDF: Array, block: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x_qD, slope_qF, group = block
        own_DF = jnp.matmul(x_qD.T, slope_qF, preferred_element_type=jnp.float32)
        return dw_EDF.at[group].add(own_DF), slope_qF @ w_EDF[group].T

    parts = _cut(x_ND, blocks), _cut(slope_NF, blocks), blocks.group_b
    dw_EDF, dx_bqD = jax.lax.scan(body, jnp.zeros(w_EDF.shape, jnp.float32), parts)
    return _joined(dx_bqD, blocks), dw_EDF.astype(w_EDF.dtype)
