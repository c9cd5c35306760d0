"""Rotary positions: by how much each pair of channels turns, along a text and over the two dimensions of a picture.

Owns the angles, the turn itself, and where in the plane a token stands. Holds no parameters; pictures are found in the
tokens themselves, so that training, prefill and cached decoding need nothing but ids and positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.config import ModelConfig, PictureGrid
from jgpt.model import context


class Rotary(NamedTuple):
    """Cosine and sine of the angle by which each pair of channels turns at each position."""

    cos_BS1k: Float[Array, "B S 1 k"]
    sin_BS1k: Float[Array, "B S 1 k"]


def rotary(
    cfg: ModelConfig,
    positions_BS: Int[Array, "B S"],
    tokens_BS: Int[Array, "B S"],
    cached_BT: Int[Array, "B T"] | None = None,
) -> Rotary | None:
    """Return the turns of these tokens in the order of `context.spread`, the same in all layers; None where not rotary.

    Pair k of n = rotary_fraction K/2 turns by position * rope_base^(-k/n) (Su et al. 2021, equation 15); the others keep
    their values at every distance, so that content can be matched exactly (GPT-NeoX, Black et al. 2022, turns a quarter).
    In two dimensions even pairs turn by the row and odd ones by the column (see `plane`), so that both have slow and fast
    pairs; Qwen2-VL (Wang et al. 2024, section 2.1) gives each a stretch of neighbouring pairs instead.

    Args:
        cfg: a resolved config.
        positions_BS: position of each token in its document.
        tokens_BS: ids.
        cached_BT: ids by position, these tokens included; None in training, where the row itself holds them.
    """
    if cfg.positions not in ("rotary", "rotary_2d"):
        return None
    half = cfg.width_of_head // 2
    turned = round(half * cfg.rotary_fraction)
    frequency_k = jnp.where(jnp.arange(half) < turned, cfg.rope_base ** (-jnp.arange(half) / max(turned, 1)), 0.0)
    if cfg.positions == "rotary_2d" and cfg.picture is not None:
        row_BS, column_BS = plane(cfg.picture, positions_BS, tokens_BS, cached_BT)
        by_row_111k = (jnp.arange(half) % 2 == 0)[None, None, None, :]
        row_BS, column_BS = context.spread(row_BS), context.spread(column_BS)
        place_BS1k = jnp.where(by_row_111k, row_BS[:, :, None, None], column_BS[:, :, None, None])
    else:
        place_BS1k = context.spread(positions_BS)[:, :, None, None]
    angle_BS1k = place_BS1k.astype(jnp.float32) * frequency_k[None, None, None, :]
    # kept from being fused into every layer: XLA:CPU would compute them again for each
    return Rotary(*jax.lax.optimization_barrier((jnp.cos(angle_BS1k), jnp.sin(angle_BS1k))))


def plane(
    picture: PictureGrid,
    positions_BS: Int[Array, "B S"],
    tokens_BS: Int[Array, "B S"],
    cached_BT: Int[Array, "B T"] | None = None,
) -> tuple[Int[Array, "B S"], Int[Array, "B S"]]:
    """Return the row and the column of each token.

    A token of text has its position for both. The cell (r, c) of a picture whose first token has position p has row p + r
    and column p + c, all tokens of a cell alike: their ids tell them apart. Worked example, a picture of 2 x 2 behind one
    token of caption: `<|caption|> 7 <|image|> a b c d <|endofimage|>` has rows 0 1 2 3 3 4 4 7 and columns
    0 1 2 3 4 3 4 7.

    Args:
        picture: marker and shape of pictures.
        positions_BS: position of each token in its document; documents lie in one piece and begin at 0.
        tokens_BS: ids.
        cached_BT: as in `rotary`.
    """
    ids_BT = tokens_BS if cached_BT is None else cached_BT
    here_1T = jnp.arange(ids_BT.shape[1], dtype=jnp.int32)[None, :]
    last_BT = jax.lax.cummax(jnp.where(ids_BT == picture.start_id, here_1T, -1), axis=1)  # marker at or before
    if cached_BT is None:
        last_BS, here_BS = last_BT, here_1T
    else:
        last_BS, here_BS = jnp.take_along_axis(last_BT, positions_BS, axis=1, mode="clip"), positions_BS
    offset_BS = here_BS - last_BS - 1  # among the picture's tokens; -1 at the marker itself
    first_BS = positions_BS - offset_BS  # 1 or more, unless the marker stands in an earlier document or nowhere
    cell_BS = offset_BS // picture.tokens_per_cell
    inside_BS = (last_BS >= 0) & (first_BS >= 1) & (offset_BS >= 0) & (cell_BS < picture.cells)
    row_BS = jnp.where(inside_BS, first_BS + cell_BS // picture.width, positions_BS)
    column_BS = jnp.where(inside_BS, first_BS + cell_BS % picture.width, positions_BS)
    return row_BS, column_BS


def rotate(x_BSHK: Float[Array, "B S H K"], turn: Rotary) -> Float[Array, "B S H K"]:
    """Turn channel k with channel k + K/2 (the half-split layout)."""
    half = x_BSHK.shape[-1] // 2
    low_BSHk, high_BSHk = x_BSHK[..., :half].astype(jnp.float32), x_BSHK[..., half:].astype(jnp.float32)
    parts = (
        low_BSHk * turn.cos_BS1k - high_BSHk * turn.sin_BS1k,
        high_BSHk * turn.cos_BS1k + low_BSHk * turn.sin_BS1k,
    )
    return jnp.concatenate(parts, axis=-1).astype(x_BSHK.dtype)
