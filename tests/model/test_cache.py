"""The cache of windowed layers: a ring that never grows, and forgets nothing that a later query may see."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import presets
from jgpt.model import gpt
from jgpt.model.cache import NOWHERE, SLACK, LayerCache, init_cache, ring_positions, slots, update
from jgpt.model.visibility import Visibility

LOGIT_TOLERANCE = 2e-5  # f32, two layers of width 32, logits of order 1
LEVEL_FLIPS = 2e-3  # of the largest logit: a key that lies between two levels may be rounded to either
VOCAB, CONTEXT = 21, 80
CFG = gpt.resolve(
    presets.modern(
        num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, context_length=CONTEXT, windows=(5, 20), ngrams=(2, 3),
        ngram_rows=16, embedding_conv=4, attention_gates=True, embedding_skips=True, init="gpt2",
    ),
    vocab_size=VOCAB,
    backend="cpu",
)  # fmt: skip


@functools.cache
def params() -> dict:
    """Return parameters drawn so wide that every token matters."""
    shapes = jax.eval_shape(functools.partial(gpt.init, CFG), jax.random.key(0))
    rng = np.random.default_rng(1)
    return gpt.unstack(jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.3, a.shape), jnp.float32), shapes))


def feed(tokens_BS, first_B, cache, last_B=None, fresh=False):
    """Return the logits of tokens that begin at `first_B` of each row, and the cache."""
    if last_B is None:  # given as numbers, so that fewer programs are compiled
        last_B = zeros() + tokens_BS.shape[1] - 1
    return _feed(params(), tokens_BS, first_B, cache, last_B, fresh)


@functools.partial(jax.jit, static_argnums=(5,))
def _feed(params, tokens_BS, first_B, cache, last_B, fresh):
    positions_BS = first_B[:, None] + jnp.arange(tokens_BS.shape[1])[None, :]
    x_BSD, cache, _ = gpt.features(CFG, params, tokens_BS, positions_BS, cache=cache, fresh=fresh, last_B=last_B)
    (B, S, D), output_DV = x_BSD.shape, gpt.output_matrix(CFG, params)
    return gpt.logits(CFG, x_BSD.reshape(-1, D), output_DV).reshape(B, S, -1), cache


@jax.jit
def _forward(params, tokens_BS):
    return gpt.apply(CFG, params, tokens_BS, jnp.tile(jnp.arange(CONTEXT), (2, 1)))[0]


def forward(tokens_BS):
    """Return the logits of whole rows, without a cache."""
    return _forward(params(), tokens_BS)


def rows(count: int = 2, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (count, CONTEXT)), jnp.int32)


def zeros(count: int = 2) -> jax.Array:
    return jnp.zeros(count, jnp.int32)


@pytest.mark.parametrize("sizes", [("fresh", 17, 1), (40, 40)], ids=str)
def test_a_ring_gives_what_the_whole_row_gives(sizes) -> None:
    """Fed at once, as many as the slack allows, token by token, or in pieces larger than the ring: one forward pass."""
    tokens_BS, cache, at = rows(), init_cache(CFG, 2, CONTEXT, "float32"), 0
    whole = forward(tokens_BS)
    assert [layer.k_BGTK.shape[2] for layer in cache.layers] == [24, 40]
    for size in itertools.chain(sizes[:-1], itertools.repeat(sizes[-1])):
        n = min(60 if size == "fresh" else size, CONTEXT - at)
        part, cache = feed(tokens_BS[:, at : at + n], zeros() + at, cache, fresh=size == "fresh")
        np.testing.assert_allclose(part, whole[:, at : at + n], atol=LOGIT_TOLERANCE, rtol=0)
        at += n
        if at == CONTEXT:
            return


@pytest.mark.parametrize("piece", [None, 1, 40])
def test_padding_replaces_nothing(piece: int | None) -> None:
    """Two prompts in one padded batch, at once or in pieces, then token by token at positions of their own."""
    tokens_BS, lengths_B = rows(seed=3), jnp.array([4, 50])
    whole = forward(tokens_BS)
    padded_BS = jnp.where(jnp.arange(CONTEXT)[None] < lengths_B[:, None], tokens_BS, 7)
    padded_BS = padded_BS[:, : 60 if piece is None else CONTEXT]
    cache = init_cache(CFG, 2, CONTEXT, "float32")
    for at in range(0, padded_BS.shape[1], piece or 60):
        part_BS = padded_BS[:, at : at + (piece or 60)]
        _, cache = feed(part_BS, zeros() + at, cache, lengths_B - 1 - at, piece is None)
    for step in range(12):
        at_B = lengths_B + step
        part, cache = feed(jnp.take_along_axis(tokens_BS, at_B[:, None], 1), at_B, cache)
        for b in range(2):
            np.testing.assert_allclose(part[b, 0], whole[b, at_B[b]], atol=LOGIT_TOLERANCE, rtol=0)


def test_tokens_fed_at_once_may_be_taken_back() -> None:
    """As many guesses as the slack has room for are fed at other positions in each row; none but the first is kept."""
    tokens_BS, guesses_BS = rows(seed=4), rows(seed=5)
    whole, cache = forward(tokens_BS), init_cache(CFG, 2, CONTEXT, "float32")
    first_B = jnp.array([33, 41])
    _, cache = feed(tokens_BS[:, :60], zeros(), cache, first_B - 1, True)
    for step in range(6):
        at_B = first_B + step
        right_B1 = jnp.take_along_axis(tokens_BS, at_B[:, None], 1)
        part, cache = feed(jnp.concatenate([right_B1, guesses_BS[:, :SLACK]], 1), at_B, cache)
        for b in range(2):
            np.testing.assert_allclose(part[b, 0], whole[b, at_B[b]], atol=LOGIT_TOLERANCE, rtol=0)


def test_a_row_that_begins_again_sees_nothing_of_the_one_before() -> None:
    tokens_BS, cache = rows(seed=6), init_cache(CFG, 2, CONTEXT, "float32")
    whole = forward(tokens_BS)
    _, cache = feed(rows(seed=7)[:, :60], zeros(), cache, fresh=True)
    for at in range(8):
        part, cache = feed(tokens_BS[:, at : at + 1], zeros() + at, cache)
        np.testing.assert_allclose(part[:, 0], whole[:, at], atol=LOGIT_TOLERANCE, rtol=0)


def test_memory_of_windowed_layers_does_not_grow_with_the_context() -> None:
    """Bytes are counted: equal for 1,000 and 100,000 tokens, and those of a layer without a window grow with them."""

    def sizes(length: int) -> list[int]:
        cfg = presets.modern(num_layers=2, embed_dim=32, num_heads=4, context_length=100_000, windows=(64, None))
        cache = jax.eval_shape(lambda: init_cache(cfg, 3, length, "float32"))
        return [sum(leaf.size * leaf.dtype.itemsize for leaf in layer) for layer in cache.layers]

    (short, short_full), (long, long_full) = sizes(1_000), sizes(100_000)
    assert short == long == 2 * 3 * slots(64, 100_000) * 32 * 4 and slots(64, 100_000) <= 64 + SLACK + 7
    assert long_full == 100 * short_full > long


def test_slots_hold_what_is_said() -> None:
    """Against a dict in Python: after feeds of several sizes, the positions and the keys written agree."""
    rng, size = np.random.default_rng(8), 8
    cache, held, at = LayerCache(*(jnp.zeros((1, 1, size, 1)) for _ in range(2))), {}, 0
    for n in (3, 2 * size + 3, 3, 3):
        real = int(rng.integers(1, n + 1))
        positions_BS = at + jnp.arange(n)[None]
        visible = Visibility(positions_BS, positions_BS, window=2, q_real_BS=jnp.arange(n)[None] < real)
        keys = positions_BS[:, None, :, None].astype(jnp.float32)
        cache = update(cache, LayerCache(keys, keys), visible)
        held |= {p % size: p for p in range(at, at + real)}
        at += real
        expected = [held.get(slot, NOWHERE) for slot in range(size)]
        assert ring_positions(jnp.array([at - 1]), size)[0].tolist() == expected
        assert cache.k_BGTK[0, 0, :, 0].tolist() == [0 if p == NOWHERE else p for p in expected]


def test_a_ring_is_no_longer_than_the_row() -> None:
    assert slots(None, 50) == 50 and slots(5, 20) == 20 and slots(5, 50) == 24 and slots(16, 500) == 32


def test_in_int8_pieces_see_what_one_piece_sees() -> None:
    """At once, in pieces and token by token agree but for a level here and there, and are near to f32 and not equal."""
    tokens_BS = rows(seed=9)
    whole, parts = forward(tokens_BS), {}
    for sizes in ((60, 17, 1, 1, 1), (40, 40), (1,) * 43):
        cache, at, got = init_cache(CFG, 2, CONTEXT, "int8"), 0, []
        for n in sizes:
            part, cache = feed(tokens_BS[:, at : at + n], zeros() + at, cache, fresh=n == 60)
            got.append(part)
            at += n
        parts[sizes] = jnp.concatenate(got, axis=1)
    spread = float(jnp.abs(whole).max())
    first, *others = parts.values()
    for other in others:
        n = other.shape[1]
        assert float(jnp.abs(other - first[:, :n]).max()) < LEVEL_FLIPS * spread
    assert LEVEL_FLIPS * spread < float(jnp.abs(first - whole).max()) < 0.1 * spread


def test_int8_keeps_levels_and_a_scale_for_each_token_and_head() -> None:
    """No key is off by more than half of its own level; the bytes are those of levels and scales."""
    rng = np.random.default_rng(0)
    sizes = np.logspace(-3, 3, 3)[:, None, None]
    k, v = ((rng.normal(size=(2, 3, 2, 16)) * sizes).astype(np.float32) for _ in range(2))
    k[0, 1, 1] = 0
    cache = init_cache(CFG, 2, CONTEXT, "int8").layers[1]
    kept = cache.like(jnp.asarray(k), jnp.asarray(v))
    for got, given in zip(kept.read(jnp.dtype("float32")), (k, v), strict=True):
        assert (
            np.abs(np.asarray(got).swapaxes(1, 2) - given) <= np.abs(given).max(-1, keepdims=True) / 127 * 0.5001
        ).all()
    K = CFG.width_of_head
    plain = init_cache(CFG, 2, CONTEXT, "float32").layers[1]
    small, large = (sum(leaf.size * leaf.dtype.itemsize for leaf in layer) for layer in (cache, plain))
    assert small / large == (K + 4) / (4 * K)
