"""From ids to the residual stream: token, position and n-gram embeddings, and a convolution over tokens.

N-gram embeddings (Pagnoni et al. 2024, "Byte Latent Transformer", section 3.2.1) add, to the embedding of each token, one
row a length n of a table that is indexed by a hash of the last n tokens. Bytes and characters say little alone; with
their neighbours they are almost words, before the first block has spent anything on it. The convolution adds the embeddings
of the tokens before, each channel times a weight of its own: it knows no combinations, but needs no tables.
"""

from typing import Final

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.config import ModelConfig
from jgpt.layout import place
from jgpt.model import context
from jgpt.model.layers import GPT2_INIT_STD
from jgpt.model.matrices import Stored, parameter, take

_MULTIPLIER: Final = 0x9E3779B1  # 2^32 over the golden ratio: Knuth, The Art of Computer Programming 3, section 6.4


def last_tokens(
    tokens_BS: Int[Array, "B S"],
    positions_BS: Int[Array, "B S"],
    back: int,
    cached_BT: Int[Array, "B T"] | None,
) -> Int[Array, "B S"]:
    """Return the id that stands `back` tokens before each token in its document, -1 where the document has none.

    Args:
        tokens_BS: ids.
        positions_BS: position of each in its document.
        back: distance [tokens].
        cached_BT: ids by position, these tokens included; None in training, where the row itself holds them.
    """
    if cached_BT is None:
        before_BS = jnp.roll(tokens_BS, back, axis=1)
    else:
        before_BS = jnp.take_along_axis(cached_BT, jnp.maximum(positions_BS - back, 0), axis=1)
    return jnp.where(positions_BS >= back, before_BS, -1)


def hash_ngrams(ids: list[Int[Array, "B S"]], rows: int) -> Int[Array, "B S"]:
    """Return a row in [0, rows) for each tuple of ids (multiplicative hashing)."""
    hashed_BS = jnp.zeros(ids[0].shape, jnp.uint32)
    for ids_BS in ids:
        hashed_BS = (hashed_BS + (ids_BS + 2).astype(jnp.uint32)) * jnp.uint32(_MULTIPLIER)
        hashed_BS = hashed_BS ^ (hashed_BS >> 15)
    return (hashed_BS % jnp.uint32(rows)).astype(jnp.int32)


def _gathered(table: Array | Stored, rows: str) -> Array | Stored:
    """Return a table with whole rows on every device; which rows, the rule of their axis says."""
    return table if isinstance(table, Stored) else place(table, rows, None)


def _rows(table: Array | Stored, ids_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Return the rows of a table that ids name, in the order of `context.spread`."""
    return place(take(table, context.spread(ids_BS)), "batch", "seq", None)


class Embedding(nn.Module):
    """Token embedding, plus those of the tokens before, learned positions and n-grams where the config has them."""

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self, tokens_BS: Int[Array, "B S"], positions_BS: Int[Array, "B S"], cached_BT: Int[Array, "B T"] | None = None
    ) -> Float[Array, "B S D"]:
        """Return the residual stream before the first block, in the order of `context.spread`.

        Tokens and positions are as they stand in the row. `cached_BT` as in `last_tokens`.
        """
        cfg = self.cfg
        std = GPT2_INIT_STD if cfg.init == "gpt2" or cfg.tie_embeddings else 1.0
        normal = nn.initializers.normal(std)
        table = nn.with_partitioning(normal, ("vocab", "embed"))
        tokens_VD = _gathered(parameter(self, "tokens", table, (cfg.vocab_size, cfg.embed_dim)), "vocab")
        x_BSD = _rows(tokens_VD, tokens_BS)
        reach = max(*cfg.ngrams, cfg.embedding_conv, 1)
        ids = [tokens_BS, *(last_tokens(tokens_BS, positions_BS, back, cached_BT) for back in range(1, reach))]
        if cfg.embedding_conv > 1:
            weights = nn.with_partitioning(nn.initializers.zeros_init(), ("back", "norm"))
            conv_WU = self.param("conv", weights, (cfg.embedding_conv - 1, cfg.embed_dim))
            for before_BS, weights_U in zip(ids[1:], conv_WU, strict=False):  # n-grams may reach further
                there_BS1 = context.spread(before_BS >= 0)[:, :, None]
                x_BSD = x_BSD + jnp.where(there_BS1, weights_U, 0.0) * _rows(tokens_VD, before_BS)
        if cfg.positions == "learned":
            table = nn.with_partitioning(normal, ("position", "embed"))
            positions_PD = self.param("positions", table, (cfg.context_length, cfg.embed_dim))
            x_BSD = x_BSD + place(positions_PD, "position", None)[context.spread(positions_BS)]
        for n in sorted(set(cfg.ngrams)):
            table = nn.with_partitioning(nn.initializers.normal(0.5 * std), ("ngram", "embed"))
            ngrams_RD = parameter(self, f"ngrams_{n}", table, (cfg.ngram_rows, cfg.embed_dim))
            rows_BSD = _rows(_gathered(ngrams_RD, "ngram"), hash_ngrams(ids[:n], cfg.ngram_rows))
            if cfg.ngram_ids is not None:
                rows_BSD = jnp.where(context.spread(tokens_BS < cfg.ngram_ids)[:, :, None], rows_BSD, 0.0)
            x_BSD = x_BSD + rows_BSD
        return x_BSD.astype(cfg.compute_dtype)
