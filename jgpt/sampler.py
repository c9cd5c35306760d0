"""Generation: prefill of ragged prompts, then one compiled loop over an explicit cache.

Owns the order of decoding, the shapes that are compiled, and what ends a row. Refuses to know models and tasks: it
takes functions and a cache (`Decoder`), ids and masks of ids (`Allowed`). Sizes are rounded up to buckets and
everything else is data, so that another prompt, seed, temperature or length compiles nothing.

Here T counts generated tokens, and G groups of allowed ids.
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
from jgpt.filters import Knobs, Stages
from jgpt.model import gpt
from jgpt.model.cache import init_cache
from jgpt.sampling import Allowed, Sampling

SMALLEST_BUCKET: Final = 16  # tokens; shorter prompts and answers share one compiled shape
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
        logprobs: log-probability [nats] of each of `tokens` among the allowed ids, at temperature 1 and before filters.
    """

    tokens: list[np.ndarray]
    finished: list[str]
    logprobs: list[np.ndarray]


class _Work(NamedTuple):
    """One batch as the compiled functions take it; rows that only pad the batch are not live."""

    tokens_BS: Array
    lengths_B: Array
    live_B: Array
    seeds_B: Array
    rows_B: Array
    table_GV: Array
    group_BT: Array
    stop_V: Array
    steps: Array
    pad: Array
    knobs: Knobs


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
        seeds: one seed a row; a single one for all draws row i with `fold_in(key(seed), i)`, and a row's own seed draws
            as if it were row 0.
        stop_ids: ids that end a row.
        allowed: ids that may be generated, and where; None = all.
        pad_id: id fed to the model where a row has none; it changes no result.
        max_rows: rows decoded at once; more prompts are sorted by length and taken in turns.

    Raises:
        ValueError: a prompt, number or id is out of range; the message says which.
        FloatingPointError: the model's logits are not finite.
    """
    rows = [np.asarray(prompt) for prompt in prompts]
    _check(decoder, rows, max_new_tokens, stop_ids, allowed, pad_id, max_rows)
    samplings = [sampling] * len(rows) if isinstance(sampling, Sampling) else list(sampling)
    row_seeds = [(seeds, i) for i in range(len(rows))] if isinstance(seeds, int) else [(seed, 0) for seed in seeds]
    for what, values in (("sampling", samplings), ("seeds", row_seeds)):
        require(
            len(values) == len(rows),
            f"{what} has {len(values)} entries for {len(rows)} prompts: give one, or one a row.",
        )
    for seed, _ in row_seeds:
        require(0 <= seed < 2**32, f"seed is {seed}: must lie between 0 and 2**32 - 1; use another --seed.")
    params, stages = decoder.prepare(params), filters.stages_of(samplings)
    out: list[Any] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i].size)
    for start in range(0, len(order), max_rows):
        chunk = order[start : start + max_rows]
        work = _work(decoder, rows, row_seeds, samplings, chunk, max_new_tokens, stop_ids, allowed, pad_id, max_rows)
        for i, result in zip(chunk, _generate(decoder, params, work, stages), strict=False):
            out[i] = result
    return Samples(*([row[field] for row in out] for field in range(3)))


def _generate(decoder: Decoder, params: Any, work: _Work, stages: Stages) -> list[tuple[np.ndarray, str, np.ndarray]]:
    """Return (tokens, finished, logprobs) of every row of one batch, the padding rows included."""
    prompt, steps = work.tokens_BS.shape[1], work.group_BT.shape[1]
    device = jax.device_put(work)  # explicit: the loop may forbid implicit transfers
    logits_BV, cache = _prefill(decoder, min(prompt + steps, decoder.context_length), params, device)
    results, cache = _decode(decoder, stages, params, device, logits_BV, cache)
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
def _prefill(decoder: Decoder, length: int, params: Any, work: _Work) -> tuple[Float[Array, "B V"], Any]:
    """Return the logits after each prompt, and a cache of `length` tokens that holds the prompts."""
    B, S = work.tokens_BS.shape
    positions_BS = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32)[None, :], (B, S))
    return decoder.apply(params, work.tokens_BS, positions_BS, decoder.init_cache(B, length), work.lengths_B - 1)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))
def _decode(
    decoder: Decoder, stages: Stages, params: Any, work: _Work, logits_BV: Float[Array, "B V"], cache: Any
) -> tuple[tuple[Array, ...], Any]:
    """Generate until every row is done; return (tokens_BT, logprobs_BT, counts_B, stopped_B, bad_B) and the cache.

    The cache comes back only so that its memory is reused in place.
    """
    (B, V), T = logits_BV.shape, work.group_BT.shape[1]
    keys_B = jax.vmap(lambda seed, row: jax.random.fold_in(jax.random.key(seed), row))(work.seeds_B, work.rows_B)

    def choose(state: _State, logits_BV: Float[Array, "B V"]) -> _State:
        """Draw the token of `state.step` and record it."""
        mask_BV = work.table_GV[work.group_BT[:, state.step]]
        logits_BV = jnp.where(mask_BV, logits_BV.astype(jnp.float32), -jnp.inf)
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.step)
        token_B = filters.draw(logits_BV, step_keys_B, work.knobs, state.seen_BV, stages).astype(jnp.int32)
        logprob_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B[:, None], axis=1)[:, 0]
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
        positions_B1 = (work.lengths_B + state.step - 1)[:, None]
        index_B = jnp.zeros(B, jnp.int32)
        logits_BV, cache = decoder.apply(params, state.token_B[:, None], positions_B1, state.cache, index_B)
        return choose(state._replace(cache=cache), logits_BV)

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
    state = choose(state, logits_BV)
    state = jax.lax.while_loop(lambda s: (s.step < work.steps) & ~s.done_B.all(), generate, state)
    bad_B = jnp.isnan(state.logprobs_BT).any(-1)  # NaN and +inf logits both make log_softmax NaN
    return (state.tokens_BT, state.logprobs_BT, state.counts_B, state.stopped_B, bad_B), state.cache


def _seen(work: _Work, vocab_size: int) -> Bool[Array, "B V"]:
    """Return which ids stand in each prompt; padding is written past the end and dropped."""
    B, S = work.tokens_BS.shape
    real_BS = jnp.arange(S)[None, :] < work.lengths_B[:, None]
    ids_BS = jnp.where(real_BS, work.tokens_BS, vocab_size)
    return jnp.zeros((B, vocab_size), bool).at[jnp.arange(B)[:, None], ids_BS].set(True, mode="drop")


def _bucket(size: int, smallest: int, largest: int) -> int:
    """Return the next power of two from `smallest` up, or `largest` where that is less."""
    return min(max(smallest, 1 << (size - 1).bit_length()), largest)


def _work(
    decoder: Decoder,
    rows: list[np.ndarray],
    row_seeds: list[tuple[int, int]],
    samplings: list[Sampling],
    chunk: list[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    allowed: Allowed | None,
    pad_id: int,
    max_rows: int,
) -> _Work:
    """Return the rows named by `chunk`, padded to buckets, as NumPy arrays."""
    B = _bucket(len(chunk), 1, max_rows)
    S = _bucket(max(rows[i].size for i in chunk), SMALLEST_BUCKET, decoder.context_length)
    T = _bucket(max_new_tokens, SMALLEST_BUCKET, decoder.context_length)
    padded = chunk + [chunk[0]] * (B - len(chunk))  # a copy of a real row is always a valid one
    tokens_BS = np.full((B, S), pad_id, np.int32)
    for slot, i in enumerate(padded):
        tokens_BS[slot, : rows[i].size] = rows[i]
    if allowed is None:
        allowed = Allowed(np.ones((1, decoder.ids), bool), np.zeros((1, 1), np.int32))
    groups, known = allowed.table_GV.shape
    table_GV = np.zeros((_bucket(groups, 1, 2**30), decoder.vocab_size), bool)
    table_GV[:groups, :known] = allowed.table_GV
    group_BT = allowed.group_BT[padded if allowed.group_BT.shape[0] > 1 else [0] * B, :T]
    group_BT = np.pad(group_BT, ((0, 0), (0, T - group_BT.shape[1])), mode="edge")
    stop_V = np.zeros(decoder.vocab_size, bool)
    stop_V[list(stop_ids)] = True
    return _Work(
        tokens_BS=tokens_BS,
        lengths_B=np.array([rows[i].size for i in padded], np.int32),
        live_B=np.arange(B) < len(chunk),
        seeds_B=np.array([row_seeds[i][0] for i in padded], np.uint32),
        rows_B=np.array([row_seeds[i][1] for i in padded], np.uint32),
        table_GV=table_GV,
        group_BT=group_BT.astype(np.int32),
        stop_V=stop_V,
        steps=np.int32(max_new_tokens),
        pad=np.int32(pad_id),
        knobs=filters.knobs_of([samplings[i] for i in padded]),
    )


def _check(
    decoder: Decoder,
    rows: list[np.ndarray],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    allowed: Allowed | None,
    pad_id: int,
    max_rows: int,
) -> None:
    """Raise ValueError for the first argument of `sample` that breaks a rule."""
    context, ids = decoder.context_length, decoder.ids
    require(max_new_tokens >= 1, f"max_new_tokens is {max_new_tokens}: must be at least 1; raise --max-new-tokens.")
    require(max_rows >= 1, f"max_rows is {max_rows}: must be at least 1.")
    for name, value in (("pad_id", pad_id), *(("stop_ids", stop) for stop in stop_ids)):
        require(0 <= value < ids, f"{name} holds {value}: the vocabulary has {ids} ids, use 0 to {ids - 1}.")
    for i, row in enumerate(rows):
        require(
            row.ndim == 1,
            f"prompt {i} has {row.ndim} dimensions: prompts is a list of lists of ids; put one prompt in [].",
        )
        n = row.size
        require(n > 0, f"prompt {i} has 0 tokens: give at least one, such as the id that begins a document.")
        require(
            np.issubdtype(row.dtype, np.integer),
            f"prompt {i} has type {row.dtype}: ids are whole numbers; encode it first.",
        )
        require(
            bool(0 <= row.min() and row.max() < ids),
            f"prompt {i} holds ids {row.min()} to {row.max()}: the vocabulary has {ids}, use ids 0 to {ids - 1}; "
            "encode it with the run's own tokenizer.",
        )
        require(
            n < context,
            f"prompt {i} has {n} tokens, model.context_length is {context}: shorten the prompt by at least "
            f"{n - context + 1} tokens, so that a new one fits behind it.",
        )
        require(
            n + max_new_tokens <= context,
            f"prompt {i} has {n} tokens and max_new_tokens is {max_new_tokens}, together {n + max_new_tokens}: "
            f"model.context_length is {context}; use --max-new-tokens {context - n} at most, or shorten the prompt by "
            f"{n + max_new_tokens - context} tokens.",
        )
    if allowed is not None:
        width, groups = allowed.table_GV.shape[1], allowed.group_BT.shape[0]
        require(
            width == ids, f"allowed.table_GV is {width} ids wide, the vocabulary has {ids}: build it for {ids} ids."
        )
        require(
            groups in (1, len(rows)),
            f"allowed.group_BT has {groups} rows for {len(rows)} prompts: give one, or one a prompt.",
        )
