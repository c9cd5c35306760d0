"""The key-value cache: an explicit argument and result of `gpt.apply`, never a hidden collection.

A layer without a window keeps every token: slot t of a row holds the key and value of the token at position t, so prompts
of different lengths need no shifting. A layer with a window keeps a ring of little more than the window, however long the
row: position p stands in slot p mod R, where it replaces what no later query may see. Which position a slot holds follows
from the row's newest one, so nothing is stored besides keys and values, and a row may go back: up to `SLACK` + 1 tokens fed
at once may be taken back by feeding others at their positions. Padding is left out, since in a ring it would replace tokens.

Heads stand before slots, so that the keys of a head lie together: XLA:CPU otherwise copies the whole cache of a layer to
multiply it (attention of 12 layers of GPT-2, 8 rows of 256 tokens, two cores of an AMD EPYC: 17 ms a token, 109 before).

In int8 a layer keeps 127 levels on either side of zero and a scale for each token and head. What is fed is seen as it is
kept, by itself and by others, so that a prompt fed at once, in pieces or token by token gives the same.

Here T counts the slots of a layer, R those of a ring.
"""

from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from jgpt.config import ModelConfig
from jgpt.model.quantised import to_levels
from jgpt.model.visibility import Visibility

SLACK: Final = 16  # tokens that a ring keeps beyond its window, so that as many can be fed and taken back at once
NOWHERE: Final = 2**30  # position of an empty slot: later than every query, so seen by none


class LayerCache(NamedTuple):
    """Keys and values of one layer, or of some tokens."""

    k_BGTK: Float[Array, "B G T K"]
    v_BGTK: Float[Array, "B G T K"]

    def like(self, k_BSGK: Float[Array, "B S G K"], v_BSGK: Float[Array, "B S G K"]) -> "LayerCache":
        """Return keys and values as they are kept here."""
        k_BGSK, v_BGSK = (jnp.swapaxes(x, 1, 2).astype(self.k_BGTK.dtype) for x in (k_BSGK, v_BSGK))
        return LayerCache(k_BGSK, v_BGSK)

    def read(self, dtype: jnp.dtype) -> tuple[Float[Array, "B G T K"], Float[Array, "B G T K"]]:
        """Return keys and values in a type of compute."""
        return self.k_BGTK.astype(dtype), self.v_BGTK.astype(dtype)


class Int8LayerCache(NamedTuple):
    """The same in int8: levels, and the scale of one level for each token and head."""

    k_BGTK: Int8[Array, "B G T K"]
    v_BGTK: Int8[Array, "B G T K"]
    k_scale_BGT: Float[Array, "B G T"]
    v_scale_BGT: Float[Array, "B G T"]

    def like(self, k_BSGK: Float[Array, "B S G K"], v_BSGK: Float[Array, "B S G K"]) -> "Int8LayerCache":
        """Return keys and values rounded to levels."""
        (k_levels, k_scale), (v_levels, v_scale) = (to_levels(jnp.swapaxes(x, 1, 2)) for x in (k_BSGK, v_BSGK))
        return Int8LayerCache(k_levels, v_levels, k_scale, v_scale)

    def read(self, dtype: jnp.dtype) -> tuple[Float[Array, "B G T K"], Float[Array, "B G T K"]]:
        """Return keys and values in a type of compute."""
        pairs = ((self.k_BGTK, self.k_scale_BGT), (self.v_BGTK, self.v_scale_BGT))
        k_BGTK, v_BGTK = ((levels.astype(jnp.float32) * scale[..., None]).astype(dtype) for levels, scale in pairs)
        return k_BGTK, v_BGTK


class Cache(NamedTuple):
    """What decoding remembers of a row.

    Attributes:
        tokens_BT: the ids themselves, for n-grams and the convolution of embeddings; never a ring.
        layers: keys and values, one entry a layer.
    """

    tokens_BT: Int[Array, "B T"]
    layers: tuple[LayerCache | Int8LayerCache, ...]


def init_cache(cfg: ModelConfig, batch: int, length: int, dtype: jnp.dtype | str) -> Cache:
    """Return an empty cache of `length` slots [tokens] for `batch` rows; layers with windows keep fewer."""

    def empty(layer: int) -> LayerCache | Int8LayerCache:
        shape = (batch, cfg.kv_heads, slots(cfg.window_of(layer), length), cfg.width_of_head)
        k_BGTK, v_BGTK = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
        if k_BGTK.dtype == jnp.int8:
            return Int8LayerCache(
                k_BGTK, v_BGTK, jnp.zeros(shape[:-1], jnp.float32), jnp.zeros(shape[:-1], jnp.float32)
            )
        return LayerCache(k_BGTK, v_BGTK)

    return Cache(jnp.zeros((batch, length), jnp.int32), tuple(empty(layer) for layer in range(cfg.depth)))


def slots(window: int | None, length: int) -> int:
    """Return how many tokens a layer keeps of rows of `length` [tokens]: all, or its window and `SLACK`, in whole eights."""
    return length if window is None else min(length, -(-(window + SLACK) // 8) * 8)


def recall(
    cache: LayerCache | Int8LayerCache,
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    visible: Visibility,
    fresh: bool,
) -> tuple[Float[Array, "B G T K"], Float[Array, "B G T K"], Visibility, LayerCache | Int8LayerCache]:
    """Return the keys and values that queries may look at, who sees whom among them, and the cache with the new ones.

    Args:
        cache: of the layer.
        k_BSGK: keys of the tokens that are fed.
        v_BSGK: values of them.
        visible: who sees whom where every slot is its own position.
        fresh: the cache is empty; the tokens see each other alone.
    """
    S, R, window, dtype = k_BSGK.shape[1], cache.k_BGTK.shape[2], visible.window, k_BSGK.dtype
    own = cache.like(k_BSGK, v_BSGK)
    new, visible = update(cache, own, visible), visible._replace(q_real_BS=None)
    if fresh:
        return *own.read(dtype), visible, new
    if window is None or R == visible.kv_positions_BT.shape[1]:
        return *new.read(dtype), visible, new
    if S <= R - window + 1:  # what the new tokens replace lies before the window of the first of them
        held_BR = ring_positions(visible.q_positions_BS[:, -1], R)
        return *new.read(dtype), visible._replace(kv_positions_BT=held_BR), new
    held_BR = ring_positions(visible.q_positions_BS[:, 0] - 1, R)
    both = zip(cache.read(dtype), own.read(dtype), strict=True)
    k_BGTK, v_BGTK = (jnp.concatenate(pair, axis=2) for pair in both)
    held_BT = jnp.concatenate([held_BR, visible.q_positions_BS], axis=1)
    return k_BGTK, v_BGTK, visible._replace(kv_positions_BT=held_BT), new


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
    cache: LayerCache | Int8LayerCache, own: LayerCache | Int8LayerCache, visible: Visibility
) -> LayerCache | Int8LayerCache:
    """Return `cache` with S tokens' `own` keys and values in their slots; in a ring the newest that it has room for.

    What is not real is dropped: padding, and positions past the end of the row.
    """
    size, positions_BS, real_BS = cache.k_BGTK.shape[2], visible.q_positions_BS, visible.q_real_BS
    slot_BS = positions_BS
    if visible.window is not None:
        slot_BS = positions_BS % size
        if positions_BS.shape[1] > size:
            last_BS = positions_BS if real_BS is None else jnp.where(real_BS, positions_BS, -1)
            slot_BS = _unless(positions_BS <= last_BS.max(-1, keepdims=True) - size, slot_BS, size)
    if real_BS is not None:
        slot_BS = _unless(~real_BS, slot_BS, size)
    # one index a head: a single index for all heads becomes a slice in XLA, before which XLA:CPU copies the cache
    rows_B11 = jnp.arange(positions_BS.shape[0])[:, None, None]
    heads_1G1 = jnp.arange(cache.k_BGTK.shape[1])[None, :, None]
    slot_B1S = slot_BS[:, None, :]
    return jax.tree.map(lambda kept, new: kept.at[rows_B11, heads_1G1, slot_B1S].set(new, mode="drop"), cache, own)


def _unless(dropped_BS: Bool[Array, "B S"], slot_BS: Int[Array, "B S"], size: int) -> Int[Array, "B S"]:
    """Return `slot_BS`, but past the end where nothing is to be written."""
    return jnp.where(dropped_BS, size, slot_BS)
