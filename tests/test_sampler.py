"""Decoding: cached equals uncached, a row does not feel its batch, masks and stops hold, nothing compiles twice."""

import dataclasses
import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jgpt import presets
from jgpt.compiled import Programs
from jgpt.config import ModelConfig
from jgpt.decoder import Decoder, decoder_for
from jgpt.filters import Sampling
from jgpt.model import gpt
from jgpt.sampler import Samples, sample, stream
from jgpt.sampler_check import BOUNDS, against, against_forward, forward_logprobs, served, with_noise
from jgpt.sampling import Allowed
from jgpt.serve import slots

LOGPROB_CLOSE = 2e-5  # nats: f32 sums in another order (over a cache against over the row) at logits of order 10
UNLIKELY = 1e-4  # p-value below which a seeded chi-square test would be a surprise
GREEDY = Sampling(temperature=0.0)
NUM_IDS = 29  # no multiple of vocab_multiple: ids 29, 30 and 31 only pad the embedding

SIZES: dict[str, Any] = dict(num_layers=2, embed_dim=16, num_heads=4, context_length=48, compute_dtype="float32")
BASE = ModelConfig(**SIZES, init="gpt2")
CONFIGS = {  # every preset and every option of positions, attention, embedding and compute stands in one of these
    "gpt2": dataclasses.replace(
        BASE, norm="layernorm", positions="learned", mlp="gelu", use_bias=True, tie_embeddings=True, qk_norm=False
    ),
    # with a ring of 24 slots in the first layer, which rows of 44 tokens go round
    "rotary_gqa_window_softcap": dataclasses.replace(
        BASE, num_kv_heads=2, windows=(8, None), attention_softcap=5.0, logit_softcap=10.0
    ),
    "llama_no_positions_scan": presets.llama(**SIZES, positions="none", scan_layers=True, windows=(20, 5)),
    "modern_mqa_xla_ngrams": presets.modern(
        **SIZES,
        num_kv_heads=1,
        attention="xla",
        ngrams=(2, 4),
        ngram_rows=64,
        rotary_fraction=0.5,
        windows=(8, 3),
        embedding_conv=3,
        attention_gates=True,
        embedding_skips=True,
    ),
    "plane_sparse": presets.modern(
        **SIZES,
        positions="rotary_2d",
        image_start_id=3,
        picture_width=3,
        picture_cells=9,
        tokens_per_cell=1,
        patterns=("strided", "fixed"),
        pattern_stride=5,
    ),
    "bf16": presets.modern(**{**SIZES, "compute_dtype": "bfloat16"}, windows=(8, None), num_kv_heads=2),
}


FIRST = ("rotary_gqa_window_softcap", "modern_mqa_xla_ngrams")  # those that have the most ways to be wrong


@functools.cache
def model(name: str) -> tuple[ModelConfig, dict, Decoder]:
    """Return a resolved config, parameters drawn so wide that logits differ clearly, and the decoder."""
    cfg = gpt.resolve(CONFIGS[name], vocab_size=NUM_IDS, backend="cpu")
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(gpt.init, cfg), jax.random.key(0))
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.4, a.shape), jnp.float32), shapes)
    return cfg, params, decoder_for(cfg, NUM_IDS)


def prompts_of(*lengths: int) -> list[list[int]]:
    """Return random prompts of these lengths."""
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(0, NUM_IDS, n).tolist() for n in lengths]


def table_decoder(width: int = 8, context: int = 64, num_ids: int | None = None, traces: list | None = None) -> Decoder:
    """Return a decoder whose logits are row `last token` of the matrix given as its parameters."""

    def apply(table_VV, tokens_BS, positions_BS, cache, index_B):
        if traces is not None:
            traces.append(tokens_BS.shape)
        last_B = jnp.take_along_axis(tokens_BS, index_B[:, None], axis=1)[:, 0]
        return table_VV[last_B], cache

    return Decoder(apply, lambda batch, length: (), width, context, num_ids)


def counting_table(width: int = 8) -> jax.Array:
    """Return logits that make id i + 1 follow id i."""
    return 9.0 * jnp.roll(jnp.eye(width), 1, axis=1)


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_every_mode_gives_what_the_full_forward_gives(name: str) -> None:
    """In a batch of different lengths, alone, streamed and prefilled in pieces: ids and log-probabilities of one forward.

    Two of the rows are drawn, since a random model that is greedy soon repeats itself; with the noise of their seeds the
    forward chooses the same ids. One forward over a finished row gives the logits of all its steps: no position sees a
    later one.
    """
    cfg, params, decoder = model(name)
    bound = BOUNDS["bfloat16"] if cfg.compute_dtype == "bfloat16" else LOGPROB_CLOSE
    prompts = [np.asarray(prompt, np.int32) for prompt in prompts_of(3, 20, 9)]
    draw = [Sampling(temperature=2.0), GREEDY, Sampling()]
    options = {"sampling": draw, "seeds": [1, 2, 3], "max_new_tokens": 24}
    batch = sample(decoder, params, prompts, **options)
    expected = forward_logprobs(cfg, params, NUM_IDS, prompts, batch)
    # as many rows as above, so that the loop is compiled once; the prompt is fed alone, in a bucket of its own
    alone = sample(decoder, params, prompts[:1] * 3, sampling=draw[:1] * 3, seeds=[1, 1, 1], max_new_tokens=24)
    *_, streamed = stream(decoder, params, prompts, **options)
    first = batch._replace(tokens=batch.tokens[:1], logprobs=batch.logprobs[:1])
    hot, _, drawn = with_noise([expected[0] / 2, *expected[1:]], options["seeds"], cfg.vocab_size or 0)
    scores = [hot, expected[1], drawn]
    findings = [
        against_forward("cached = uncached", expected, scores, batch, bound),
        against("alone = in a batch", scores[:1], first, Samples(*(field[:1] for field in alone)), bound),
        against("streamed = whole", scores, batch, streamed, bound),
        against(
            "pieces = whole", scores, batch, sample(decoder, params, prompts, prefill_chunk=13, **options), bound
        ),
    ]  # fmt: skip
    assert all(found.passed for found in findings), findings
    assert all(len(tokens) == 24 for tokens in batch.tokens) and sum(found.tokens for found in findings) > 150


@pytest.mark.parametrize("cache", [None, pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [name if name == FIRST[0] else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_the_server_gives_what_the_sampler_gives(name: str, cache: str | None, monkeypatch) -> None:
    """Rows join and leave few slots, and the cache grows and shrinks with them, rings and scales included."""
    monkeypatch.setattr(slots, "SHORTEST", 16)
    cfg, params, _ = model(name)
    decoder = decoder_for(cfg, NUM_IDS, cache)
    kind = "int8 cache" if cache else cfg.compute_dtype
    prompts = [np.asarray(prompt, np.int32) for prompt in prompts_of(3, 20, 9)]
    for new in (6, 24):  # two of the first three fit into the shorter cache
        batch = sample(decoder, params, prompts, sampling=GREEDY, max_new_tokens=new)
        expected = forward_logprobs(cfg, params, NUM_IDS, prompts, batch)
        found = against("server", expected, batch, served(decoder, params, prompts, new), BOUNDS[kind])
        assert found.passed and found.tokens >= new, found


def test_a_row_does_not_feel_its_batch() -> None:
    """A prompt with its seed gives the same ids alone, among longer ones, in another row, and in turns."""
    _, params, decoder = model("rotary_gqa_window_softcap")
    prompts, seeds = prompts_of(2, 20, 11), [5, 6, 7]
    draw = Sampling(temperature=1.3, top_p=0.95, repetition_penalty=1.2)
    whole = sample(decoder, params, prompts, sampling=draw, seeds=seeds, max_new_tokens=12)
    alone = sample(decoder, params, prompts[:1], sampling=draw, seeds=seeds[:1], max_new_tokens=12)
    np.testing.assert_array_equal(alone.tokens[0], whole.tokens[0])
    np.testing.assert_allclose(alone.logprobs[0], whole.logprobs[0], atol=LOGPROB_CLOSE)
    turns = sample(
        decoder, params, prompts[::-2], sampling=draw, seeds=seeds[::-2], max_new_tokens=12, max_rows=1, pad_id=3
    )
    for a, b in zip(turns.tokens, whole.tokens[::-2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_name_streams() -> None:
    """A seed repeats itself, seeds differ, a base seed gives each row its own stream, and a longer answer only adds."""
    decoder, table, prompts = table_decoder(), jnp.zeros((8, 8)), [[1]] * 4
    a = sample(decoder, table, prompts, seeds=3, max_new_tokens=20).tokens
    b = sample(decoder, table, prompts, seeds=np.int64(3), max_new_tokens=np.int32(30)).tokens
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y[:20])
    assert len({tuple(x) for x in a}) == 4
    other = sample(decoder, table, prompts, seeds=[3, 4, 3, 2**32 - 1], max_new_tokens=20).tokens
    np.testing.assert_array_equal(other[0], a[0])
    np.testing.assert_array_equal(other[2], a[0])
    assert len({tuple(x) for x in other}) == 3


def test_frequencies_follow_the_filtered_distribution() -> None:
    """Drawn ids pass a chi-square test against softmax(logits / temperature) cut to top-k; no other is drawn."""
    logits_V = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -4.0, 1.5])
    table = jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32)[None, :], (8, 8))
    draw = Sampling(temperature=1.4, top_k=5)
    got = sample(table_decoder(), table, [[1]] * 400, sampling=draw, seeds=11, max_new_tokens=20)
    counts = Counter(np.concatenate(got.tokens).tolist())
    keep = [0, 7, 1, 2, 3]
    assert set(counts) == set(keep)
    weights = np.exp(logits_V[keep] / 1.4)
    expected = 400 * 20 * weights / weights.sum()
    assert scipy.stats.chisquare([counts[i] for i in keep], expected).pvalue > UNLIKELY
    raw_V = logits_V - np.log(np.exp(logits_V).sum())  # logprobs know neither temperature nor filters
    np.testing.assert_allclose(got.logprobs[0], raw_V[got.tokens[0]], atol=1e-5)


def test_neighbouring_steps_and_rows_are_independent() -> None:
    """Pairs of ids from successive steps, and from successive rows, are uniform over all pairs."""
    tokens = np.stack(
        sample(table_decoder(), jnp.zeros((8, 8)), [[1]] * 256, seeds=0, max_new_tokens=32).tokens
    )  # fmt: skip
    for pairs in (tokens[:, :-1] * 8 + tokens[:, 1:], tokens[:-1] * 8 + tokens[1:]):
        assert scipy.stats.chisquare(np.bincount(pairs[:, ::2].ravel(), minlength=64)).pvalue > UNLIKELY


def test_rows_of_one_batch_have_their_own_sampling() -> None:
    """Greedy, top-1 and free rows stand side by side, and a free one gives the same in another row."""
    decoder, table = table_decoder(), counting_table() / 6
    samplings = [GREEDY, Sampling(top_k=1), Sampling(temperature=3.0)]
    got = sample(decoder, table, [[1]] * 3, sampling=samplings, seeds=[1, 2, 3], max_new_tokens=10).tokens
    expected = [(2 + i) % 8 for i in range(10)]
    assert got[0].tolist() == got[1].tolist() == expected
    moved = sample(decoder, table, [[1]] * 3, sampling=samplings[::-1], seeds=[3, 8, 9], max_new_tokens=10).tokens
    assert got[2].tolist() == moved[0].tolist() != expected


def test_stop_ids_end_a_row_and_are_left_out() -> None:
    """A row ends at the first of its stop ids, at once if need be; the others go on to the limit."""
    got = sample(
        table_decoder(), counting_table(), [[1], [4], [6]], sampling=GREEDY, max_new_tokens=4, stop_ids=(5, 7)
    )  # fmt: skip
    assert [t.tolist() for t in got.tokens] == [[2, 3, 4], [], []]
    assert got.finished == ["stop", "stop", "stop"]
    got = sample(table_decoder(), counting_table(), [[1], [4]], sampling=GREEDY, max_new_tokens=3, stop_ids=(5,))
    assert [t.tolist() for t in got.tokens] == [[2, 3, 4], []]
    assert got.finished == ["length", "stop"]
    assert [p.shape for p in got.logprobs] == [(3,), (0,)]


def test_the_loop_ends_when_all_rows_are_done() -> None:
    """The model is called no further once every row has stopped: the work follows the answers, not the limit."""
    calls = []

    def apply(params, tokens_BS, positions_BS, cache, index_B):
        jax.debug.callback(lambda: calls.append(1))
        return params[jnp.take_along_axis(tokens_BS, index_B[:, None], axis=1)[:, 0]], cache

    decoder = Decoder(apply, lambda batch, length: (), 8, 64)
    sample(decoder, counting_table(), [[1], [2]], sampling=GREEDY, max_new_tokens=40, stop_ids=(5,))
    jax.effects_barrier()
    assert len(calls) == 4  # prefill chooses 2, then 3, 4 and 5 need one call each
    calls.clear()
    sample(decoder, counting_table(), [[1]], sampling=GREEDY, max_new_tokens=3)
    jax.effects_barrier()
    assert len(calls) == 3  # the last token is never fed


def test_padding_ids_are_never_generated() -> None:
    """Ids from num_ids up only pad the logits: a model that prefers them gets its best real id, and honest logprobs."""
    table = jnp.zeros((8, 8)).at[:, 6:].set(50.0).at[:, 2].set(1.0)
    got = sample(table_decoder(num_ids=6), table, [[1]], sampling=GREEDY, max_new_tokens=5)
    assert got.tokens[0].tolist() == [2] * 5
    np.testing.assert_allclose(got.logprobs[0], 1 - np.log(5 + np.e), atol=1e-5)


def test_phases_give_a_picture_of_exact_length_and_then_its_end() -> None:
    """Image ids for 20 tokens, then the end id, whatever the model prefers and however the row is sampled."""
    _, params, decoder = model("gpt2")
    allowed = Allowed.phases([(range(20, 29), 20), ((7,), None)], NUM_IDS)
    for limit, finished in ((24, "stop"), (20, "length")):
        got = sample(
            decoder,
            params,
            prompts_of(4, 9),
            sampling=[GREEDY, Sampling(temperature=2.0)],
            max_new_tokens=limit,
            allowed=allowed,
            stop_ids=(7,),
        )
        assert got.finished == [finished] * 2
        for tokens, logprobs in zip(got.tokens, got.logprobs, strict=True):
            assert tokens.shape == logprobs.shape == (20,) and tokens.min() >= 20


def test_phases_may_differ_by_row_and_follow_their_prompts() -> None:
    """With one row of groups a prompt, each prompt keeps its own when rows are sorted by length and taken in turns."""
    table_GV = np.eye(4, 8, dtype=bool)
    allowed = Allowed(table_GV, np.array([[0, 1], [2, 3], [3, 2], [1, 0]], np.int32))
    prompts = [[1] * 5, [1], [1] * 3, [1] * 2]
    got = sample(
        table_decoder(), jnp.zeros((8, 8)), prompts, sampling=GREEDY, max_new_tokens=3, allowed=allowed, max_rows=2
    )  # fmt: skip
    assert [t.tolist() for t in got.tokens] == [[0, 1, 1], [2, 3, 3], [3, 2, 2], [1, 0, 0]]


def test_repetition_penalty_counts_prompt_and_output_but_no_padding() -> None:
    """Greedy decoding with a penalty equals a loop in NumPy over ragged prompts; id 0, which pads, stays unseen."""
    rng = np.random.default_rng(4)
    table = rng.normal(0.5, 1, (8, 8)).astype(np.float32)
    prompts, penalty = [[1], [2, 3, 4], [5, 5, 6, 7, 1]], 1.7
    got = sample(
        table_decoder(),
        jnp.asarray(table),
        prompts,
        sampling=Sampling(temperature=0.0, repetition_penalty=penalty),
        max_new_tokens=12,
    )
    plain = sample(table_decoder(), jnp.asarray(table), prompts, sampling=GREEDY, max_new_tokens=12)
    for prompt, tokens in zip(prompts, got.tokens, strict=True):
        row = list(prompt)
        for _ in range(12):
            logits = table[row[-1]].copy()
            for i in set(row):
                logits[i] = logits[i] / penalty if logits[i] > 0 else logits[i] * penalty
            row.append(int(logits.argmax()))
        assert tokens.tolist() == row[len(prompt) :]
    assert any(a.tolist() != b.tolist() for a, b in zip(got.tokens, plain.tokens, strict=True))


def test_other_values_compile_nothing() -> None:
    """Within a bucket other prompts, lengths, row counts, seeds, values, stops and masks reuse what is compiled."""
    traces: list = []
    decoder, table = table_decoder(traces=traces), counting_table()
    first = {"sampling": Sampling(top_k=3), "seeds": 0, "max_new_tokens": 5, "stop_ids": (3,)}
    sample(decoder, table, [[1], [2, 3], [4]], **first)
    compiled = len(traces)
    assert set(traces) == {(4, 16), (4, 1)}
    with Programs() as programs:
        sample(
            decoder, table, [[1, 2, 3, 4, 5], [1], [2], [3]], **{**first, "max_new_tokens": 16, "seeds": [1, 2, 3, 4]}
        )
        sample(
            decoder,
            table,
            [[7] * 16, [7], [6]],
            **{**first, "sampling": Sampling(temperature=0.3, top_p=0.4, min_p=0.1)},
        )
        prompts = [[7] * n for n in (9, 2, 3, 4)]
        sample(decoder, table, prompts, **{**first, "stop_ids": ()}, allowed=Allowed.phases([((1, 2), None)], 8))
    assert len(traces) == compiled and programs.count == 0
    sample(decoder, table, [[7] * 9] * 4, **first)
    assert traces[compiled:] == [(1, 16)]  # a prefill that rows share, and no other loop
    assert decoder_for(model("gpt2")[0], NUM_IDS) is decoder_for(model("gpt2")[0], NUM_IDS)


def test_sizes_are_capped_by_the_context() -> None:
    """A prompt and an answer that fill the context exactly fit, although their buckets do not."""
    _, params, decoder = model("gpt2")
    for length in (47, 2):
        got = sample(decoder, params, prompts_of(length), max_new_tokens=48 - length, sampling=GREEDY)
        assert got.tokens[0].shape == (48 - length,)


def test_sampling_moves_nothing_implicitly() -> None:
    """The training loop forbids implicit transfers; sampling from within it is allowed."""
    _, params, decoder = model("gpt2")
    table = counting_table()
    with jax.transfer_guard("disallow"):
        sample(decoder, params, prompts_of(3), max_new_tokens=3, sampling=GREEDY)
        drawn = sample(table_decoder(), table, [[1]], max_new_tokens=3, sampling=Sampling(top_k=2), stop_ids=(1,))
    assert len(drawn.tokens) == 1


def test_unstacked_parameters_and_no_prompts_are_served() -> None:
    """A caller may unstack once; an empty list gives empty lists."""
    _, params, decoder = model("gpt2")
    a = sample(decoder, params, prompts_of(5), max_new_tokens=8, sampling=GREEDY)
    b = sample(decoder, gpt.unstack(params), [np.asarray(prompts_of(5)[0])], max_new_tokens=8, sampling=GREEDY)
    np.testing.assert_array_equal(a.tokens[0], b.tokens[0])
    assert sample(decoder, params, [], max_new_tokens=8) == ([], [], [], [], [])


def two_tables_decoder(width: int = 8) -> Decoder:
    """Return a decoder with one table of logits for rows whose first token is 0 and another for those that begin with 1."""

    def apply(tables_2VV, tokens_BS, positions_BS, cache, index_B):
        first_B = jnp.where(positions_BS[:, 0] == 0, tokens_BS[:, 0], cache)
        last_B = jnp.take_along_axis(tokens_BS, index_B[:, None], axis=1)[:, 0]
        return tables_2VV[first_B, last_B], first_B

    return Decoder(apply, lambda batch, length: jnp.zeros(batch, jnp.int32), width, 64)


def test_guidance_draws_from_the_mixed_logits_and_reports_the_conditional_ones() -> None:
    """Greedy guided rows follow u + scale (c - u) of a NumPy loop, whatever the lengths of the two prompts."""
    tables = np.random.default_rng(3).normal(size=(2, 8, 8)).astype(np.float32)
    c, u = tables
    prompts, without = [[0, 5], [0, 2, 3, 3, 6], [0, 4, 7]], [[1, 5], [1, 6], [1, 2, 2, 2, 2, 7]]
    scales = [4.0, 0.0, 1.0]
    got = sample(
        two_tables_decoder(),
        jnp.asarray(tables),
        prompts,
        unconditional=without,
        sampling=[Sampling(temperature=0.0, guidance=scale) for scale in scales],
        max_new_tokens=9,
        max_rows=4,
    )
    for prompt, scale, tokens, logprobs in zip(prompts, scales, got.tokens, got.logprobs, strict=True):
        last = prompt[-1]
        for token, logprob in zip(tokens, logprobs, strict=True):
            assert token == (u[last] + scale * (c[last] - u[last])).argmax()
            assert logprob == pytest.approx(c[last, token] - np.log(np.exp(c[last]).sum()), abs=1e-5)
            last = token


def test_a_schedule_starts_at_the_models_own_logits_and_ends_at_the_scale() -> None:
    """Greedy rows over five tokens with a linear schedule up to 5 take the scales 1, 2, 3, 4, 5."""
    tables = np.random.default_rng(5).normal(size=(2, 8, 8)).astype(np.float32)
    rising = Sampling(temperature=0.0, guidance=5.0, guidance_schedule="linear")
    got = sample(
        two_tables_decoder(), jnp.asarray(tables), [[0, 3]], unconditional=[[1, 3]], sampling=rising, max_new_tokens=5
    )
    last = 3
    for scale, token in zip((1, 2, 3, 4, 5), got.tokens[0], strict=True):
        assert token == (tables[1, last] + scale * (tables[0, last] - tables[1, last])).argmax()
        last = token


def test_a_scale_of_nothing_is_the_unconditional_model_and_one_beside_it_the_plain_one() -> None:
    """In a real model with ragged prompts: scale 0 draws what the other prompt alone draws, scale 1 what its own does."""
    _, params, decoder = model("rotary_gqa_window_softcap")
    prompts, without, seeds = prompts_of(9, 4, 13), prompts_of(3, 6, 2), [7, 8, 9]
    scales = [0.0, 1.0, 2.5]
    guided = sample(
        decoder,
        params,
        prompts,
        unconditional=without,
        sampling=[Sampling(guidance=scale) for scale in scales],
        seeds=seeds,
        max_new_tokens=12,
    )
    alone = sample(decoder, params, [without[0], *prompts[1:]], seeds=seeds, max_new_tokens=12)
    np.testing.assert_array_equal(guided.tokens[0], alone.tokens[0])
    np.testing.assert_array_equal(guided.tokens[1], alone.tokens[1])
    np.testing.assert_allclose(guided.logprobs[1], alone.logprobs[1], atol=LOGPROB_CLOSE)
    assert guided.tokens[2].tolist() != alone.tokens[2].tolist()


def test_an_unconditional_row_that_is_not_finite_is_an_error() -> None:
    """The row that a caller never sees is watched as well."""
    tables = jnp.zeros((2, 8, 8)).at[1].set(jnp.nan)
    with pytest.raises(FloatingPointError, match="1 of 1 rows"):
        sample(
            two_tables_decoder(), tables, [[0]], unconditional=[[1]], sampling=Sampling(guidance=2.0), max_new_tokens=2
        )  # fmt: skip


def test_logits_that_are_not_finite_are_an_error() -> None:
    """A diverged model is reported instead of giving id 0 for ever."""
    with pytest.raises(FloatingPointError, match="1 of 1 rows are not finite.*earlier checkpoint"):
        sample(table_decoder(), jnp.full((8, 8), jnp.nan), [[1]], sampling=GREEDY, max_new_tokens=2)


@pytest.mark.parametrize(
    ("prompts", "options", "value", "fix"),
    [
        ([[1], []], {}, "prompt 1 has 0 tokens", "at least one"),
        ([[1] * 70], {}, "70 tokens, model.context_length is 64", "by at least 7 tokens"),
        ([[1] * 61], {}, "together 66", "--max-new-tokens 4 at most"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0", "raise --max-new-tokens"),
        ([[1], [2, 6]], {}, "prompt 1 holds ids 2 to 6", "0 to 5"),
        ([[-1]], {}, "ids -1 to -1", "0 to 5"),
        ([np.array([0.5])], {}, "float64", "encode it"),
        ([np.array(1), np.array(2)], {}, "prompt 0 has 0 dimensions", "in []"),
        ([[1]], {"stop_ids": (6,)}, "stop_ids holds 6", "0 to 5"),
        ([[1]], {"pad_id": 8}, "pad_id holds 8", "0 to 5"),
        ([[1]], {"seeds": [1, 2]}, "seeds has 2 entries for 1 prompts", "one a row"),
        ([[1]], {"seeds": -1}, "seed is -1", "--seed"),
        ([[1]], {"sampling": [GREEDY] * 3}, "sampling has 3 entries for 1 prompts", "one a row"),
        ([[1]], {"max_rows": 0}, "max_rows is 0", "at least 1"),
        ([[1]], {"sampling": Sampling(guidance=2.0)}, "only one is given", "as `unconditional`"),
        ([[1]], {"unconditional": [[1]]}, "guidance is 1 in every row", "leave them out"),
        ([[1]], {"unconditional": [], "sampling": Sampling(guidance=2.0)}, "unconditional has 0 entries", "a prompt"),
        ([[1]], {"unconditional": [[7]], "sampling": Sampling(guidance=2.0)}, "unconditional prompt 0 holds", "0 to 5"),
        ([[1]], {"allowed": Allowed.phases([((1,), None)], 8)}, "8 ids wide", "6 ids"),
        ([[1]], {"allowed": Allowed(np.ones((1, 6), bool), np.zeros((3, 1), int))}, "3 rows for 1", "one a prompt"),
    ],
)
def test_errors_name_value_and_fix(prompts: list, options: dict, value: str, fix: str) -> None:
    """Each mistake is refused before anything compiles."""
    with pytest.raises(ValueError) as error:
        sample(table_decoder(num_ids=6), jnp.zeros((8, 8)), prompts, **{"max_new_tokens": 5, **options})
    assert value in str(error.value) and fix in str(error.value)


def test_an_unresolved_config_is_refused() -> None:
    """The decoder needs the vocabulary and the type of compute."""
    with pytest.raises(ValueError, match="vocab_size is None.*gpt.resolve"):
        decoder_for(ModelConfig())
    with pytest.raises(ValueError, match="num_ids is 40.*Vocabulary.size"):
        decoder_for(model("gpt2")[0], 40)


def test_a_shared_prefill_gives_what_ones_own_does() -> None:
    """Equal prompts that are computed once change no ids, and their rows are drawn apart."""
    _, params, decoder = model("rotary_gqa_window_softcap")
    prompts = prompts_of(3, 20, 9)
    whole = sample(decoder, params, prompts, max_new_tokens=24, seeds=[1, 2, 3])
    shared = sample(decoder, params, [prompts[1]] * 4, max_new_tokens=24, seeds=[2, 5, 2, 7])
    np.testing.assert_array_equal(shared.tokens[0], whole.tokens[1])
    np.testing.assert_array_equal(shared.tokens[2], whole.tokens[1])
    assert (shared.tokens[1] != shared.tokens[3]).any()


def test_equal_prompts_are_fed_once() -> None:
    traces: list = []
    sample(table_decoder(traces=traces), counting_table(), [[1, 2]] * 7 + [[3]], max_new_tokens=3)
    assert set(traces) == {(2, 16), (8, 1)}


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_stream_grows_into_the_sample(every: int) -> None:
    """Each value begins the next, the first holds one token a row, and the last is what `sample` returns, stops included."""
    decoder, table = table_decoder(), counting_table() / 4
    prompts, options = [[1], [4, 2], [6]], {"max_new_tokens": 20, "seeds": 3, "stop_ids": (5,), "top": 2}
    whole = sample(decoder, table, prompts, **options)
    values = list(stream(decoder, table, prompts, every=every, **options))
    assert max(map(len, values[0].tokens)) <= 1
    for before, after in zip(values, values[1:], strict=False):
        assert all(b[: len(a)].tolist() == a.tolist() for a, b in zip(before.tokens, after.tokens, strict=True))
    last = values[-1]
    assert last.finished == whole.finished and "stop" in whole.finished
    for i in range(3):
        np.testing.assert_array_equal(last.tokens[i], whole.tokens[i])
        np.testing.assert_array_equal(last.logprobs[i], whole.logprobs[i])
        np.testing.assert_array_equal(last.top[i][0], whole.top[i][0])


def test_until_ends_a_row_as_a_stop_does_and_leaves_the_others() -> None:
    decoder, table = table_decoder(context=128), counting_table()
    got = sample(
        decoder, table, [[1], [4]], sampling=GREEDY, max_new_tokens=40, until=lambda i, ids: i == 0 and len(ids) >= 10
    )
    assert got.finished == ["stop", "length"]
    assert 10 <= len(got.tokens[0]) < 40 and len(got.tokens[1]) == 40
    assert got.tokens[0].tolist() == [(2 + t) % 8 for t in range(len(got.tokens[0]))]


def test_the_most_probable_ids_are_reported_in_order() -> None:
    """Ids and log-probabilities of the best three equal a sort of the table's softmax over the allowed ids."""
    table = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)
    allowed = Allowed.phases([((0, 2, 3, 5, 7), None)], num_ids=8)
    got = sample(table_decoder(), jnp.asarray(table), [[1], [2, 3]], max_new_tokens=6, seeds=1, top=3, allowed=allowed)
    for prompt, tokens, (ids, logprobs), chosen in zip([[1], [2, 3]], got.tokens, got.top, got.logprobs, strict=True):
        last = [prompt[-1], *tokens[:-1]]
        for t, before in enumerate(last):
            row = np.full(8, -np.inf)
            row[[0, 2, 3, 5, 7]] = table[before][[0, 2, 3, 5, 7]]
            row -= np.log(np.exp(row).sum())
            order = np.argsort(-row)[:3]
            assert ids[t].tolist() == order.tolist()
            np.testing.assert_allclose(logprobs[t], row[order], atol=1e-5)
            np.testing.assert_allclose(chosen[t], row[tokens[t]], atol=1e-5)


def test_count_penalties_and_biases_act_as_a_loop_in_numpy_does() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(0.5, 1, (8, 8)).astype(np.float32)
    draw = Sampling(temperature=0.0, presence_penalty=0.6, frequency_penalty=0.35, logit_bias=((2, 1.5), (6, -3.0)))
    got = sample(table_decoder(), jnp.asarray(table), [[1], [5, 5, 5, 2]], sampling=draw, max_new_tokens=14)
    for prompt, tokens in zip([[1], [5, 5, 5, 2]], got.tokens, strict=True):
        row: list[int] = []
        for _ in range(14):
            logits = table[(prompt + row)[-1]].copy()
            for i, n in Counter(row).items():
                logits[i] -= 0.6 + 0.35 * n
            logits[2] += 1.5
            logits[6] -= 3.0
            row.append(int(logits.argmax()))
        assert tokens.tolist() == row


def test_no_stop_before_the_least_number_of_tokens() -> None:
    """Id 5, which stops, would come third; it may come only when four have been drawn, or where nothing else is allowed."""
    table = counting_table()
    draw = Sampling(temperature=0.0, min_new_tokens=4)
    got = sample(table_decoder(), table, [[2]], sampling=draw, max_new_tokens=30, stop_ids=(5,))
    plain = sample(table_decoder(), table, [[2]], sampling=GREEDY, max_new_tokens=30, stop_ids=(5,))
    assert plain.tokens[0].tolist() == [3, 4] and len(got.tokens[0]) >= 4 and 5 not in got.tokens[0]
    only = Allowed.phases([((5,), None)], num_ids=8)
    stopped = sample(table_decoder(), table, [[2]], sampling=draw, max_new_tokens=8, stop_ids=(5,), allowed=only)
    assert stopped.finished == ["stop"]
    with pytest.raises(ValueError, match="min_new_tokens is 4, max_new_tokens 3"):
        sample(table_decoder(), table, [[2]], sampling=draw, max_new_tokens=3)
