"""Speculative decoding: greedy ids are those of plain decoding, and what is drawn has the model's own distribution."""

import dataclasses
import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_automaton import LETTERS, STOP
from test_sampler import BASE, GREEDY, LOGPROB_CLOSE, NUM_IDS, UNLIKELY, prompts_of

from jgpt.automaton import automaton_for
from jgpt.config import ModelConfig
from jgpt.decoder import Decoder, decoder_for
from jgpt.filters import stages_of
from jgpt.model import gpt
from jgpt.sampler import sample, stream
from jgpt.sampling import Allowed, Sampling
from jgpt.speculative import Speculation, look_up

CONFIGS = {
    "target": dataclasses.replace(
        BASE, num_kv_heads=2, windows=(8, None), ngrams=(2,), ngram_rows=64, embedding_conv=3
    ),
    "wide window": dataclasses.replace(BASE, windows=(28, None)),
    "wider window": dataclasses.replace(BASE, windows=(40, None)),
    "draft": dataclasses.replace(BASE, num_layers=1, norm="layernorm", positions="learned", vocab_multiple=64),
}
WIDTH = 6  # ids of the fakes


@functools.cache
def model(name: str) -> tuple[dict, Decoder]:
    """Return parameters drawn so wide that logits differ clearly, and the decoder."""
    cfg: ModelConfig = gpt.resolve(CONFIGS[name], vocab_size=NUM_IDS, backend="cpu")
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(gpt.init, cfg), jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), jnp.float32), shapes)
    return gpt.unstack(params), decoder_for(cfg, NUM_IDS)


def speculation(name: str) -> Speculation:
    if name == "look-up":
        return Speculation(ahead=3, lookup=1)
    params, draft = model("draft" if name == "another" else "target")
    if name == "almost itself":
        rng = np.random.default_rng(2)
        params = jax.tree.map(lambda a: a + jnp.asarray(rng.normal(0, 0.06, a.shape), a.dtype), params)
    return Speculation(ahead=3, draft=draft, draft_params=params)


@functools.cache
def table_decoder(width: int = WIDTH) -> Decoder:
    """Return a decoder whose logits are row `last token` of its parameters, and which scores several tokens as well."""

    def apply(table_VV, tokens_BS, positions_BS, cache, index_B):
        return table_VV[jnp.take_along_axis(tokens_BS, index_B[:, None], axis=1)[:, 0]], cache

    return Decoder(
        apply,
        lambda batch, length: (),
        width,
        64,
        verify=lambda table_VV, tokens_BS, _, cache: (table_VV[tokens_BS], cache),
    )


@pytest.mark.parametrize("name", [pytest.param("itself", marks=pytest.mark.slow), "almost itself", "look-up"])
def test_greedy_ids_are_those_of_plain_decoding(name: str) -> None:
    """Ragged prompts, an answer up to the end of the context, a late stop id, and cached models with windows and n-grams."""
    params, decoder = model("target")
    prompts = [*prompts_of(3, 20, 9), [1, 2, 3] * 5]
    draw = Sampling(temperature=0.0, min_new_tokens=20)
    options = {"max_new_tokens": 28, "sampling": draw, "stop_ids": (4,)}
    plain = sample(decoder, params, prompts, **options)
    got = sample(decoder, params, prompts, speculation=speculation(name), **options)
    for a, b, p, q in zip(plain.tokens, got.tokens, plain.logprobs, got.logprobs, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(p, q, atol=LOGPROB_CLOSE)
    assert plain.finished == got.finished
    assert sum(row.count for row in got.passes) < sum(row.count for row in plain.passes)
    if name == "itself":
        assert got.accepted_share() == 1.0
        assert all(row.count <= 1 + len(ids) // 4 for row, ids in zip(got.passes, got.tokens, strict=True))
    else:
        assert 0 < got.accepted_share() < 1


@pytest.mark.parametrize("name", ["wide window", "wider window"])
def test_proposals_past_the_end_touch_nothing_where_a_layer_with_a_window_keeps_the_whole_row(name: str) -> None:
    """The answer ends with the cache, of 32 tokens here; eight more are proposed beyond."""
    (params, decoder), prompts = model(name), prompts_of(*[16, 16, 15, 14] * 4)
    plain, got = (
        sample(decoder, params, prompts, max_new_tokens=16, sampling=GREEDY, speculation=given)
        for given in (None, Speculation(ahead=8, lookup=1))
    )
    for a, b, p, q in zip(plain.tokens, got.tokens, plain.logprobs, got.logprobs, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(p, q, atol=LOGPROB_CLOSE)


@pytest.mark.slow
def test_a_row_does_not_feel_its_batch_and_a_stream_ends_as_the_sample() -> None:
    """Rows advance by different amounts; the same ids come alone, with their neighbours, and piece by piece."""
    params, decoder = model("target")
    prompts, options = prompts_of(3, 20, 9, 4), {"max_new_tokens": 28, "speculation": speculation("another"), "top": 2}
    whole = sample(decoder, params, prompts, seeds=[5, 6, 7, 8], **options)
    *_, last = stream(decoder, params, prompts, seeds=[5, 6, 7, 8], every=2, **options)
    moved = sample(decoder, params, prompts[::-1], seeds=[8, 7, 6, 5], **options)
    for i in range(4):
        np.testing.assert_array_equal(whole.tokens[i], last.tokens[i])
        np.testing.assert_array_equal(whole.tokens[i], moved.tokens[3 - i])
        np.testing.assert_array_equal(whole.top[i][0], last.top[i][0])
    assert len({row.count for row in whole.passes}) > 1


def plain_distribution(table: np.ndarray, draw: Sampling, history: list[int], allowed: list[int]) -> np.ndarray:
    """Return the probabilities of the next id, by NumPy: penalties, biases, temperature, top-k."""
    logits = np.full(WIDTH, -np.inf)
    logits[allowed] = table[history[-1], allowed]
    for i, n in Counter(history[1:]).items():
        logits[i] -= draw.frequency_penalty * n
    for i, bias in draw.logit_bias:
        logits[i] += bias
    logits /= draw.temperature
    if draw.top_k is not None:
        logits[logits < np.sort(logits)[-draw.top_k]] = -np.inf
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("draw", "allowed"),
    [
        pytest.param(Sampling(), list(range(WIDTH)), marks=pytest.mark.slow),
        (
            Sampling(temperature=0.7, top_k=3, frequency_penalty=0.8, logit_bias=((2, 0.7),), min_new_tokens=2),
            [0, 1, 2, 4, 5],
        ),
    ],
    ids=["plain", "filtered"],
)
@pytest.mark.parametrize("who", ["draft", "look-up"])
def test_three_tokens_in_a_row_have_the_models_own_probabilities(draw: Sampling, allowed: list[int], who: str) -> None:
    """A chi-square test over the sequences of tokens 2 to 4 against exact probabilities, by enumeration.

    The first token comes from the prefill, the rest from proposals, redraws, and what follows accepted ones. Id 5 stops, and
    with `min_new_tokens` only from the third on.
    """
    rng = np.random.default_rng(7)
    table, other = rng.normal(0, 1.0, (2, WIDTH, WIDTH)).astype(np.float32)
    given = Speculation(ahead=2, draft=table_decoder(), draft_params=jnp.asarray(other))
    prompt = [3]
    if who == "look-up":
        given, prompt = Speculation(ahead=2, lookup=1), [0, 1, 2, 1, 4, 0, 3]
    rows = 4096
    got = sample(
        table_decoder(),
        jnp.asarray(table),
        [prompt] * rows,
        sampling=draw,
        seeds=3,
        max_new_tokens=3,
        stop_ids=(5,),
        allowed=Allowed.phases([(allowed, None)], WIDTH),
        speculation=given,
    )
    ends = [(5,) * (end == "stop") for end in got.finished]
    counts = Counter((*ids.tolist(), *end) for ids, end in zip(got.tokens, ends, strict=True))
    expected: dict[tuple, float] = {}

    def enumerate_from(ids: tuple[int, ...], weight: float) -> None:
        if len(ids) == 3 or 5 in ids:
            expected[ids] = weight
            return
        some = [i for i in allowed if i != 5 or len(ids) >= draw.min_new_tokens]
        for i, p in enumerate(plain_distribution(table, draw, [prompt[-1], *ids], some)):
            if p > 0:
                enumerate_from((*ids, i), weight * p)

    enumerate_from((), 1.0)
    assert set(counts) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1)
    likely = [ids for ids, p in expected.items() if p * rows >= 5]
    observed = [*(counts[ids] for ids in likely), rows - sum(counts[ids] for ids in likely)]
    wanted = np.array([expected[ids] * rows for ids in likely] + [rows * (1 - sum(expected[ids] for ids in likely))])
    assert scipy.stats.chisquare(observed, wanted * rows / wanted.sum()).pvalue > UNLIKELY
    assert 0.1 < got.accepted_share() < 0.95


def test_a_pattern_holds_and_the_draft_follows_it_too() -> None:
    """Constrained rows give the greedy ids of plain decoding; a draft equal to the model is always accepted."""
    table = jnp.asarray(np.random.default_rng(3).normal(0, 1.5, (24, 24)), jnp.float32)
    options = {
        "max_new_tokens": 12,
        "stop_ids": (STOP,),
        "automata": automaton_for(LETTERS, (STOP,), pattern="(ab|b0){2,5}1"),
    }
    decoder = dataclasses.replace(table_decoder(24), num_ids=LETTERS.size)
    given = Speculation(ahead=4, draft=decoder, draft_params=table)
    plain = sample(decoder, table, [[1], [2]], sampling=GREEDY, **options)
    got = sample(decoder, table, [[1], [2]], sampling=GREEDY, speculation=given, **options)
    for a, b in zip(plain.tokens, got.tokens, strict=True):
        np.testing.assert_array_equal(a, b)
    assert got.finished == plain.finished and got.accepted_share() == 1.0


def test_look_up_takes_the_place_with_the_most_to_follow() -> None:
    """Against a loop in Python over random texts; behind the text may lie anything."""
    rng = np.random.default_rng(2)
    text = rng.integers(0, 3, (40, 12)).astype(np.int32)
    begun = rng.integers(1, 13, 40).astype(np.int32)
    for last in (1, 2):
        guess, count = jax.jit(look_up, static_argnums=(2, 3))(text, begun, last, 3)
        for row, n, ids, found in zip(text.tolist(), begun.tolist(), np.asarray(guess), np.asarray(count), strict=True):
            row, best = row[:n], []
            for place in range(n - last):
                follows = row[place + last : place + last + 3]
                if row[place : place + last] == row[n - last :] and len(follows) >= len(best):
                    best = follows
            assert ids[:found].tolist() == best


def test_a_repeating_text_needs_a_quarter_of_the_passes() -> None:
    table = 9.0 * jnp.roll(jnp.eye(WIDTH), 1, axis=1)
    got = sample(
        table_decoder(),
        table,
        [[0, 1, 2, 3, 4, 5] * 2],
        sampling=GREEDY,
        max_new_tokens=41,
        speculation=Speculation(3, 2),
    )
    assert got.tokens[0].tolist() == [i % WIDTH for i in range(41)]
    assert got.passes[0].count == 10 and got.accepted_share() == 1.0


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: Speculation(), "give one of them"),
        (lambda: Speculation(lookup=0), "lookup is 0"),
        (lambda: Speculation(lookup=2, ahead=0), "ahead is 0"),
        (lambda: Speculation(draft=table_decoder(), lookup=2), "give one of them"),
        (lambda: try_with(Speculation(draft=table_decoder(7))), "knows 7 ids and the model 6"),
        (
            lambda: try_with(Speculation(draft=dataclasses.replace(table_decoder(), context_length=4))),
            "context_length is 4",
        ),
        (lambda: try_with(Speculation(lookup=2), verify=None), "verify is None"),
        (lambda: try_with(Speculation(lookup=2, ahead=9), rewind=8), "ahead is 9.*at most 8 tokens"),
        (lambda: try_with(Speculation(lookup=2), guidance=2.0), "guidance and speculative decoding"),
    ],
)
def test_what_does_not_fit_is_refused(make, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        make()


def try_with(given: Speculation, guidance: float = 1.0, **changes) -> None:
    decoder = dataclasses.replace(table_decoder(), **changes)
    without = None if guidance == 1.0 else [[1]]
    draw = Sampling(guidance=guidance)
    sample(decoder, jnp.eye(WIDTH), [[1]], max_new_tokens=5, sampling=draw, unconditional=without, speculation=given)


def test_a_draft_that_has_diverged_is_an_error() -> None:
    given = Speculation(draft=table_decoder(), draft_params=jnp.full((WIDTH, WIDTH), jnp.nan))
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(table_decoder(), jnp.eye(WIDTH), [[1]], max_new_tokens=3, speculation=given)
    assert stages_of([GREEDY]).noise is False
