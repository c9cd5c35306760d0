"""The key-value cache: an explicit argument and result of `gpt.apply`, never a hidden collection.

Slot t of a row holds the key and value of the token at position t, so prompts of different lengths need no shifting:
padding behind a short prompt writes slots that later tokens overwrite before any query may see them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.config import ModelConfig


class LayerCache(NamedTuple):
    """Keys and values of one layer."""

    k_BTGK: Float[Array, "B T G K"]
    v_BTGK: Float[Array, "B T G K"]


class Cache(NamedTuple):
    """What decoding remembers of a row.

    Attributes:
        tokens_BT: the ids themselves, for n-gram embeddings.
        layers: keys and values, one entry a layer.
    """

    tokens_BT: Int[Array, "B T"]
    layers: tuple[LayerCache, ...]


def init_cache(cfg: ModelConfig, batch: int, length: int, dtype: jnp.dtype | str) -> Cache:
    """Return an empty cache of `length` slots [tokens] for `batch` rows."""
    shape = (batch, length, cfg.kv_heads, cfg.width_of_head)
    layers = tuple(LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(cfg.depth))
    return Cache(jnp.zeros((batch, length), jnp.int32), layers)


def update(
    cache: LayerCache,
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    positions_BS: Int[Array, "B S"],
) -> LayerCache:
    """Return `cache` with the keys and values of S tokens written at their positions; positions past the end are dropped."""
    rows_B1 = jnp.arange(k_BSGK.shape[0])[:, None]
    return LayerCache(
        cache.k_BTGK.at[rows_B1, positions_BS].set(k_BSGK.astype(cache.k_BTGK.dtype), mode="drop"),
        cache.v_BTGK.at[rows_B1, positions_BS].set(v_BSGK.astype(cache.v_BTGK.dtype), mode="drop"),
    )
