"""The compiled part of generation: prefill, the first token, and the loop, over an explicit state.

Owns the order of decoding and what ends a row. Every row has its own step, so that rows may begin and end at different
times, and the loop may pause after any number of tokens: a stream, and a sample in one go, run the same function.

Here T counts generated tokens, G groups of allowed ids, M states of automata, N most probable ids that are reported, P
different prompts, and R rows of the model: one a sample B, or two where samples are guided (Ho and Salimans 2022), with and
without the condition.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jgpt import filters
from jgpt.decoder import Decoder
from jgpt.filters import Stages, Written
from jgpt.sampler_batch import Prompts, Work


class State(NamedTuple):
    """What the loop carries.

    Attributes:
        step_B: tokens generated so far, a stop id included.
        token_B: the last of them, which is not yet in the cache.
        done_B: nothing more is generated.
        stopped_B: a stop id ended the row.
        tokens_BT: generated ids.
        logprobs_BT: their log-probabilities [nats].
        top_ids_BTN: most probable ids at each token; N = 0 where nobody asks.
        top_logprobs_BTN: their log-probabilities [nats].
        written: what penalties look at; None where no row has one.
        cache: of the model.
        automaton_B: state of the automaton that each row follows; None where no row does.
    """

    step_B: Int[Array, " B"]
    token_B: Int[Array, " B"]
    done_B: Bool[Array, " B"]
    stopped_B: Bool[Array, " B"]
    tokens_BT: Int[Array, "B T"]
    logprobs_BT: Float[Array, "B T"]
    top_ids_BTN: Int[Array, "B T N"]
    top_logprobs_BTN: Float[Array, "B T N"]
    written: Written | None
    cache: Any
    automaton_B: Int[Array, " B"] | None = None


@partial(jax.jit, static_argnums=(0, 1, 2))
def prefill(
    decoder: Decoder, length: int, chunk: int | None, params: Any, prompts: Prompts
) -> tuple[Float[Array, "R V"], Any]:
    """Return the logits after each prompt, and a cache of `length` tokens that holds the prompts.

    A prompt that several rows share is computed once.

    Args:
        decoder: the model.
        length: of the cache.
        chunk: tokens that are fed at once; None = all. Less memory for scores, and the same result.
        params: of the model.
        prompts: of the batch.
    """
    P, S = prompts.tokens_PS.shape
    size, cache = S if chunk is None else min(chunk, S), decoder.init_cache(P, length)
    last_P, logits_PV = prompts.lengths_P - 1, jnp.zeros((P, decoder.vocab_size), jnp.float32)
    for start in range(0, S, size):
        tokens_PC = prompts.tokens_PS[:, start : start + size]
        positions_PC = jnp.broadcast_to(
            jnp.arange(tokens_PC.shape[1], dtype=jnp.int32)[None, :] + start, tokens_PC.shape
        )
        feed = decoder.begin if size == S and decoder.begin is not None else decoder.apply
        index_P = jnp.minimum(last_P - start, tokens_PC.shape[1] - 1)  # negative where the prompt has ended
        here_PV, cache = feed(params, tokens_PC, positions_PC, cache, index_P)
        logits_PV = jnp.where((last_P >= start)[:, None], here_PV, logits_PV)
    if prompts.source_R.shape[0] == P:  # see `lay_out`: then row r has prompt r
        return logits_PV, cache
    return logits_PV[prompts.source_R], jax.tree.map(lambda leaf: leaf[prompts.source_R], cache)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))
def begin(
    decoder: Decoder, stages: Stages, prompts: Prompts, work: Work, logits_RV: Float[Array, "R V"], cache: Any
) -> State:
    """Return the state after the first token of each row."""
    B, T = work.group_BT.shape
    V, N = decoder.vocab_size, stages.top
    written = Written(_in_prompt(prompts, B, V), jnp.zeros((B, V), jnp.int32)) if stages.penalty else None
    state = State(
        step_B=jnp.zeros(B, jnp.int32),
        token_B=jnp.zeros(B, jnp.int32),
        done_B=~work.live_B,
        stopped_B=jnp.zeros(B, bool),
        tokens_BT=jnp.zeros((B, T), jnp.int32),
        logprobs_BT=jnp.zeros((B, T), jnp.float32),
        top_ids_BTN=jnp.zeros((B, T, N), jnp.int32),
        top_logprobs_BTN=jnp.zeros((B, T, N), jnp.float32),
        written=written,
        cache=cache,
        automaton_B=work.start_B,
    )
    return choose(stages, work, state, logits_RV)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4,))
def advance(decoder: Decoder, stages: Stages, params: Any, work: Work, state: State, most: Int[Array, ""]) -> State:
    """Return the state after at most `most` more tokens a row, or when every row is done."""

    def generate(carried: tuple[Array, State]) -> tuple[Array, State]:
        count, state = carried
        fed = 2 if stages.guidance else 1  # rows of the model a sample
        positions_R1 = (work.lengths_R + jnp.tile(state.step_B, fed) - 1)[:, None]
        tokens_R1 = jnp.tile(state.token_B, fed)[:, None]
        index_R = jnp.zeros(tokens_R1.shape[0], jnp.int32)
        logits_RV, cache = decoder.apply(params, tokens_R1, positions_R1, state.cache, index_R)
        return count + 1, choose(stages, work, state._replace(cache=cache), logits_RV)

    return jax.lax.while_loop(
        lambda carried: (carried[0] < most) & ~carried[1].done_B.all(), generate, (jnp.int32(0), state)
    )[1]


def choose(stages: Stages, work: Work, state: State, logits_RV: Float[Array, "R V"]) -> State:
    """Draw the next token of each row that is not done, and record it."""
    B = work.group_BT.shape[0]
    mask_BV = possible(work, state.step_B, state.automaton_B)
    own_RV = logits_RV.astype(jnp.float32)
    logits_BV = drawn_BV = jnp.where(mask_BV, own_RV[:B], -jnp.inf)
    if stages.guidance:
        scale_B = filters.guidance_scale(work.knobs, state.step_B, work.steps_B)
        drawn_BV = jnp.where(mask_BV, filters.guide(own_RV[:B], own_RV[B:], scale_B), -jnp.inf)
    token_B = filters.draw(drawn_BV, keys(work, state.step_B), work.knobs, state.written, stages).astype(jnp.int32)
    logprobs_BV = jax.nn.log_softmax(logits_BV)
    if stages.guidance:  # a row without its condition may be the one that is not finite
        logprobs_BV = jnp.where(jnp.isfinite(own_RV[B:]).all(-1, keepdims=True), logprobs_BV, jnp.nan)
    return record(stages, work, state, token_B, logprobs_BV, ~state.done_B)


def possible(work: Work, step_B: Int[Array, " B"], automaton_B: Int[Array, " B"] | None) -> Bool[Array, "B V"]:
    """Return the ids that each row may generate at a step: of its group, where its automaton goes on, and no early stop."""
    T = work.group_BT.shape[1]
    group_B = jnp.take_along_axis(work.group_BT, jnp.minimum(step_B, T - 1)[:, None], axis=1)[:, 0]
    mask_BV = work.table_GV[group_B]
    if work.next_MV is not None and automaton_B is not None:
        mask_BV = mask_BV & (work.next_MV[automaton_B] >= 0)
    late_BV = mask_BV & ~(work.stop_V[None, :] & (step_B < work.knobs.min_new_B)[:, None])
    return jnp.where(
        late_BV.any(-1, keepdims=True), late_BV, mask_BV
    )  # a stop that alone is allowed may stand anywhere


def keys(work: Work, step_B: Int[Array, " B"]) -> Key[Array, " B"]:
    """Return the key of each row at a step: of its seed, its number and the step alone."""
    return jax.vmap(lambda seed, row, step: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), step))(
        work.seeds_B, work.rows_B, step_B
    )


def follow(
    work: Work, automaton_B: Int[Array, " B"] | None, token_B: Int[Array, " B"], live_B: Bool[Array, " B"]
) -> Int[Array, " B"] | None:
    """Return the automata's states after a token of each live row, which they allow."""
    if work.next_MV is None or automaton_B is None:
        return automaton_B
    return jnp.where(live_B, work.next_MV[automaton_B, token_B], automaton_B)


def record(
    stages: Stages,
    work: Work,
    state: State,
    token_B: Int[Array, " B"],
    logprobs_BV: Float[Array, "B V"],
    live_B: Bool[Array, " B"],
) -> State:
    """Return the state with one more token of each live row.

    Args:
        stages: what is reported.
        work: the batch.
        state: before the token.
        token_B: drawn.
        logprobs_BV: log-probabilities [nats] among the ids that were allowed.
        live_B: rows that have a token; none of them is done.
    """
    B, T = work.group_BT.shape
    rows_B = jnp.arange(B)
    token_B = jnp.where(live_B, token_B, jnp.where(state.done_B, work.pad, state.token_B))
    logprob_B = jnp.take_along_axis(logprobs_BV, token_B[:, None], axis=1)[:, 0]
    slot_B = jnp.where(live_B, state.step_B, T)  # past the end: dropped
    if stages.top:
        top_BN, top_ids_BN = jax.lax.top_k(logprobs_BV, stages.top)
        state = state._replace(
            top_ids_BTN=state.top_ids_BTN.at[rows_B, slot_B].set(top_ids_BN.astype(jnp.int32), mode="drop"),
            top_logprobs_BTN=state.top_logprobs_BTN.at[rows_B, slot_B].set(top_BN, mode="drop"),
        )
    if state.written is not None:
        uses_BV = state.written.uses_BV.at[rows_B, token_B].add(live_B.astype(jnp.int32))
        state = state._replace(written=state.written._replace(uses_BV=uses_BV))
    stops_B = work.stop_V[token_B] & live_B
    step_B = state.step_B + live_B
    return state._replace(
        step_B=step_B,
        token_B=token_B,
        done_B=state.done_B | stops_B | (step_B >= work.steps_B),
        stopped_B=state.stopped_B | stops_B,
        tokens_BT=state.tokens_BT.at[rows_B, slot_B].set(token_B, mode="drop"),
        logprobs_BT=state.logprobs_BT.at[rows_B, slot_B].set(logprob_B, mode="drop"),
        automaton_B=follow(work, state.automaton_B, token_B, live_B),
    )


def _in_prompt(prompts: Prompts, samples: int, vocab_size: int) -> Bool[Array, "B V"]:
    """Return which ids stand in each prompt; padding is written past the end and dropped."""
    P, S = prompts.tokens_PS.shape
    real_PS = jnp.arange(S)[None, :] < prompts.lengths_P[:, None]
    ids_PS = jnp.where(real_PS, prompts.tokens_PS, vocab_size)
    prompt_PV = jnp.zeros((P, vocab_size), bool).at[jnp.arange(P)[:, None], ids_PS].set(True, mode="drop")
    return prompt_PV[prompts.source_R[:samples]]
