"""What is compiled for slots, beside the sampler's own loop: rows that join, move, halt, and are looked at.

Owns these functions; refuses to know when they run.

B is the number of rows, T the context, N the most probable ids that are reported, S a window of generated tokens,
C a piece of a long prompt.
"""

from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jgpt import decode_loop
from jgpt.decode_loop import State
from jgpt.decoder import Decoder
from jgpt.filters import Stages, Written
from jgpt.sampler_batch import Prompts, Work

MOST_STEPS: Final = 8  # tokens a row between two looks


class Seen(NamedTuple):
    """All rows, as the device returns them; S tokens from the start of the look."""

    step_B: Int[Array | np.ndarray, " B"]
    done_B: Bool[Array | np.ndarray, " B"]
    stopped_B: Bool[Array | np.ndarray, " B"]
    tokens_BS: Int[Array | np.ndarray, "B S"]
    logprobs_BS: Float[Array | np.ndarray, "B S"]
    top_ids_BSN: Int[Array | np.ndarray, "B S N"]
    top_logprobs_BSN: Float[Array | np.ndarray, "B S N"]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty(decoder: Decoder, slots: int, top: int, length: int) -> State:
    """Return the state of slots in which nothing runs; their cache holds `length` tokens."""
    B, T, V = slots, decoder.context_length, decoder.vocab_size
    return State(
        step_B=jnp.zeros(B, jnp.int32),
        token_B=jnp.zeros(B, jnp.int32),
        done_B=jnp.ones(B, bool),
        stopped_B=jnp.zeros(B, bool),
        tokens_BT=jnp.zeros((B, T), jnp.int32),
        logprobs_BT=jnp.zeros((B, T), jnp.float32),
        top_ids_BTN=jnp.zeros((B, T, top), jnp.int32),
        top_logprobs_BTN=jnp.zeros((B, T, top), jnp.float32),
        written=Written(jnp.zeros((B, V), bool), jnp.zeros((B, V), jnp.int32)),
        cache=decoder.init_cache(B, length),
    )


@partial(jax.jit, static_argnums=(0,), donate_argnums=(3,))
def feed_piece(
    decoder: Decoder, params: Any, tokens_PC: Int[Array, "P C"], cache: Any, start: Int[Array, ""]
) -> tuple[Float[Array, "P V"], Any]:
    """Return the logits after a further piece of a prompt, and the cache that holds it."""
    positions_PC = jnp.broadcast_to(jnp.arange(tokens_PC.shape[1], dtype=jnp.int32)[None, :] + start, tokens_PC.shape)
    last_P = jnp.full(tokens_PC.shape[0], tokens_PC.shape[1] - 1, jnp.int32)
    return decoder.apply(params, tokens_PC, positions_PC, cache, last_P)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2,))
def add_row(
    decoder: Decoder,
    stages: Stages,
    state: State,
    slot: Int[Array, ""],
    prompts: Prompts,
    work: Work,
    logits_PV: Float[Array, "P V"],
    cache: Any,
) -> State:
    """Return the state with the first token of a new row in its slot."""
    row = decode_loop.begin(decoder, stages, prompts, work, logits_PV, cache)
    row = row._replace(cache=_fitted(row.cache, jax.tree.map(lambda rows: rows[:1], state.cache)))
    return jax.tree.map(lambda rows, new: jax.lax.dynamic_update_slice_in_dim(rows, new, slot, 0), state, row)


@jax.jit
def move(state: State, from_B: Int[Array, " B"], free_B: Bool[Array, " B"]) -> State:
    """Return the state of more or fewer rows: row b was `from_B[b]`; a free one holds nothing."""
    moved = jax.tree.map(lambda leaf: leaf[from_B], state)
    return moved._replace(done_B=moved.done_B | free_B)


@partial(jax.jit, static_argnums=(0, 2))
def fit(decoder: Decoder, state: State, length: int) -> State:
    """Return the state with a cache of `length` tokens; no row that runs may have used what is cut off."""
    rows = state.step_B.shape[0]
    return state._replace(cache=_fitted(state.cache, jax.eval_shape(lambda: decoder.init_cache(rows, length))))


def _fitted(cache: Any, like: Any) -> Any:
    """Return a cache of the shape of another: every layer keeps early tokens in the first places, whatever its size."""

    def fit_leaf(leaf: Array, other: Any) -> Array:
        cut = leaf[tuple(slice(size) for size in other.shape)]
        return jnp.pad(cut, [(0, size - had) for size, had in zip(other.shape, cut.shape, strict=True)])

    return jax.tree.map(fit_leaf, cache, like)


@jax.jit
def halt(done_B: Bool[Array, " B"], halted_B: Bool[Array, " B"]) -> Bool[Array, " B"]:
    """Return which rows are done when some are ended."""
    return done_B | halted_B


@jax.jit
def look(state: State, start_B: Int[Array, " B"]) -> Seen:
    """Return MOST_STEPS tokens of each row from its `start_B` on."""
    places_BS = start_B[:, None] + jnp.arange(MOST_STEPS, dtype=jnp.int32)[None, :]
    rows_B1 = jnp.arange(start_B.shape[0])[:, None]

    def window(values: Array) -> Array:
        return values.at[rows_B1, places_BS].get(mode="clip")

    return Seen(
        state.step_B,
        state.done_B,
        state.stopped_B,
        window(state.tokens_BT),
        window(state.logprobs_BT),
        window(state.top_ids_BTN),
        window(state.top_logprobs_BTN),
    )


def one_prompt(prompt: np.ndarray, size: int) -> Prompts:
    """Return one prompt, padded."""
    tokens_PS = np.zeros((1, size), np.int32)
    tokens_PS[0, : len(prompt)] = prompt
    return Prompts(tokens_PS, np.array([len(prompt)], np.int32), np.zeros(1, np.int32))
