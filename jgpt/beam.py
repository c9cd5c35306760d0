"""Beam search: the most probable texts, by keeping the K best beginnings at every step.

Of the K beginnings and the V ids that may follow each, the K best that do not end the text go on; an end that is among the K
best of all is kept as a finished text. Texts of different lengths are compared by their summed log-probability over
((5 + length) / 6) ** alpha, their end marker counted (Wu et al. 2016, equation 14; without its coverage, which needs a source).
With alpha = 0 that is the plain sum, and one beam is greedy decoding. The search stops when nothing unfinished can come
before what is finished: sums only fall, and no length divides by more than the longest.

Owns the search and what it refuses; `decode_loop` says which ids may stand where, and fills the cache.

Here K counts beams, R = B K rows of the model, those of a prompt side by side, and T generated tokens.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jgpt import decode_loop, sampler_batch
from jgpt.automaton import Automaton
from jgpt.check import require
from jgpt.decode_loop import follow, possible
from jgpt.decoder import Decoder
from jgpt.sampler import MAX_ROWS, Passes, Samples
from jgpt.sampler_batch import Prompts, Requests, Work, bucket, lay_out
from jgpt.sampling import Allowed, Sampling

LARGEST_PENALTY: Final = 10.0


class Texts(NamedTuple):
    """Texts of each prompt, best first.

    Attributes:
        scores_BK: what they are compared by [nats]; -inf where there is none. Sums for unfinished texts.
        tokens_BKT: ids, without the end marker.
        logprobs_BKT: their log-probabilities [nats].
        lengths_BK: ids of each.
    """

    scores_BK: Float[Array, "B K"]
    tokens_BKT: Int[Array, "B K T"]
    logprobs_BKT: Float[Array, "B K T"]
    lengths_BK: Int[Array, "B K"]


class Search(NamedTuple):
    """What the loop carries.

    Attributes:
        step: ids in every unfinished text.
        done_B: nothing better can come.
        bad_B: logits were not finite.
        live: unfinished texts, whose last ids are not yet in the cache.
        ended: finished texts.
        cache: of the model.
        automaton_R: state of each row's automaton; None where no row has one.
    """

    step: Int[Array, ""]
    done_B: Bool[Array, " B"]
    bad_B: Bool[Array, " B"]
    live: Texts
    ended: Texts
    cache: Any
    automaton_R: Int[Array, " R"] | None


class Rules(NamedTuple):
    """What a search is after.

    Attributes:
        wanted_B: best texts that are asked for, 1 to K.
        longest: ids of a text at most, its end marker included.
        alpha: exponent of the length penalty.
    """

    wanted_B: Int[Array | np.ndarray, " B"]
    longest: Array | np.int32
    alpha: Array | np.float32


def length_penalty(length: Any, alpha: Any) -> Any:
    """Return what a summed log-probability is divided by (Wu et al. 2016, equation 14)."""
    return ((5.0 + length) / 6.0) ** alpha


@partial(jax.jit, static_argnums=(0, 1, 2))
def run(decoder: Decoder, beams: int, length: int, params: Any, prompts: Prompts, work: Work, rules: Rules) -> Search:
    """Return the end of the search.

    Args:
        decoder: the model.
        beams: K.
        length: of the cache.
        params: of the model.
        prompts: of the rows.
        work: of the rows: K equal ones a prompt.
        rules: what is searched.
    """
    R, T = work.group_BT.shape
    B = R // beams
    none = Texts(
        jnp.full((B, beams), -jnp.inf),
        jnp.zeros((B, beams, T), jnp.int32),
        jnp.zeros((B, beams, T)),
        jnp.zeros((B, beams), jnp.int32),
    )
    logits_RV, cache = decode_loop.prefill(decoder, length, None, params, prompts)
    first = none._replace(scores_BK=none.scores_BK.at[:, 0].set(0.0))  # K equal beginnings would stay equal
    done_B = ~work.live_B[::beams]
    search = Search(jnp.int32(0), done_B, jnp.zeros(B, bool), first, none, cache, work.start_B)
    search = extend(work, rules, search, logits_RV)

    def go_on(search: Search) -> Search:
        token_R = search.live.tokens_BKT[:, :, search.step - 1].reshape(R)
        positions_R1 = (work.lengths_R + search.step - 1)[:, None]
        index_R = jnp.zeros(R, jnp.int32)
        logits_RV, cache = decoder.apply(params, token_R[:, None], positions_R1, search.cache, index_R)
        return extend(work, rules, search._replace(cache=cache), logits_RV)

    return jax.lax.while_loop(lambda search: ~search.done_B.all(), go_on, search)


def extend(work: Work, rules: Rules, search: Search, logits_RV: Float[Array, "R V"]) -> Search:
    """Return the search with one more id in every unfinished text."""
    live, step, V = search.live, search.step, logits_RV.shape[-1]
    B, K = live.scores_BK.shape
    mask_RV = possible(work, jnp.full(B * K, step), search.automaton_R)
    logprobs_RV = jax.nn.log_softmax(jnp.where(mask_RV, logits_RV.astype(jnp.float32), -jnp.inf))
    bad_RV = jnp.isnan(logprobs_RV) & jnp.isfinite(live.scores_BK).reshape(-1)[:, None]
    bad_B = search.bad_B | bad_RV.any(-1).reshape(B, K).any(-1)
    sums_BN = (live.scores_BK.reshape(-1)[:, None] + logprobs_RV).reshape(B, K * V)  # N: every beginning, every id
    stops_1N = jnp.tile(work.stop_V, K)[None, :]

    def follows(scores_BK: Array, at_BK: Array) -> tuple[Texts, Array, Array]:
        """Return the texts of places among N, the beginnings they come from, and their last ids."""
        parent_BK, token_BK = at_BK // V, (at_BK % V).astype(jnp.int32)
        from_BK1 = parent_BK[:, :, None]
        last_BK = jnp.take_along_axis(logprobs_RV.reshape(B, K * V), at_BK, axis=1)
        tokens_BKT = jnp.take_along_axis(live.tokens_BKT, from_BK1, axis=1)
        logprobs_BKT = jnp.take_along_axis(live.logprobs_BKT, from_BK1, axis=1)
        texts = Texts(scores_BK, tokens_BKT, logprobs_BKT.at[:, :, step].set(last_BK), jnp.full((B, K), step))
        return texts, parent_BK, token_BK

    best_BK, at_BK = jax.lax.top_k(sums_BN, K)
    ends, _, token_BK = follows(best_BK / length_penalty(step + 1, rules.alpha), at_BK)
    ends = ends._replace(scores_BK=jnp.where(work.stop_V[token_BK], ends.scores_BK, -jnp.inf))
    ended = _best(search.ended, ends)

    next_BK, at_BK = jax.lax.top_k(jnp.where(stops_1N, -jnp.inf, sums_BN), K)
    going, parent_BK, token_BK = follows(next_BK, at_BK)
    going = going._replace(tokens_BKT=going.tokens_BKT.at[:, :, step].set(token_BK), lengths_BK=going.lengths_BK + 1)
    parent_R = (jnp.arange(B)[:, None] * K + parent_BK).reshape(-1)
    cache = jax.tree.map(lambda leaf: leaf[parent_R], search.cache)
    automaton_R = None if search.automaton_R is None else search.automaton_R[parent_R]
    automaton_R = follow(work, automaton_R, token_BK.reshape(-1), jnp.isfinite(next_BK).reshape(-1))

    hope_B = next_BK[:, 0] / length_penalty(rules.longest, rules.alpha)
    worst_B = jnp.take_along_axis(ended.scores_BK, rules.wanted_B[:, None] - 1, axis=1)[:, 0]
    over_B = search.done_B | (worst_B >= hope_B) | bad_B
    going = going._replace(scores_BK=jnp.where(over_B[:, None], -jnp.inf, going.scores_BK))  # nothing changes any more
    full = step + 1 >= rules.longest
    return Search(step + 1, over_B | full, bad_B, going, ended, cache, automaton_R)


def _best(old: Texts, new: Texts) -> Texts:
    """Return the K best of 2 K texts; among equals the older."""
    K = old.scores_BK.shape[1]
    both = [jnp.concatenate(pair, axis=1) for pair in zip(old, new, strict=True)]
    scores_BK, at_BK = jax.lax.top_k(both[0], K)
    rest = [jnp.take_along_axis(a, at_BK.reshape(*at_BK.shape, *[1] * (a.ndim - 2)), axis=1) for a in both[1:]]
    return Texts(scores_BK, *rest)


def search(
    decoder: Decoder,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    beams: int,
    max_new_tokens: int,
    alpha: float = 0.0,
    sampling: Sampling = Sampling(temperature=0.0),  # noqa: B008 - frozen
    stop_ids: Sequence[int] = (),
    allowed: Allowed | None = None,
    pad_id: int = 0,
    automata: Automaton | None = None,
) -> Samples:
    """Return the best text of each prompt; of equal prompts the first gets the best one, the next the second best.

    Args:
        decoder: the model.
        params: its parameters.
        prompts: ids of each, of any lengths.
        beams: beginnings that are kept at each step.
        max_new_tokens: longest text [tokens], its stop id included.
        alpha: of the length penalty; 0 = none, above 0 favours longer texts.
        sampling: its `min_new_tokens` is kept; whatever else would change the probabilities is refused.
        stop_ids: ids that end a text.
        allowed: ids that may be generated, and where, the same for all prompts; None = all.
        pad_id: fed where a row has none.
        automata: that all texts follow.

    Raises:
        ValueError: a number is out of range, a prompt does not fit, or more texts are asked of a prompt than there are beams.
        FloatingPointError: the model's logits are not finite.
    """
    require(1 <= beams <= MAX_ROWS, f"beams is {beams}: use 1 to {MAX_ROWS}.")
    require(
        0 <= alpha <= LARGEST_PENALTY,
        f"length_penalty is {alpha}: must lie between 0 and {LARGEST_PENALTY:g}; 0 compares plain sums, 0.6 to 1 is usual.",
    )
    plain = (Sampling(min_new_tokens=sampling.min_new_tokens, temperature=t) for t in (0.0, 1.0))
    require(
        sampling in plain,
        f"beam search finds the most probable texts and draws nothing, but the sampling is {sampling}: leave out temperature, "
        "filters, penalties, biases and guidance, or leave out beams.",
    )
    rows = [np.asarray(prompt) for prompt in prompts]
    numbers: dict[str, list[int]] = {}  # prompts that are equal
    for i, row in enumerate(rows):
        numbers.setdefault(str(row.tolist()), []).append(i)
    groups = sorted(numbers.values(), key=lambda group: rows[group[0]].size)
    most = max(map(len, groups), default=0)
    require(most <= beams, f"{most} texts are asked of one prompt and beams is {beams}: use at least as many beams.")
    require(
        allowed is None or allowed.group_BT.shape[0] == 1,
        "allowed.group_BT has one row a prompt: beam search takes one for all.",
    )
    requests = Requests(
        prompts=rows,
        unconditional=None,
        seeds=[(0, 0)] * len(rows),
        samplings=[sampling] * len(rows),
        max_new_tokens=[max_new_tokens] * len(rows),
        stop_ids=stop_ids,
        allowed=allowed,
        pad_id=pad_id,
        automata=() if automata is None else [automata] * len(rows),
    )
    sampler_batch.check(requests, num_ids=decoder.ids, context_length=decoder.context_length, max_rows=MAX_ROWS)
    params = decoder.prepare(params)
    out: list[Any] = [None] * len(rows)
    at_once = max(1, MAX_ROWS // beams)
    for begin in range(0, len(groups), at_once):
        chunk = groups[begin : begin + at_once]
        found = _run(decoder, params, requests, chunk, beams, alpha)
        for group, texts in zip(chunk, found, strict=True):
            for i, text in zip(group, texts, strict=True):
                out[i] = text
    return Samples(*([row[field] for row in out] for field in range(len(Samples._fields))))


def _run(
    decoder: Decoder, params: Any, requests: Requests, groups: list[list[int]], beams: int, alpha: float
) -> list[list[tuple]]:
    """Return the best texts of prompts that are searched together, as many of each as `groups` has numbers."""
    B = bucket(len(groups), 1, MAX_ROWS)
    padded = groups + [groups[0]] * (B - len(groups))
    prompts, work = lay_out(
        requests,
        [group[0] for group in padded for _ in range(beams)],
        vocab_size=decoder.vocab_size,
        num_ids=decoder.ids,
        context_length=decoder.context_length,
        max_samples=B * beams,
    )
    work = work._replace(live_B=np.repeat(np.arange(B) < len(groups), beams))
    length = min(prompts.tokens_PS.shape[1] + work.group_BT.shape[1], decoder.context_length)
    wanted_B = np.array([len(group) for group in padded], np.int32)
    rules = Rules(wanted_B, np.int32(max(requests.max_new_tokens)), np.float32(alpha))
    prompts, work, rules = jax.device_put((prompts, work, rules))
    end = jax.device_get(run(decoder, beams, length, params, prompts, work, rules)._replace(cache=None))
    if end.bad_B.any():
        raise FloatingPointError(
            f"logits of {end.bad_B.sum()} of {len(groups)} prompts are not finite: the parameters hold NaN or infinity; "
            "sample an earlier checkpoint."
        )
    live = end.live._replace(scores_BK=end.live.scores_BK / length_penalty(end.step, alpha))
    out = []
    for b, group in enumerate(groups):
        found = [
            (-texts.scores_BK[b, k], rank, k, texts)
            for rank, texts in enumerate((end.ended, live))
            for k in range(beams)
            if np.isfinite(texts.scores_BK[b, k])
        ]
        require(
            len(found) >= len(group),
            f"{len(group)} texts are asked of a prompt that allows {len(found)} of at most "
            f"{max(requests.max_new_tokens)} tokens: ask for fewer.",
        )
        texts = []
        for _, rank, k, source in sorted(found, key=lambda entry: entry[:3])[: len(group)]:
            n = source.lengths_BK[b, k]
            ids, logprobs = source.tokens_BKT[b, k, :n].copy(), source.logprobs_BKT[b, k, :n].copy()
            nothing = (np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32))
            texts.append((ids, ("stop", "length")[rank], logprobs, nothing, Passes(int(end.step) - 1, 0, 0)))
        out.append(texts)
    return out
