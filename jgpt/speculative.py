"""Speculative decoding: several tokens a pass of the model, from the same distribution as one by one.

A proposer guesses the next K tokens: a smaller model (a draft), or the words that followed the last time that the text read
as it does now (prompt look-up). The model scores all of them in one pass over its cache; each is accepted with probability
min(1, p / q), and the first that is not is drawn again from max(p - q, 0), which together is a draw from p (Leviathan et al.
2023, appendix A.1; Chen et al. 2023, theorem 1). p and q are the distributions after all masks, penalties, biases and filters,
as they are at that token of that row. A look-up's q is a point mass; a greedy row's p is one, so that its ids are those of
plain decoding.

Owns the proposals and the rule; `decode_loop` records what is accepted. Rows advance by different amounts: slot t of a cache
holds position t, so what was rejected is overwritten by the next pass, which begins there, before any query sees it.

Here K counts proposals, C = K + 1 the positions that are scored, L prompt plus output, T generated tokens and M, N, P, R as
in `decode_loop`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgpt import filters
from jgpt.check import require
from jgpt.decode_loop import State, follow, keys, possible, record
from jgpt.decoder import Decoder
from jgpt.filters import Knobs, Stages, Written
from jgpt.sampler_batch import Prompts, Requests, Work

ACCEPT, REDRAW, PROPOSE = range(3)  # what a step's key is split for; plain decoding draws with the key itself
AHEAD: Final = 4


class Proposer(NamedTuple):
    """Who proposes, and how much. Static: a change compiles again.

    Attributes:
        ahead: tokens proposed at once.
        lookup: last tokens that must have stood in the text before; None = the draft proposes.
        draft: model that proposes; None = look-up.
    """

    ahead: int
    lookup: int | None
    draft: Decoder | None


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding as it is asked for: a draft with its parameters, or a look-up.

    Attributes:
        ahead: tokens proposed at once.
        lookup: last tokens of the text that are looked for earlier in it.
        draft: a model of the same ids that proposes.
        draft_params: its parameters.
    """

    ahead: int = AHEAD
    lookup: int | None = None
    draft: Decoder | None = None
    draft_params: Any = None

    def __post_init__(self) -> None:
        require(self.ahead >= 1, f"ahead is {self.ahead}: propose at least 1 token.")
        require(
            (self.lookup is None) != (self.draft is None),
            "speculative decoding takes proposals from a draft or from a look-up: give one of them.",
        )
        require(
            self.lookup is None or self.lookup >= 1,
            f"lookup is {self.lookup}: look for the last 1 or more tokens, such as --lookup 3.",
        )

    @property
    def proposer(self) -> Proposer:
        """The static part."""
        return Proposer(self.ahead, self.lookup, self.draft)


class Guessing(NamedTuple):
    """What the loop carries beside `State`.

    Attributes:
        cache: of the draft; None where a look-up proposes.
        passes_B: passes of the model that each row took part in, after its prefill.
        tested_B: proposals that were put to the test: those behind a rejected one are not.
        accepted_B: proposals that were accepted.
    """

    cache: Any
    passes_B: Int[Array, " B"]
    tested_B: Int[Array, " B"]
    accepted_B: Int[Array, " B"]


def check(speculation: Speculation, decoder: Decoder, requests: Requests) -> None:
    """Raise ValueError where the draft does not fit the model, or something is asked that cannot be speculated about."""
    require(
        decoder.verify is not None, "this decoder cannot score several tokens at once (verify is None): decode plainly."
    )
    require(
        all(sampling.guidance == 1.0 for sampling in requests.samplings),
        "guidance and speculative decoding are asked for together, which is not supported: leave one of them out.",
    )
    draft = speculation.draft
    for name, model in (("the model", decoder), ("the draft", draft)):
        back = None if model is None else model.rewind
        require(
            back is None or speculation.ahead <= back,
            f"ahead is {speculation.ahead}, and {name} has windows, whose cache lets at most {back} tokens be taken back: "
            f"propose {back} or fewer.",
        )
    if draft is None:
        return
    require(
        draft.ids == decoder.ids,
        f"the draft knows {draft.ids} ids and the model {decoder.ids}: a draft needs the model's own vocabulary.",
    )
    together = (prompt.size + new for prompt, new in zip(requests.prompts, requests.max_new_tokens, strict=True))
    longest = max(together, default=0)
    require(
        longest <= draft.context_length + 1,
        f"prompt and answer have up to {longest} tokens together, and the draft's model.context_length is "
        f"{draft.context_length}: ask for fewer tokens, or use a draft of a longer context.",
    )


def start(cache: Any, rows: int) -> Guessing:
    """Return the state before the first pass. `cache` of the draft holds the prompts."""
    return Guessing(cache, *jax.device_put([np.zeros(rows, np.int32) for _ in range(3)]))


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(6, 7))
def advance(
    decoder: Decoder,
    stages: Stages,
    proposer: Proposer,
    params: Any,
    prompts: Prompts,
    work: Work,
    state: State,
    guessing: Guessing,
    most: Int[Array, ""],
) -> tuple[State, Guessing]:
    """Return the state after at most `most` more passes, each of 1 to K + 1 tokens a row, or when every row is done.

    Args:
        decoder: the model.
        stages: what the rows need.
        proposer: who proposes.
        params: (of the model, of the draft).
        prompts: of the rows.
        work: the rows.
        state: so far.
        guessing: so far.
        most: passes.
    """
    rows_B = jnp.arange(work.live_B.shape[0])
    texts_BS = prompts.tokens_PS[prompts.source_R]
    verify: Any = decoder.verify  # not None: see `check`

    def generate(carried: tuple[Array, State, Guessing]) -> tuple[Array, State, Guessing]:
        count, state, guessing = carried
        text_BL = _text(texts_BS, work, state)
        begun_B = work.lengths_R + state.step_B  # tokens of prompt and output
        if proposer.draft is None:
            guess_BK, count_B = look_up(text_BL, begun_B, proposer.lookup or 1, proposer.ahead)
            logq_KBV = None
        else:
            before_B = text_BL[rows_B, begun_B - 2]
            guess_BK, logq_KBV, cache = _draft(proposer, stages, params[1], work, state, before_B, guessing.cache)
            guessing = guessing._replace(cache=cache)
            count_B = jnp.full(rows_B.shape, proposer.ahead, jnp.int32)
        tokens_BC = jnp.concatenate([state.token_B[:, None], guess_BK], axis=1)
        positions_BC = begun_B[:, None] - 1 + jnp.arange(tokens_BC.shape[1], dtype=jnp.int32)[None, :]
        logits_BCV, cache = verify(params[0], tokens_BC, positions_BC, state.cache)
        live_B = ~state.done_B
        state = state._replace(cache=cache)
        state, tested_B, accepted_B = _accept(stages, work, state, logits_BCV, guess_BK, logq_KBV, count_B)
        guessing = guessing._replace(
            passes_B=guessing.passes_B + live_B,
            tested_B=guessing.tested_B + tested_B,
            accepted_B=guessing.accepted_B + accepted_B,
        )
        return count + 1, state, guessing

    return jax.lax.while_loop(
        lambda carried: (carried[0] < most) & ~carried[1].done_B.all(), generate, (jnp.int32(0), state, guessing)
    )[1:]


def distribution(
    stages: Stages, knobs: Knobs, logits_BV: Float[Array, "B V"], written: Written | None
) -> Float[Array, "B V"]:
    """Return the log-probabilities [nats] that a token is drawn by; a greedy row has one id, of log-probability 0.

    Args:
        stages: what `knobs` needs.
        knobs: how each row is drawn.
        logits_BV: -inf where an id is not allowed.
        written: what penalties look at.
    """
    filtered_BV = filters.filter_logits(logits_BV, knobs, written, stages)
    best_B1 = jnp.argmax(filtered_BV, axis=-1)[:, None]
    best_BV = jnp.where(jnp.arange(logits_BV.shape[-1])[None, :] == best_B1, 0.0, -jnp.inf)
    if not stages.noise:
        return best_BV
    return jnp.where(filters.is_greedy(knobs.temperature_B)[:, None], best_BV, jax.nn.log_softmax(filtered_BV))


def look_up(
    text_BL: Int[Array, "B L"], begun_B: Int[Array, " B"], last: int, ahead: int
) -> tuple[Int[Array, "B K"], Int[Array, " B"]]:
    """Return what followed the last time that each text read as it does at its end, and how much of it there is.

    Of several places the one with the most to follow counts, up to `ahead` tokens; of those, the latest. After
    "a b c a b", with last = 2, it proposes c a b.

    Args:
        text_BL: tokens of prompt and output.
        begun_B: length of each.
        last: tokens at the end that must agree.
        ahead: tokens to propose.
    """
    L = text_BL.shape[1]
    places_L = jnp.arange(L)
    rows_B1 = jnp.arange(text_BL.shape[0])[:, None]
    same_BL = jnp.ones(text_BL.shape, bool)
    for i in range(last):  # the text behind each place, against the last tokens
        own_B1 = text_BL[rows_B1, jnp.maximum(begun_B[:, None] - last + i, 0)]
        same_BL &= jnp.roll(text_BL, -i, axis=1) == own_B1
    room_BL = begun_B[:, None] - (places_L[None, :] + last)  # tokens behind the place; the end itself has none
    worth_BL = jnp.where(same_BL & (room_BL > 0), jnp.minimum(room_BL, ahead) * L + places_L[None, :], -1)
    place_B = jnp.argmax(worth_BL, axis=1)
    found_B = (worth_BL.max(1) >= 0) & (begun_B > last)
    from_BK = place_B[:, None] + last + jnp.arange(ahead)[None, :]
    count_B = jnp.where(found_B, jnp.minimum(begun_B - place_B - last, ahead), 0)
    return text_BL[rows_B1, jnp.minimum(from_BK, L - 1)], count_B.astype(jnp.int32)


def _text(texts_BS: Int[Array, "B S"], work: Work, state: State) -> Int[Array, "B L"]:
    """Return prompt and output of each row in one piece; what lies behind them is not defined."""
    B, T = state.tokens_BT.shape
    slots_BT = work.lengths_R[:, None] + jnp.arange(T)[None, :]
    text_BL = jnp.concatenate([texts_BS, jnp.zeros((B, T), texts_BS.dtype)], axis=1)
    return text_BL.at[jnp.arange(B)[:, None], slots_BT].set(state.tokens_BT)


def _draft(
    proposer: Proposer,
    stages: Stages,
    params: Any,
    work: Work,
    state: State,
    before_B: Int[Array, " B"],
    cache: Any,
) -> tuple[Int[Array, "B K"], Float[Array, "K B V"], Any]:
    """Return the draft's proposals, the log-probabilities that they were drawn by, and its cache.

    The cache may lack the token before the last: the last of the proposals is never fed, and may have been accepted. So the
    first pass feeds both.
    """
    draft: Any = proposer.draft
    V = work.stop_V.shape[0]
    position_B = work.lengths_R + state.step_B - 1
    zeros_B = jnp.zeros_like(position_B)

    def choose(logits_BV: Array, state: State) -> tuple[State, tuple[Array, Array]]:
        """Draw a proposal; `state` runs ahead of what is certain, and only its penalties and masks are looked at."""
        width = min(V, logits_BV.shape[-1])  # the two models may pad the ids differently
        logits_BV = jnp.full((logits_BV.shape[0], V), -jnp.inf).at[:, :width].set(logits_BV[:, :width])
        logits_BV = jnp.where(possible(work, state.step_B, state.automaton_B), logits_BV, -jnp.inf)
        logq_BV = distribution(stages, work.knobs, logits_BV, state.written)
        token_B = _drawn(stages, work, state.step_B, PROPOSE, logq_BV)
        written = state.written
        if written is not None:
            written = written._replace(uses_BV=written.uses_BV.at[jnp.arange(token_B.shape[0]), token_B].add(1))
        automaton_B = follow(work, state.automaton_B, token_B, jnp.ones(token_B.shape, bool))
        state = state._replace(step_B=state.step_B + 1, token_B=token_B, written=written, automaton_B=automaton_B)
        return state, (token_B, logq_BV)

    def propose(carried: tuple[State, Any], ahead: Array) -> tuple[tuple[State, Any], tuple[Array, Array]]:
        state, cache = carried
        logits_BV, cache = draft.apply(params, state.token_B[:, None], (position_B + ahead)[:, None], cache, zeros_B)
        state, out = choose(logits_BV, state)
        return (state, cache), out

    state = state._replace(cache=None)
    both_B2 = jnp.stack([before_B, state.token_B], axis=1)
    positions_B2 = jnp.stack([position_B - 1, position_B], axis=1)
    logits_BV, cache = draft.apply(params, both_B2, positions_B2, cache, zeros_B + 1)
    state, first = choose(logits_BV, state)
    (_, cache), rest = jax.lax.scan(propose, (state, cache), jnp.arange(1, proposer.ahead))
    guess_KB, logq_KBV = (jnp.concatenate([a[None], b]) for a, b in zip(first, rest, strict=True))
    return guess_KB.T, logq_KBV, cache


def _accept(
    stages: Stages,
    work: Work,
    state: State,
    logits_BCV: Float[Array, "B C V"],
    guess_BK: Int[Array, "B K"],
    logq_KBV: Float[Array, "K B V"] | None,
    count_B: Int[Array, " B"],
) -> tuple[State, Int[Array, " B"], Int[Array, " B"]]:
    """Return the state with the accepted proposals and one more token of each row, and how many were tested and accepted."""
    ids_V = jnp.arange(logits_BCV.shape[-1])
    guess_CB = jnp.concatenate([guess_BK, guess_BK[:, :1]], axis=1).T  # behind the last proposal none is tested
    more = None if logq_KBV is None else jnp.concatenate([logq_KBV, logq_KBV[:1]])

    def take(carried: tuple, xs: tuple) -> tuple[tuple, None]:
        state, alive_B, tested_B, accepted_B = carried
        place, logits_BV, guess_B, logq_BV = xs
        mask_BV = possible(work, state.step_B, state.automaton_B)
        logits_BV = jnp.where(mask_BV, logits_BV.astype(jnp.float32), -jnp.inf)
        p_BV = jnp.exp(distribution(stages, work.knobs, logits_BV, state.written))
        certain_BV = ids_V[None, :] == guess_B[:, None]
        q_BV = certain_BV.astype(jnp.float32) if logq_BV is None else jnp.exp(logq_BV)
        test_B = alive_B & (place < count_B)
        p_B, q_B = (jnp.where(certain_BV, a_BV, 0.0).sum(-1) for a_BV in (p_BV, q_BV))
        chance_B = jnp.zeros_like(p_B)
        if stages.noise:
            chance_B = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, ACCEPT)))(
                keys(work, state.step_B)
            )
        accept_B = test_B & (chance_B * q_B < p_B)
        left_BV = jnp.where(test_B[:, None], jnp.maximum(p_BV - q_BV, 0.0), p_BV)
        left_BV = jnp.where(left_BV.sum(-1, keepdims=True) > 0, left_BV, p_BV)  # p = q but for rounding
        token_B = jnp.where(accept_B, guess_B, _drawn(stages, work, state.step_B, REDRAW, jnp.log(left_BV)))
        logprobs_BV = jax.nn.log_softmax(logits_BV)
        logprobs_BV = jnp.where(jnp.isnan(q_BV).any(-1, keepdims=True), jnp.nan, logprobs_BV)  # the draft has diverged
        state = record(stages, work, state, token_B, logprobs_BV, alive_B)
        return (state, alive_B & accept_B & ~state.done_B, tested_B + test_B, accepted_B + accept_B), None

    zeros_B, cache = jnp.zeros_like(count_B), state.cache
    carried = (state._replace(cache=None), ~state.done_B, zeros_B, zeros_B)
    xs = (jnp.arange(guess_CB.shape[0]), jnp.moveaxis(logits_BCV, 1, 0), guess_CB, more)
    (state, _, tested_B, accepted_B), _ = jax.lax.scan(take, carried, xs)
    return state._replace(cache=cache), tested_B, accepted_B


def _drawn(
    stages: Stages, work: Work, step_B: Int[Array, " B"], what: int, log_BV: Float[Array, "B V"]
) -> Int[Array, " B"]:
    """Return one id a row, drawn with the step's key for this purpose.

    What is proposed for a step and never tested, because one before it was rejected, has had no effect: the same noise may
    serve once more.
    """
    if not stages.noise:
        return jnp.argmax(log_BV, axis=-1).astype(jnp.int32)
    folded_B = jax.vmap(jax.random.fold_in, (0, None))(keys(work, step_B), what)
    return jax.vmap(jax.random.categorical)(folded_B, log_BV).astype(jnp.int32)
