"""The key-value cache: an explicit argument and result of `gpt.apply`, never a hidden collection.

A layer without a window keeps every token: slot t of a row holds the key and value of the token at position t, so prompts
of different lengths need no shifting. A layer with a window keeps a ring of little more than the window, however long the
row: position p stands in slot p mod R, where it replaces what no later query may see. Which position a slot holds follows
from the row's newest one, so nothing is stored besides keys and values, and a row may go back: up to `SLACK` + 1 tokens fed
at once may be taken back by feeding others at their positions. Padding is left out of rings, where it would replace tokens.

Here T counts the slots of a layer, R those of a ring.
"""

from typing import Final, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jgpt.config import ModelConfig
from jgpt.model.visibility import Visibility

SLACK: Final = 16  # tokens that a ring keeps beyond its window, so that as many can be fed and taken back at once
NOWHERE: Final = 2**30  # position of an empty slot: later than every query, so seen by none


class LayerCache(NamedTuple):
    """Keys and values of one layer."""

    k_BTGK: Float[Array, "B T G K"]
    v_BTGK: Float[Array, "B T G K"]


class Cache(NamedTuple):
    """What decoding remembers of a row.

    Attributes:
        tokens_BT: the ids themselves, for n-gram embeddings; never a ring.
        layers: keys and values, one entry a layer.
    """

    tokens_BT: Int[Array, "B T"]
    layers: tuple[LayerCache, ...]


def init_cache(cfg: ModelConfig, batch: int, length: int, dtype: jnp.dtype | str) -> Cache:
    """Return an empty cache of `length` slots [tokens] for `batch` rows; layers with windows keep fewer."""

    def empty(layer: int) -> LayerCache:
        shape = (batch, slots(cfg.window_of(layer), length), cfg.kv_heads, cfg.width_of_head)
        return LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    return Cache(jnp.zeros((batch, length), jnp.int32), tuple(empty(layer) for layer in range(cfg.num_layers)))


def slots(window: int | None, length: int) -> int:
    """Return how many tokens a layer keeps of rows of `length` [tokens]: all, or its window and `SLACK`, in whole eights."""
    return length if window is None else min(length, -(-(window + SLACK) // 8) * 8)


def recall(
    cache: LayerCache,
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    visible: Visibility,
    fresh: bool,
) -> tuple[Float[Array, "B T G K"], Float[Array, "B T G K"], Visibility, LayerCache]:
    """Return the keys and values that queries may look at, who sees whom among them, and the cache with the new ones.

    Args:
        cache: of the layer.
        k_BSGK: keys of the tokens that are fed.
        v_BSGK: values of them.
        visible: who sees whom where every slot is its own position.
        fresh: the cache is empty; the tokens see each other alone.
    """
    S, R, window = k_BSGK.shape[1], cache.k_BTGK.shape[1], visible.window
    new, visible = update(cache, k_BSGK, v_BSGK, visible), visible._replace(q_real_BS=None)
    if fresh:
        return k_BSGK, v_BSGK, visible, new
    if window is None or R == visible.kv_positions_BT.shape[1]:
        return *(a.astype(k_BSGK.dtype) for a in new), visible, new
    if S <= R - window + 1:  # what the new tokens replace lies before the window of the first of them
        held_BR = ring_positions(visible.q_positions_BS[:, -1], R)
        return *(a.astype(k_BSGK.dtype) for a in new), visible._replace(kv_positions_BT=held_BR), new
    held_BR = ring_positions(visible.q_positions_BS[:, 0] - 1, R)
    k_BTGK, v_BTGK = (
        jnp.concatenate([old.astype(own.dtype), own], axis=1) for old, own in zip(cache, (k_BSGK, v_BSGK), strict=True)
    )
    held_BT = jnp.concatenate([held_BR, visible.q_positions_BS], axis=1)
    return k_BTGK, v_BTGK, visible._replace(kv_positions_BT=held_BT), new


def ring_positions(newest_B: Int[Array, " B"], size: int) -> Int[Array, "B R"]:
    """Return the position that each slot of a ring holds when the row's newest token stands at `newest_B`.

    Worked example, 4 slots and 6 tokens fed, the newest at position 5: the slots hold 4 5 2 3. With 2 tokens: 0 1 and two
    empty ones. After a step back from 5 to 4 slot 1 still holds 5, and is taken for 1, which lies before every window that
    `slots` made room for.
    """
    slot_1R = jnp.arange(size, dtype=newest_B.dtype)[None, :]
    position_BR = newest_B[:, None] - (newest_B[:, None] - slot_1R) % size
    return jnp.where(position_BR < 0, NOWHERE, position_BR)


def update(
    cache: LayerCache, k_BSGK: Float[Array, "B S G K"], v_BSGK: Float[Array, "B S G K"], visible: Visibility
) -> LayerCache:
    """Return `cache` with the keys and values of S tokens in their slots; in a ring the newest that it has room for.

    Positions past the end are dropped where there is no window; padding is dropped everywhere.
    """
    size, positions_BS, real_BS = cache.k_BTGK.shape[1], visible.q_positions_BS, visible.q_real_BS
    slot_BS = positions_BS
    if visible.window is not None:
        slot_BS = positions_BS % size
        if k_BSGK.shape[1] > size:
            last_BS = positions_BS if real_BS is None else jnp.where(real_BS, positions_BS, -1)
            slot_BS = _unless(positions_BS <= last_BS.max(-1, keepdims=True) - size, slot_BS, size)
    if real_BS is not None:
        slot_BS = _unless(~real_BS, slot_BS, size)
    rows_B1 = jnp.arange(k_BSGK.shape[0])[:, None]
    return LayerCache(
        *(
            old.at[rows_B1, slot_BS].set(own.astype(old.dtype), mode="drop")
            for old, own in zip(cache, (k_BSGK, v_BSGK), strict=True)
        )
    )


def _unless(dropped_BS: Bool[Array, "B S"], slot_BS: Int[Array, "B S"], size: int) -> Int[Array, "B S"]:
    """Return `slot_BS`, but past the end where nothing is to be written."""
    return jnp.where(dropped_BS, size, slot_BS)
