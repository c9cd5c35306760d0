"""Generation: prefill of ragged prompts, then one compiled loop over an explicit cache.

Owns the order of decoding and what ends a row; `sampler_batch` lays the requests out. Refuses to know models and tasks: it
takes functions and a cache (`Decoder`), ids and masks of ids (`Allowed`). Sizes are rounded up to buckets and
everything else is data, so that another prompt, seed, temperature or length compiles nothing.

Here T counts generated tokens, G groups of allowed ids, and R rows of the model: one a sample B, or two where samples are
guided (Ho and Salimans 2022), one with and one without the condition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jgpt import filters
from jgpt.check import require
from jgpt.config import ModelConfig
from jgpt.filters import Stages
from jgpt.model import gpt
from jgpt.model.cache import init_cache
from jgpt.sampler_batch import Requests, Work, check, lay_out
from jgpt.sampling import Allowed, Sampling

MAX_ROWS: Final = 256  # rows decoded at once: the cache grows with rows x length


@dataclass(frozen=True)
class Decoder:
    """A language model as the sampler sees it. Compiled functions are kept for as long as the same object is used.

    Attributes:
        apply: `(params, tokens_BS, positions_BS, cache, index_B) -> (logits_BV, cache)`: feed S tokens a row and return
            the f32 logits that follow the token at `index_B` of each row. Slot t of the cache must hold position t.
        init_cache: `(batch, length) -> cache`: an empty cache of `length` tokens.
        vocab_size: width of the logits.
        context_length: longest prompt plus answer [tokens].
        num_ids: ids that mean something, None = vocab_size. The rest only pads the logits and is never generated.
        prepare: called on the parameters once a call of `sample`, in the order that decoding reads them fastest.
    """

    apply: Callable[..., tuple[Array, Any]]
    init_cache: Callable[[int, int], Any]
    vocab_size: int
    context_length: int
    num_ids: int | None = None
    prepare: Callable[[Any], Any] = lambda params: params

    @property
    def ids(self) -> int:
        """Number of ids that may be generated."""
        return self.vocab_size if self.num_ids is None else self.num_ids


@cache
def decoder_for(cfg: ModelConfig, num_ids: int | None = None) -> Decoder:
    """Return the decoder of a resolved config; equal arguments share one decoder and what was compiled for it.

    Args:
        cfg: from `gpt.resolve`.
        num_ids: `Vocabulary.size`, which `cfg.vocab_size` rounds up.

    Raises:
        ValueError: `cfg` is not resolved, or knows fewer ids than `num_ids`.
    """
    require(
        cfg.vocab_size is not None and cfg.compute_dtype != "auto",
        f"model.vocab_size is {cfg.vocab_size} and model.compute_dtype {cfg.compute_dtype!r}: pass the config through "
        "gpt.resolve first.",
    )
    require(
        num_ids is None or 1 <= num_ids <= (cfg.vocab_size or 0),
        f"num_ids is {num_ids}: must lie between 1 and model.vocab_size {cfg.vocab_size}; pass Vocabulary.size.",
    )

    def apply(
        params: Any,
        tokens_BS: Int[Array, "B S"],
        positions_BS: Int[Array, "B S"],
        cache: Any,
        index_B: Int[Array, " B"],
    ) -> tuple[Float[Array, "B V"], Any]:
        x_BSD, cache = gpt.features(cfg, params, tokens_BS, positions_BS, cache=cache)
        x_BD = jnp.take_along_axis(x_BSD, index_B[:, None, None], axis=1)[:, 0]
        return gpt.logits(cfg, x_BD, gpt.output_matrix(cfg, params)), cache

    return Decoder(
        apply=apply,
        init_cache=lambda batch, length: init_cache(cfg, batch, length, cfg.compute_dtype),
        vocab_size=cfg.vocab_size,
        context_length=cfg.context_length,
        num_ids=num_ids,
        prepare=lambda params: params if isinstance(params["blocks"], tuple) else _unstack(params),
    )


_unstack = jax.jit(gpt.unstack)


class Samples(NamedTuple):
    """What was generated, in the order of the prompts.

    Attributes:
        tokens: ids of each row, without the prompt and without the stop id.
        finished: "stop" where a stop id ended the row, "length" where `max_new_tokens` did.
        logprobs: log-probability [nats] of each of `tokens` among the allowed ids, at temperature 1 and before guidance
            and filters: the conditional model's own.
    """

    tokens: list[np.ndarray]
    finished: list[str]
    logprobs: list[np.ndarray]


class _State(NamedTuple):
    """What the loop carries: `token_B` was generated at `step` - 1 and is not yet in the cache."""

    step: Array
    token_B: Array
    done_B: Array
    counts_B: Array
    stopped_B: Array
    tokens_BT: Array
    logprobs_BT: Array
    seen_BV: Array | None
    cache: Any


def sample(
    decoder: Decoder,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    max_new_tokens: int,
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 - frozen
    unconditional: Sequence[Sequence[int] | np.ndarray] | None = None,
    seeds: int | Sequence[int] = 0,
    stop_ids: Sequence[int] = (),
    allowed: Allowed | None = None,
    pad_id: int = 0,
    max_rows: int = MAX_ROWS,
) -> Samples:
    """Return what the model writes after each prompt.

    A row's tokens depend on its prompt, its `Sampling` and its seed alone, not on the other rows, except where two ids
    tie within rounding: sums in another shape may round differently.

    Args:
        decoder: the model, see `decoder_for`.
        params: its parameters. Those of a GPT are unstacked here: call `gpt.unstack` once yourself to sample often.
        prompts: ids of each row, of any lengths.
        max_new_tokens: longest answer [tokens], its stop id included.
        sampling: one for all rows, or one a row.
        unconditional: each prompt without its condition, for `Sampling.guidance`; each sample then takes two rows of the
            model. Needed where any row is guided, refused where none is.
        seeds: one seed a row; a single one for all draws row i with `fold_in(key(seed), i)`, and a row's own seed draws
            as if it were row 0.
        stop_ids: ids that end a row.
        allowed: ids that may be generated, and where; None = all.
        pad_id: id fed to the model where a row has none; it changes no result.
        max_rows: rows of the model decoded at once; more prompts are sorted by length and taken in turns.

    Raises:
        ValueError: a prompt, number or id is out of range; the message says which.
        FloatingPointError: the model's logits are not finite.
    """
    requests = Requests(
        prompts=[np.asarray(prompt) for prompt in prompts],
        unconditional=None if unconditional is None else [np.asarray(prompt) for prompt in unconditional],
        seeds=[(seeds, i) for i in range(len(prompts))] if isinstance(seeds, int) else [(seed, 0) for seed in seeds],
        samplings=[sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling),
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        allowed=allowed,
        pad_id=pad_id,
    )
    check(requests, num_ids=decoder.ids, context_length=decoder.context_length, max_rows=max_rows)
    params, stages = decoder.prepare(params), filters.stages_of(requests.samplings)
    max_samples = max(max_rows // 2, 1) if stages.guidance else max_rows
    out: list[Any] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: requests.prompts[i].size)
    for start in range(0, len(order), max_samples):
        chunk = order[start : start + max_samples]
        work = lay_out(
            requests,
            chunk,
            vocab_size=decoder.vocab_size,
            num_ids=decoder.ids,
            context_length=decoder.context_length,
            max_samples=max_samples,
        )
        for i, result in zip(chunk, _generate(decoder, params, work, stages), strict=False):
            out[i] = result
    return Samples(*([row[field] for row in out] for field in range(3)))


def _generate(decoder: Decoder, params: Any, work: Work, stages: Stages) -> list[tuple[np.ndarray, str, np.ndarray]]:
    """Return (tokens, finished, logprobs) of every row of one batch, the padding rows included."""
    prompt, steps = work.tokens_RS.shape[1], work.group_BT.shape[1]
    device = jax.device_put(work)  # explicit: the loop may forbid implicit transfers
    logits_RV, cache = _prefill(decoder, min(prompt + steps, decoder.context_length), params, device)
    results, cache = _decode(decoder, stages, params, device, logits_RV, cache)
    del cache
    tokens_BT, logprobs_BT, counts_B, stopped_B, bad_B = jax.device_get(results)
    if bad_B.any():
        raise FloatingPointError(
            f"logits of {bad_B.sum()} of {work.live_B.sum()} rows are not finite: the parameters hold NaN or infinity; "
            "sample an earlier checkpoint."
        )
    ends = zip(tokens_BT, logprobs_BT, counts_B, stopped_B, strict=True)
    return [(t[:n].copy(), "stop" if stop else "length", p[:n].copy()) for t, p, n, stop in ends]


@partial(jax.jit, static_argnums=(0, 1))
def _prefill(decoder: Decoder, length: int, params: Any, work: Work) -> tuple[Float[Array, "R V"], Any]:
    """Return the logits after each prompt, and a cache of `length` tokens that holds the prompts."""
    R, S = work.tokens_RS.shape
    positions_RS = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32)[None, :], (R, S))
    return decoder.apply(params, work.tokens_RS, positions_RS, decoder.init_cache(R, length), work.lengths_R - 1)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))
def _decode(
    decoder: Decoder, stages: Stages, params: Any, work: Work, logits_RV: Float[Array, "R V"], cache: Any
) -> tuple[tuple[Array, ...], Any]:
    """Generate until every row is done; return (tokens_BT, logprobs_BT, counts_B, stopped_B, bad_B) and the cache.

    The cache comes back only so that its memory is reused in place.
    """
    V, (B, T) = logits_RV.shape[1], work.group_BT.shape
    fed = 2 if stages.guidance else 1  # rows of the model a sample
    keys_B = jax.vmap(lambda seed, row: jax.random.fold_in(jax.random.key(seed), row))(work.seeds_B, work.rows_B)

    def choose(state: _State, logits_RV: Float[Array, "R V"]) -> _State:
        """Draw the token of `state.step` and record it."""
        mask_BV = work.table_GV[work.group_BT[:, state.step]]
        own_RV = logits_RV.astype(jnp.float32)
        logits_BV = drawn_BV = jnp.where(mask_BV, own_RV[:B], -jnp.inf)
        if stages.guidance:
            scale_B = filters.guidance_scale(work.knobs, state.step, work.steps)
            drawn_BV = jnp.where(mask_BV, filters.guide(own_RV[:B], own_RV[B:], scale_B), -jnp.inf)
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.step)
        token_B = filters.draw(drawn_BV, step_keys_B, work.knobs, state.seen_BV, stages).astype(jnp.int32)
        logprob_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B[:, None], axis=1)[:, 0]
        if stages.guidance:  # a row without its condition may be the one that is not finite
            logprob_B = jnp.where(jnp.isfinite(own_RV[B:]).all(-1), logprob_B, jnp.nan)
        token_B = jnp.where(state.done_B, work.pad, token_B)
        stops_B = work.stop_V[token_B] & ~state.done_B
        seen_BV = state.seen_BV
        return state._replace(
            step=state.step + 1,
            token_B=token_B,
            done_B=state.done_B | stops_B,
            counts_B=state.counts_B + ~(state.done_B | stops_B),
            stopped_B=state.stopped_B | stops_B,
            tokens_BT=state.tokens_BT.at[:, state.step].set(token_B),
            logprobs_BT=state.logprobs_BT.at[:, state.step].set(jnp.where(state.done_B, 0.0, logprob_B)),
            seen_BV=None if seen_BV is None else seen_BV.at[jnp.arange(B), token_B].set(True),
        )

    def generate(state: _State) -> _State:
        positions_R1 = (work.lengths_R + state.step - 1)[:, None]
        index_R = jnp.zeros(fed * B, jnp.int32)
        tokens_R1 = jnp.tile(state.token_B, fed)[:, None]
        logits_RV, cache = decoder.apply(params, tokens_R1, positions_R1, state.cache, index_R)
        return choose(state._replace(cache=cache), logits_RV)

    state = _State(
        step=jnp.int32(0),
        token_B=jnp.zeros(B, jnp.int32),
        done_B=~work.live_B,
        counts_B=jnp.zeros(B, jnp.int32),
        stopped_B=jnp.zeros(B, bool),
        tokens_BT=jnp.zeros((B, T), jnp.int32),
        logprobs_BT=jnp.zeros((B, T), jnp.float32),
        seen_BV=_seen(work, V) if stages.penalty else None,
        cache=cache,
    )
    state = choose(state, logits_RV)
    state = jax.lax.while_loop(lambda s: (s.step < work.steps) & ~s.done_B.all(), generate, state)
    bad_B = jnp.isnan(state.logprobs_BT).any(-1)  # NaN and +inf logits both make log_softmax NaN
    return (state.tokens_BT, state.logprobs_BT, state.counts_B, state.stopped_B, bad_B), state.cache


def _seen(work: Work, vocab_size: int) -> Bool[Array, "B V"]:
    """Return which ids stand in each prompt; padding is written past the end and dropped."""
    B, S = work.live_B.shape[0], work.tokens_RS.shape[1]
    real_BS = jnp.arange(S)[None, :] < work.lengths_R[:B, None]
    ids_BS = jnp.where(real_BS, work.tokens_RS[:B], vocab_size)
    return jnp.zeros((B, vocab_size), bool).at[jnp.arange(B)[:, None], ids_BS].set(True, mode="drop")
