"""Filters against plain NumPy references written from the papers, one row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jgpt import filters
from jgpt.filters import Sampling

BOUNDARY = 1e-4  # distance of a cumulative probability or threshold from its limit below which f32 may decide otherwise
CLOSE = 1e-5  # relative error of a few f32 operations
V = 24

# multiples of 1/32 in [-8, 8]: ties are frequent, and moving the largest to 0 rounds nothing
rows = st.lists(st.integers(-256, 256), min_size=V, max_size=V).map(lambda row: np.array(row, np.float32) / 32)


def kept(logits_BV) -> np.ndarray:
    """Return true where an id may still be drawn."""
    return ~np.isneginf(np.asarray(logits_BV))


def softmax(row: np.ndarray) -> np.ndarray:
    """Return probabilities in f64."""
    weights = np.exp(row.astype(np.float64) - row.max())
    return weights / weights.sum()


def run(samplings: list[Sampling], logits_BV: np.ndarray, seen_BV: np.ndarray | None = None) -> np.ndarray:
    """Filter one batch with one `Sampling` a row."""
    knobs = jax.tree.map(jnp.asarray, filters.knobs_of(samplings))
    written = None if seen_BV is None else written_of(seen_BV)
    return np.asarray(filters.filter_logits(jnp.asarray(logits_BV), knobs, written, filters.stages_of(samplings)))


def written_of(seen_BV: np.ndarray) -> filters.Written:
    """Return ids that all stand in the prompt."""
    return filters.Written(jnp.asarray(seen_BV), jnp.zeros(np.shape(seen_BV), jnp.int32))


@given(rows, st.integers(1, 2 * V))
@settings(max_examples=60, deadline=None)
def test_top_k_keeps_the_k_largest_and_their_ties(row: np.ndarray, k: int) -> None:
    """Top-k keeps what is at least as large as the k-th largest."""
    limit = np.sort(row)[::-1][min(k, V) - 1]
    got = kept(run([Sampling(top_k=k)], row[None]))[0]
    np.testing.assert_array_equal(got, row >= limit)


@given(rows, st.floats(0.05, 0.99))
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_the_smallest_nucleus(row: np.ndarray, p: float) -> None:
    """Top-p takes ids in falling order until they hold p; ids that tie with the last one stay."""
    probability = softmax(row)
    order = np.argsort(-probability, kind="stable")
    sums = np.cumsum(probability[order])
    assume(np.abs(sums - p).min() > BOUNDARY)
    nucleus = order[: int((sums < p).sum()) + 1]
    got = kept(run([Sampling(top_p=p)], row[None]))[0]
    np.testing.assert_array_equal(got, row >= row[nucleus].min())


@given(rows, st.floats(0, 0.99), st.floats(0.3, 3))
@settings(max_examples=60, deadline=None)
def test_min_p_scales_its_limit_with_the_best_id(row: np.ndarray, p: float, temperature: float) -> None:
    """Min-p drops ids less probable than p times the best, after the temperature."""
    probability = softmax(row / np.float64(temperature))
    share = probability / probability.max()
    assume(np.abs(share - p).min() > BOUNDARY)
    got = kept(run([Sampling(min_p=p, temperature=temperature)], row[None]))[0]
    np.testing.assert_array_equal(got, share >= p)


@given(rows, st.lists(st.booleans(), min_size=V, max_size=V), st.floats(0.5, 2))
@settings(max_examples=60, deadline=None)
def test_repetition_penalty_moves_seen_ids_whatever_their_sign(row: np.ndarray, seen: list, penalty: float) -> None:
    """Seen positive logits are divided, seen negative ones multiplied, others untouched."""
    expected = row.copy()
    for i in range(V):
        if seen[i]:
            expected[i] = row[i] / penalty if row[i] > 0 else row[i] * penalty
    penalty_B = jnp.asarray([penalty], jnp.float32)
    got = filters.repetition_penalty(jnp.asarray(row)[None], jnp.asarray(seen)[None], penalty_B)
    np.testing.assert_allclose(got[0], expected, rtol=CLOSE)


@given(rows, st.floats(0.05, 20))
@settings(max_examples=60, deadline=None)
def test_temperature_divides(row: np.ndarray, temperature: float) -> None:
    """The distribution is that of logits / temperature."""
    got = run([Sampling(temperature=temperature)], row[None])[0]
    np.testing.assert_allclose(softmax(got), softmax(row / np.float64(temperature)), rtol=1e-4, atol=1e-7)


def test_filters_act_in_order_penalty_temperature_top_k_top_p_min_p() -> None:
    """All filters together equal the reference applied in the documented order, on random rows with mixed values."""
    rng = np.random.default_rng(0)
    logits_BV = rng.normal(0, 2, (64, V)).astype(np.float32)
    seen_BV = rng.random((64, V)) < 0.3
    samplings = [
        Sampling(
            temperature=float(rng.uniform(0.5, 2)),
            top_k=int(rng.integers(1, V + 1)) if rng.random() < 0.7 else None,
            top_p=float(rng.uniform(0.2, 1)) if rng.random() < 0.7 else None,
            min_p=float(rng.uniform(0, 0.3)) if rng.random() < 0.7 else None,
            repetition_penalty=float(rng.uniform(0.7, 1.5)),
        )
        for _ in range(64)
    ]
    got_BV = kept(run(samplings, logits_BV, seen_BV))
    for row, seen, s, got in zip(logits_BV.astype(np.float64), seen_BV, samplings, got_BV, strict=True):
        row = np.where(seen, np.where(row > 0, row / s.repetition_penalty, row * s.repetition_penalty), row)
        row = row / s.temperature
        if s.top_k is not None:
            row = np.where(row >= np.sort(row)[::-1][s.top_k - 1], row, -np.inf)
        if s.top_p is not None:
            order = np.argsort(-row, kind="stable")
            sums = np.cumsum(softmax(row)[order])
            row[order[int((sums < s.top_p).sum()) + 1 :]] = -np.inf
        probability = softmax(row)
        expected = (probability > 0) & (probability >= (s.min_p or 0) * probability.max())
        np.testing.assert_array_equal(got, expected)


def test_neutral_values_change_nothing() -> None:
    """A row whose filters are off keeps its distribution to the last id, beside a row that sorts and is penalised."""
    row = np.linspace(-60, 5, 4096, dtype=np.float32)  # a long tail, whose probabilities sum to 1 long before its end
    busy = Sampling(top_k=3, top_p=0.5, min_p=0.1, repetition_penalty=1.5, temperature=0.5)
    seen_BV = np.ones((2, row.size), bool)
    got = run([Sampling(top_p=1.0), busy], np.stack([row, row]), seen_BV)
    assert kept(got[0]).all() and kept(got[1]).sum() <= 3
    np.testing.assert_allclose(got[0] - got[0].max(), row - row.max(), rtol=CLOSE)


def test_ids_ruled_out_stay_ruled_out() -> None:
    """A mask of -inf survives every filter and extreme temperatures, and its ids do not count towards top-k."""
    row = np.where(np.arange(V) % 3 == 0, np.arange(V), -np.inf).astype(np.float32)
    for s in (
        Sampling(top_k=V),
        Sampling(top_p=0.999),
        Sampling(temperature=1e6),
        Sampling(temperature=1e-30),
        Sampling(repetition_penalty=0.5, temperature=0.0),
    ):
        got = run([s], row[None], np.ones((1, V), bool))
        assert not np.isnan(got).any() and kept(got).any() and not kept(got)[0, np.arange(V) % 3 != 0].any(), s


def test_greedy_takes_the_first_of_the_largest_whatever_the_key() -> None:
    """Temperature 0 is argmax after the penalty, also in a batch where other rows are drawn."""
    logits_BV = jnp.asarray([[0.0, 3.0, 3.0, 1.0], [0.0, 3.0, 2.9, 1.0], [0.0, 0.0, 0.0, 0.0]])
    samplings = [Sampling(temperature=0.0), Sampling(temperature=0.0, repetition_penalty=2.0), Sampling()]
    seen_BV = jnp.asarray([[True] * 4, [False, True, False, False], [False] * 4])
    knobs = jax.tree.map(jnp.asarray, filters.knobs_of(samplings))
    draw = jax.jit(
        lambda keys_B: filters.draw(logits_BV, keys_B, knobs, written_of(seen_BV), filters.stages_of(samplings))
    )
    for seed in range(5):
        got_B = draw(jax.random.split(jax.random.key(seed), 3))
        assert got_B[:2].tolist() == [1, 2]


def test_stages_name_only_the_work_that_is_needed() -> None:
    """Greedy rows need neither sorting nor noise, plain ones no sorting, and min-p never sorts."""
    assert filters.stages_of([Sampling(temperature=0.0, top_k=5)]) == (False, False, False, False, False, 0)
    assert filters.stages_of([Sampling(min_p=0.1, top_p=1.0)]) == (False, False, True, False, False, 0)
    assert filters.stages_of([Sampling(), Sampling(top_k=5)]) == (False, True, True, False, False, 0)
    assert filters.stages_of([Sampling(repetition_penalty=1.1, temperature=0.0)]) == (
        True,
        False,
        False,
        False,
        False,
        0,
    )
    assert filters.stages_of([Sampling(), Sampling(guidance=2.0)]) == (False, False, True, True, False, 0)


def test_guidance_mixes_logits_by_its_scale() -> None:
    """u + scale (c - u) row by row: 0 gives u and 1 gives c to the bit, 3 goes twice as far again beyond c."""
    rng = np.random.default_rng(0)
    c, u = (jnp.asarray(rng.normal(size=(3, V)), jnp.float32) for _ in range(2))
    out = np.asarray(filters.guide(c, u, jnp.asarray([0.0, 1.0, 3.0])))
    np.testing.assert_array_equal(out[0], u[0])
    np.testing.assert_array_equal(out[1], c[1])
    np.testing.assert_allclose(out[2], 3 * np.asarray(c[2]) - 2 * np.asarray(u[2]), atol=1e-5)


def test_guidance_schedules_run_from_one_to_the_scale() -> None:
    """Five tokens with scale 5: constant, in steps of 1, and along half a cosine; a single token has no way to go."""
    rows = [Sampling(guidance=5.0, guidance_schedule=name) for name in ("constant", "linear", "cosine")]
    knobs = filters.knobs_of(rows)
    scales = np.stack([filters.guidance_scale(knobs, jnp.full(3, step), jnp.full(3, 5)) for step in range(5)], 1)
    np.testing.assert_allclose(scales[0], [5, 5, 5, 5, 5])
    np.testing.assert_allclose(scales[1], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(scales[2], [1, 3 - 2 * 2**0.5 / 2, 3, 3 + 2 * 2**0.5 / 2, 5], rtol=1e-6)
    np.testing.assert_allclose(
        filters.guidance_scale(knobs, jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.int32)), [5, 1, 1]
    )


def test_other_values_compile_nothing() -> None:
    """Values are data: one compiled function serves every temperature, k and p."""
    traces = []

    @jax.jit
    def compiled(logits_BV, knobs):
        traces.append(1)
        return filters.filter_logits(logits_BV, knobs, None, filters.Stages(False, True, True))

    for s in (Sampling(top_k=3), Sampling(top_p=0.4, temperature=2.0), Sampling(min_p=0.3, top_k=7), Sampling()):
        compiled(jnp.ones((1, V)), filters.knobs_of([s]))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("fields", "value", "fix"),
    [
        ({"guidance": -1.0}, "guidance is -1.0", "--guidance 1"),
        ({"guidance": float("nan")}, "nan", "--guidance 1"),
        ({"guidance_schedule": "linear"}, "'linear' but guidance is 1", "set --guidance"),
        ({"temperature": -0.5}, "-0.5", "--temperature 0"),
        ({"temperature": float("nan")}, "nan", "--temperature 0"),
        ({"temperature": float("inf")}, "inf", "--temperature 0"),
        ({"top_k": 0}, "top_k is 0", "drop --top-k"),
        ({"top_p": 0.0}, "top_p is 0.0", "drop --top-p"),
        ({"top_p": 1.5}, "top_p is 1.5", "drop --top-p"),
        ({"min_p": 1.0}, "min_p is 1.0", "drop --min-p"),
        ({"min_p": -0.1}, "min_p is -0.1", "drop --min-p"),
        ({"min_p": float("nan")}, "min_p is nan", "drop --min-p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0", "--repetition-penalty 1"),
        ({"repetition_penalty": float("nan")}, "nan", "--repetition-penalty 1"),
    ],
)
def test_errors_name_value_and_fix(fields: dict, value: str, fix: str) -> None:
    """A value that cannot be meant is refused where it is written."""
    with pytest.raises(ValueError) as error:
        Sampling(**fields)
    assert value in str(error.value) and fix in str(error.value)


@given(rows, st.lists(st.integers(0, 4), min_size=V, max_size=V), st.floats(-2, 2), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_presence_and_frequency_count_the_output_alone(
    row: np.ndarray, uses: list[int], presence: float, frequency: float
) -> None:
    """OpenAI's rule: uses x frequency, and presence once; what stands in the prompt alone costs nothing."""
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    written = filters.Written(jnp.ones((1, V), bool), jnp.asarray([uses], jnp.int32))
    knobs = jax.tree.map(jnp.asarray, filters.knobs_of([sampling]))
    stages = filters.stages_of([sampling])._replace(penalty=True)
    got = np.asarray(filters.filter_logits(jnp.asarray(row[None]), knobs, written, stages))[0]
    wanted = row - np.float32(frequency) * np.array(uses) - np.float32(presence) * (np.array(uses) > 0)
    np.testing.assert_allclose(got - got.max(), wanted - wanted.max(), atol=1e-4)


@given(rows, st.floats(0.05, 0.99))
@settings(max_examples=60, deadline=None)
def test_typical_p_keeps_the_most_typical_ids(row: np.ndarray, p: float) -> None:
    """Meister et al. 2022: ids in order of how far their surprise lies from the entropy, until they hold p."""
    probability = softmax(row)
    far = np.abs(-np.log(probability) + (probability * np.log(probability)).sum())
    order = np.argsort(far, kind="stable")
    sums = np.cumsum(probability[order])
    assume(np.abs(sums - p).min() > BOUNDARY)
    last = far[order][int((sums < p).sum())]
    assume(np.abs(far - last)[far != last].min(initial=1.0) > BOUNDARY)  # f32 may order what nearly ties otherwise
    got = kept(run([Sampling(typical_p=p)], row[None]))[0]
    np.testing.assert_array_equal(got, far <= last + BOUNDARY / 2)


def test_biases_move_their_ids_alone_and_rows_may_have_different_numbers() -> None:
    biased = run(
        [Sampling(logit_bias=((1, 100.0), (3, -2.0))), Sampling(), Sampling(logit_bias=((0, 1.5),))], np.zeros((3, V))
    )
    wanted = np.zeros((3, V))
    wanted[0, 1], wanted[0, 3], wanted[2, 0] = 100.0, -2.0, 1.5
    np.testing.assert_allclose(biased, wanted - wanted.max(-1, keepdims=True))


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"typical_p": 0.0}, "typical_p is 0.0"),
        ({"typical_p": float("nan")}, "typical_p is nan"),
        ({"presence_penalty": float("nan")}, "presence_penalty is nan"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf"),
        ({"logit_bias": ((-1, 1.0),)}, "id -1"),
        ({"logit_bias": ((1, float("nan")),)}, "adds nan to id 1"),
        ({"logit_bias": ((1, 1.0), (1, 2.0))}, "names an id twice"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
    ],
)
def test_new_values_that_cannot_be_meant_are_refused(fields: dict, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        Sampling(**fields)
